// Small things that every view needs.

export const classes = JSON.parse(document.body.dataset.classes);
export const role = document.body.dataset.role;
export const SKIP = -1;
export const IGNORE = -2;
const LETTERS = "bcdefhjklmnpqtwxy"; // those that no command uses

// The key of each class: digits for the first ten, then letters; the rest are found by typing.
export const keyOf = classes.map((_, index) => (index < 9 ? String(index + 1) : index === 9 ? "0" : LETTERS[index - 10] || ""));
export const classOf = new Map(keyOf.flatMap((key, index) => (key ? [[key, index]] : [])));

export function named(label) {
  return label === SKIP ? "can't tell" : label === IGNORE ? "none of the classes" : classes[label];
}

// An element: h("button", { class: "main", onclick: f, "aria-label": "…" }, "text", child, …)
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function picture(position, name, size = "thumb", lazy = false) {
  const image = h("img", { src: `image/${position}?size=${size}`, alt: name, draggable: "false", loading: lazy ? "lazy" : null });
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 64 && image.naturalHeight < 64));
  image.addEventListener("error", () => image.replaceWith(h("span", { class: "missing" }, name)));
  return image;
}

// The last part of a name: folders are often called like classes, and nobody is to be told.
export function short(name) {
  return name.slice(name.lastIndexOf("/") + 1);
}

export function plural(count, what) {
  return `${count} ${what}${count === 1 ? "" : "s"}`;
}

let timer = 0;
export function say(text) {
  const place = document.getElementById("say");
  place.textContent = text;
  clearTimeout(timer);
  timer = setTimeout(() => (place.textContent = ""), 2600);
}

// Classes whose name holds what was typed, those that begin with it first.
export function matches(typed) {
  const wanted = typed.trim().toLowerCase();
  const found = classes.map((name, index) => ({ index, at: name.toLowerCase().indexOf(wanted) }));
  return found.filter(({ at }) => at >= 0).sort((a, b) => (a.at > 0) - (b.at > 0) || a.index - b.index).map(({ index }) => index);
}

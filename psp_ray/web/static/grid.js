// Many images at once, in groups that look alike: deselect what is wrong, confirm the rest.

import { get, post, save, settled } from "./api.js";
import { IGNORE, SKIP, classOf, classes, h, keyOf, matches, named, picture, plural, say, short } from "./dom.js";
import { quiet } from "./quiet.js";

const AT_ONCE = 200;
const CHIPS = 12; // classes that a group offers as buttons; the rest are found by typing

// A group without an image of this round's query set: learning does not wait for it.
function waits(group) {
  return Number(group.items.every((item) => item.ahead));
}

export class Grid {
  constructor(main) {
    this.main = main;
    this.groups = [];
    this.done = new Set();
    this.drag = null;
    window.addEventListener("pointerup", () => (this.drag = null));
  }

  async open(state) {
    this.state = state;
    await this.fill();
  }

  close() {
    const positions = this.groups.flatMap((group) => group.items.map((item) => item.position)).slice(0, 400);
    post("api/give-back", { positions }).catch(() => {});
  }

  async update(state) {
    const begun = this.state.state !== state.state || this.state.round !== state.round;
    this.state = state;
    if (begun) this.done.clear();
    if (!this.groups.length) await this.fill();
  }

  async fill() {
    if (this.filling) return;
    this.filling = true;
    try {
      const { items } = await get(`api/work?n=${AT_ONCE}`);
      this.sort(items.filter((item) => !this.done.has(item.position)));
      this.since = performance.now();
      this.render();
    } catch (error) {
      say(error.message);
    } finally {
      this.filling = false;
    }
  }

  // What the round waits for comes first, then named groups; in each the surest image first.
  sort(items) {
    const groups = new Map();
    for (const item of items) {
      if (!groups.has(item.group)) groups.set(item.group, { number: item.group, name: item.suggestion, items: [], chosen: new Set() });
      groups.get(item.group).items.push(item);
    }
    this.groups = [...groups.values()].sort((a, b) => waits(a) - waits(b) || (a.name < 0) - (b.name < 0) || b.items.length - a.items.length || b.number - a.number);
    for (const group of this.groups) {
      group.items.sort((a, b) => b.probability - a.probability);
      if (group.name >= 0) for (const item of group.items) group.chosen.add(item.position);
    }
  }

  render() {
    if (!this.groups.length) return this.main.replaceChildren(quiet(this.state));
    const focused = this.focused()?.position;
    let letter = 0;
    this.main.replaceChildren(
      h("p", { class: "caption" }, this.groups.some((group) => group.name >= 0) ? "Deselect what is wrong, then confirm." : "Select images that show the same, then choose their class. Names are suggested once they have proved right."),
      ...this.groups.map((group) => this.section(group, group.name >= 0 ? classes[group.name] : `Alike, ${String.fromCharCode(65 + (letter++ % 26))}`)),
      h("div", { class: "others" }, h("button", { type: "button", onclick: () => this.undo() }, "Undo ", h("kbd", {}, "u"))));
    if (focused !== undefined) this.main.querySelector(`[data-position="${focused}"]`)?.focus();
  }

  section(group, title) {
    const count = group.chosen.size;
    const all = count === group.items.length;
    return h("section", { class: "group", "data-group": group.number, "aria-label": title },
      h("div", { class: "top" },
        h("h2", {}, `${title} · ${plural(group.items.length, "image")}`),
        h("button", { type: "button", onclick: () => this.all(group) }, all ? "Select none " : "Select all ", h("kbd", {}, "a")),
        group.name >= 0 && h("button", { type: "button", class: "main", disabled: !count, onclick: () => this.confirm(group, group.name) }, `Confirm ${count} as ${classes[group.name]} `, h("kbd", {}, "Enter"))),
      h("div", { class: count ? "tiles some" : "tiles", role: "group", "aria-label": `Images: ${title}` }, group.items.map((item) => this.tile(group, item))),
      count > 0 && this.picker(group, count));
  }

  tile(group, item) {
    return h("button", {
      type: "button", class: "tile", "data-position": item.position, "aria-pressed": String(group.chosen.has(item.position)), "aria-label": short(item.name),
      onclick: (event) => { if (event.detail === 0) this.toggle(group, item, event.shiftKey); },
      onpointerdown: (event) => {
        if (event.button !== 0) return;
        event.currentTarget.releasePointerCapture?.(event.pointerId);
        if (event.pointerType === "mouse") this.drag = { group, on: !group.chosen.has(item.position) };
        this.toggle(group, item, event.shiftKey);
      },
      onpointerenter: () => { if (this.drag?.group === group && group.chosen.has(item.position) !== this.drag.on) this.toggle(group, item, false); },
    }, picture(item.position, "", "thumb", true));
  }

  picker(group, count) {
    const others = classes.map((_, index) => index).filter((index) => index !== group.name);
    const find = h("input", {
      type: "search", placeholder: "Class: type /", "aria-label": "Class of the selected images", autocomplete: "off",
      onkeydown: (event) => { if (event.key === "Enter" && find.value.trim()) { const [first] = matches(find.value); if (first !== undefined) this.confirm(group, first); } },
    });
    return h("div", { class: "picker" }, h("span", {}, `${count} selected:`),
      others.slice(0, CHIPS).map((index) => h("button", { type: "button", onclick: () => this.confirm(group, index) }, keyOf[index] && h("kbd", {}, keyOf[index]), classes[index])),
      others.length > CHIPS && find,
      h("button", { type: "button", onclick: () => this.confirm(group, SKIP) }, "Can't tell"),
      h("button", { type: "button", onclick: () => this.confirm(group, IGNORE) }, h("kbd", {}, "i"), "None of these"));
  }

  toggle(group, item, range) {
    const on = !group.chosen.has(item.position);
    const places = group.items.map((other) => other.position);
    const [from, to] = range && this.last?.group === group ? [places.indexOf(this.last.position), places.indexOf(item.position)].sort((a, b) => a - b) : [places.indexOf(item.position), places.indexOf(item.position)];
    for (const position of places.slice(Math.max(from, 0), to + 1)) group.chosen[on ? "add" : "delete"](position);
    this.last = { group, position: item.position };
    this.refresh(group);
    this.main.querySelector(`[data-position="${item.position}"]`)?.focus();
  }

  // Only what changed: the pictures stay as they are.
  refresh(group) {
    const section = this.main.querySelector(`[data-group="${group.number}"]`);
    if (!section) return;
    for (const tile of section.querySelectorAll(".tile")) tile.setAttribute("aria-pressed", String(group.chosen.has(Number(tile.dataset.position))));
    section.querySelector(".tiles").classList.toggle("some", group.chosen.size > 0);
    const fresh = this.section(group, section.getAttribute("aria-label"));
    section.querySelector(".top").replaceWith(fresh.querySelector(".top"));
    section.querySelector(".picker")?.remove();
    const picker = fresh.querySelector(".picker");
    if (picker) section.append(picker);
  }

  all(group) {
    const all = group.chosen.size === group.items.length;
    group.chosen = new Set(all ? [] : group.items.map((item) => item.position));
    this.refresh(group);
  }

  confirm(group, label) {
    const chosen = group.items.filter((item) => group.chosen.has(item.position));
    if (!chosen.length) return say("nothing is selected");
    const seconds = (performance.now() - this.since) / 1000 / chosen.length;
    this.since = performance.now();
    const shown = chosen.filter((item) => item.suggestion >= 0).map((item) => item.position);
    for (const item of chosen) this.done.add(item.position);
    save({ answers: chosen.map((item) => ({ position: item.position, label, seconds })), shown, way: "grid" });
    group.items = group.items.filter((item) => !group.chosen.has(item.position));
    group.chosen = new Set();
    this.groups = this.groups.filter((other) => other.items.length);
    say(`${plural(chosen.length, "image")}: ${named(label)}`);
    this.render();
    (this.main.querySelector(`[data-group="${group.number}"] .tile`) || this.main.querySelector(".tile"))?.focus();
    if (!this.groups.length) this.fill();
  }

  async undo() {
    try {
      await settled();
      const { items } = await post("api/undo", {});
      if (!items.length) return say("there is nothing to take back");
      for (const item of items) this.done.delete(item.position);
      say(`${plural(items.length, "answer")} taken back`);
      const again = new Set(items.map((item) => item.position));
      this.sort([...items, ...this.groups.flatMap((group) => group.items).filter((item) => !again.has(item.position))]);
      this.render();
    } catch (error) {
      say(error.message);
    }
  }

  focused() {
    const tile = document.activeElement?.closest?.(".tile");
    if (!tile) return null;
    const position = Number(tile.dataset.position);
    const group = this.groups.find((other) => other.items.some((item) => item.position === position));
    return group ? { tile, position, group } : null;
  }

  key(event) {
    if (event.key === "u") { this.undo(); return true; }
    const here = this.focused();
    const group = here?.group || this.groups[0];
    if (!group) return false;
    if (event.key.startsWith("Arrow")) return this.move(here, event);
    if (event.key === " ") {
      if (!here) return false;
      this.toggle(group, { position: here.position }, event.shiftKey);
    } else if (event.key === "a") this.all(group);
    else if (event.key === "Enter") {
      if (document.activeElement?.matches?.("button:not(.tile)")) return false;
      if (group.name >= 0) this.confirm(group, group.name);
      else say("choose a class for what is selected");
    } else if (event.key === "i") this.confirm(group, IGNORE);
    else if (event.key === "/") this.main.querySelector(`[data-group="${group.number}"] .picker input`)?.focus();
    else if (classOf.has(event.key)) this.confirm(group, classOf.get(event.key));
    else return false;
    return true;
  }

  move(here, event) {
    const tiles = [...this.main.querySelectorAll(".tile")];
    if (!here) { tiles[0]?.focus(); return true; }
    const at = tiles.indexOf(here.tile);
    const box = here.tile.getBoundingClientRect();
    let next = at + (event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0);
    if (next === at) {
      const down = event.key === "ArrowDown";
      const rows = tiles.map((tile, index) => ({ index, box: tile.getBoundingClientRect() })).filter(({ box: other }) => (down ? other.top > box.top + 4 : other.top < box.top - 4));
      const line = down ? Math.min(...rows.map(({ box: other }) => other.top)) : Math.max(...rows.map(({ box: other }) => other.top));
      const row = rows.filter(({ box: other }) => Math.abs(other.top - line) < 4);
      row.sort((a, b) => Math.abs(a.box.left - box.left) - Math.abs(b.box.left - box.left));
      next = row[0]?.index ?? at;
    }
    const tile = tiles[next];
    if (!tile) return true;
    tile.focus();
    if (event.shiftKey) {
      const position = Number(tile.dataset.position);
      const group = this.groups.find((other) => other.items.some((item) => item.position === position));
      if (group && group.chosen.has(position) !== here.group.chosen.has(here.position)) this.toggle(group, { position }, false);
    }
    return true;
  }
}

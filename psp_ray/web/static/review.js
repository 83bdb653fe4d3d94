// Second looks: where people differ, what the evidence speaks against, and one's own answers.

import { get, post, save, settled } from "./api.js";
import { IGNORE, SKIP, classes, h, named, picture, plural, role, say, short } from "./dom.js";

// What was said of an image, the most likely first.
function likeliest({ said, likely }) {
  return [...new Set([...(likely ? [likely.label] : []), ...said.map(({ label }) => label)])];
}

export function agreed({ value, images }) {
  if (!images) return "Nobody has answered an image that somebody else did.";
  const on = `on ${plural(images, "image")} that several people answered`;
  return value === null ? `All said one class ${on}.` : `Krippendorff's alpha ${value.toFixed(2)} ${on} (1: always the same, 0: as by chance).`;
}

export class Review {
  constructor(main) {
    this.main = main;
  }

  async open() {
    try {
      await settled();
      const found = await get("api/review");
      const agreement = role === "label" ? null : await get("api/agreement");
      this.render(found, agreement);
    } catch (error) {
      say(error.message);
    }
  }

  close() {}
  async update() {}
  key() {
    return false;
  }

  render({ disputed, doubted, none, mine }, agreement) {
    const parts = [];
    if (role !== "label") {
      parts.push(
        this.queue("Where people differ", disputed, (item) => [
          [...item.said.map(({ person, label }) => h("p", {}, `${person}: `, h("b", {}, named(label)))),
            item.likely && h("p", {}, "most likely: ", h("b", {}, named(item.likely.label)), ` (${Math.min(99, Math.round(100 * item.likely.probability))} %)`)],
          likeliest(item),
        ], "Nobody differs."),
        this.queue("Labels that may be wrong", doubted, (item) => [
          [h("p", {}, "label: ", h("b", {}, item.label)), h("p", {}, `all other evidence: ${item.suggestion} (${Math.round(100 * item.probability)} %)`)],
          [classes.indexOf(item.label), classes.indexOf(item.suggestion)],
        ], "No label stands out."));
      if (none.length) parts.push(this.queue("None of the classes, as they were then", none, () => [
        [h("p", {}, "may show ", h("b", {}, classes.at(-1)))], [classes.length - 1, IGNORE],
      ], ""));
      if (agreement.pairs.length) parts.push(this.agreement(agreement));
    }
    parts.push(this.queue("Your answers, the newest first", mine, (item) => [[h("p", {}, h("b", {}, named(item.label)))], [], true], "You have not answered anything yet."));
    this.main.replaceChildren(...parts);
  }

  queue(title, items, describe, nothing) {
    return h("section", { "aria-label": title },
      h("h2", {}, items.length ? `${title} (${items.length})` : title),
      items.length ? h("div", { class: "cards" }, items.map((item) => this.card(item, ...describe(item)))) : h("p", { class: "caption" }, nothing));
  }

  card(item, words, choices, own = false) {
    const card = h("article", { class: "card" }, picture(item.position, short(item.name), "thumb", true), h("div", {}, words, h("p", { class: "caption" }, short(item.name))));
    const decide = (label) => (own ? this.correct(item, label, card) : this.decide(item, label));
    const pick = h("select", { "aria-label": `Class of ${short(item.name)}`, onchange: (event) => event.target.value !== "" && decide(Number(event.target.value)) },
      h("option", { value: "" }, own ? "Change to …" : "Another class …"),
      classes.map((name, index) => h("option", { value: index }, name)),
      h("option", { value: SKIP }, named(SKIP)),
      h("option", { value: IGNORE }, named(IGNORE)));
    card.append(h("div", { class: "choices" }, choices.map((label) => h("button", { type: "button", onclick: () => decide(label) }, named(label))), pick));
    return card;
  }

  async decide(item, label) {
    try {
      await post("api/decide", { position: item.position, label });
      await this.open();
      (this.main.querySelector(".choices button") || this.main).focus();
      say(`${short(item.name)}: ${named(label)}`);
    } catch (error) {
      say(error.message);
    }
  }

  async correct(item, label, card) {
    await save({ answers: [{ position: item.position, label, seconds: 0 }], shown: [], way: "correction" });
    card.querySelector("b").textContent = named(label);
    say(`${short(item.name)}: ${named(label)}`);
  }

  agreement({ alpha, pairs, classes: each }) {
    const share = (value) => `${Math.round(100 * value)} %`;
    return h("section", { "aria-label": "Agreement" }, h("h2", {}, "Agreement"), h("p", {}, agreed(alpha)),
      h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Agreement of pairs" }, h("table", {},
        h("thead", {}, h("tr", {}, ["People", "Images", "Same answer", "Cohen's kappa"].map((text, index) => h("th", { scope: "col", class: index ? "number" : null }, text)))),
        h("tbody", {}, pairs.map((pair) => h("tr", {}, h("td", {}, `${pair.one}, ${pair.other}`), h("td", { class: "number" }, String(pair.images)), h("td", { class: "number" }, share(pair.same)), h("td", { class: "number" }, pair.kappa === null ? "–" : pair.kappa.toFixed(2))))))),
      h("p", { class: "caption" }, each.filter((item) => item.same < 1).slice(0, 5).map((item) => `${item.label}: ${share(item.same)} on ${plural(item.images, "image")}, else mostly ${item.instead}`).join(" · ")));
  }
}

// One image at a time: keys, search, undo.

import { get, post, save, settled } from "./api.js";
import { IGNORE, SKIP, classOf, classes, h, keyOf, matches, named, picture, plural, say, short } from "./dom.js";
import { quiet } from "./quiet.js";

const AT_ONCE = 12;
const HINTS = "psp-ray-suggestions";

export class One {
  constructor(main) {
    this.main = main;
    this.items = [];
    this.done = new Set(); // answered here, perhaps not heard of by the server yet
    this.examples = {};
    this.typed = "";
    this.turn = 0;
    this.zoom = false;
    this.shown = null;
  }

  get hints() {
    return localStorage.getItem(HINTS) === "on";
  }

  async open(state) {
    this.state = state;
    this.items = [];
    this.render();
    await Promise.all([this.fill(), get("api/examples").then((found) => (this.examples = found))]);
    this.render();
  }

  close() {
    this.shown = null;
    post("api/give-back", { positions: this.items.map((item) => item.position).slice(0, 400) }).catch(() => {});
  }

  async update(state) {
    const begun = this.state.state !== state.state || this.state.round !== state.round;
    this.state = state;
    if (begun) this.done.clear();
    if (this.items.length && !this.active) return; // whoever looks away takes nothing
    this.active = false;
    await this.fill(); // others may have been given what lay here
    if (!this.shown) this.render();
  }

  async fill() {
    if (this.filling) return;
    this.filling = true;
    try {
      const { items } = await get(`api/work?n=${AT_ONCE}`);
      const current = this.items[0];
      const fresh = items.filter((item) => !this.done.has(item.position) && item.position !== current?.position);
      this.items = current ? [current, ...fresh] : fresh;
      for (const item of this.items.slice(1, 5)) new Image().src = `image/${item.position}?size=full`;
    } catch (error) {
      if (!this.items.length) say(error.message);
    } finally {
      this.filling = false;
    }
  }

  render() {
    const item = this.items[0];
    if (!item) {
      this.shown = null;
      this.main.replaceChildren(quiet(this.state));
      return;
    }
    const fresh = this.shown?.position !== item.position;
    if (fresh) {
      this.shown = { position: item.position, since: performance.now() };
      this.typed = "";
      this.turn = 0;
      this.zoom = false;
    }
    this.main.replaceChildren(h("div", { class: "one" }, this.left(item), this.right(item)));
  }

  left(item) {
    const stage = h("div", { class: `stage turn${this.turn}${this.zoom ? " zoom" : ""}`, tabindex: this.zoom ? "0" : null }, picture(item.position, `Image to label: ${short(item.name)}`, "full"));
    const tags = [item.ahead && "ahead of the next round", item.second && "second opinion"].filter(Boolean);
    return h("div", {}, stage, h("p", { class: "caption" }, tags.map((text) => h("span", { class: "tag" }, text)), short(item.name)));
  }

  right(item) {
    const find = h("input", {
      class: "find", type: "search", placeholder: "Search a class: type /", "aria-label": "Search a class", value: this.typed, autocomplete: "off",
      oninput: (event) => { this.typed = event.target.value; list.replaceWith((list = this.list())); },
      onkeydown: (event) => {
        if (event.key === "Enter" && this.typed.trim()) { const [first] = matches(this.typed); if (first !== undefined) this.answer(first); }
        if (event.key === "Escape") { this.typed = ""; this.render(); }
      },
    });
    let list = this.list();
    return h("div", {},
      this.guess(item),
      keyOf.some((key) => !key) && find,
      list,
      h("div", { class: "others" },
        h("button", { type: "button", onclick: () => this.answer(SKIP) }, "Can't tell ", h("kbd", {}, "Space")),
        h("button", { type: "button", onclick: () => this.answer(IGNORE) }, "None of these ", h("kbd", {}, "i")),
        h("button", { type: "button", onclick: () => this.undo() }, "Undo ", h("kbd", {}, "u"))));
  }

  list() {
    const shown = this.typed.trim() ? matches(this.typed) : classes.map((_, index) => index);
    return h("div", { class: "classes", role: "group", "aria-label": "Classes" }, shown.map((index) =>
      h("button", { type: "button", onclick: () => this.answer(index) },
        keyOf[index] && h("kbd", {}, keyOf[index]),
        h("span", {}, classes[index]),
        this.examples[index]?.length ? h("img", { src: `image/${this.examples[index][0]}?size=thumb`, alt: "" }) : null)));
  }

  guess(item) {
    if (!this.state.suggesting) return null;
    if (!this.hints) return h("p", { class: "caption" }, "Suggestions are hidden. ", h("button", { type: "button", onclick: () => this.toggle() }, "Show ", h("kbd", {}, "s")));
    if (item.suggestion < 0) return h("p", { class: "caption" }, "No suggestion for this one.");
    return h("div", { class: "guess" },
      h("span", {}, "Suggested: ", h("b", {}, classes[item.suggestion]), ` (${Math.round(100 * item.probability)} %)`),
      h("button", { type: "button", class: "main", onclick: () => this.answer(item.suggestion) }, "Yes ", h("kbd", {}, "Enter")));
  }

  answer(label) {
    const item = this.items[0];
    if (!item || !this.shown) return;
    const seconds = (performance.now() - this.shown.since) / 1000;
    const shown = this.state.suggesting && this.hints && item.suggestion >= 0 ? [item.position] : [];
    this.active = true;
    this.items.shift();
    this.done.add(item.position);
    save({ answers: [{ position: item.position, label, seconds }], shown, way: "one" });
    say(`${named(label)}`);
    if (this.items.length < AT_ONCE / 2) this.fill().then(() => { if (!this.shown) this.render(); });
    this.render();
  }

  async undo() {
    try {
      await settled();
      const { items } = await post("api/undo", {});
      if (!items.length) return say("there is nothing to take back");
      for (const item of items) this.done.delete(item.position);
      const again = new Set(items.map((item) => item.position));
      this.items = [...items, ...this.items.filter((item) => !again.has(item.position))];
      say(`${plural(items.length, "answer")} taken back`);
      this.render();
    } catch (error) {
      say(error.message);
    }
  }

  toggle() {
    localStorage.setItem(HINTS, this.hints ? "off" : "on");
    this.render();
  }

  key(event) {
    const item = this.items[0];
    if (event.key === "u") this.undo();
    else if (!item) return false;
    else if (event.key === "Enter" && this.state.suggesting && this.hints && item.suggestion >= 0) this.answer(item.suggestion);
    else if (event.key === " ") this.answer(SKIP);
    else if (event.key === "i") this.answer(IGNORE);
    else if (event.key === "s") this.toggle();
    else if (event.key === "z") { this.zoom = !this.zoom; this.render(); }
    else if (event.key === "r") { this.turn = (this.turn + 1) % 4; this.render(); }
    else if (event.key === "/") this.main.querySelector(".find")?.focus();
    else if (classOf.has(event.key)) this.answer(classOf.get(event.key));
    else return false;
    return true;
  }
}

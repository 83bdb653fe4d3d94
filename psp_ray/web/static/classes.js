// The classes: a forgotten one is added, a wrong name changed, while people go on.

import { post } from "./api.js";
import { classes, h, keyOf, say } from "./dom.js";

export class Classes {
  constructor(main) {
    this.main = main;
  }

  async open() {
    this.render();
  }

  close() {}
  async update() {}
  key() {
    return false;
  }

  render() {
    const name = h("input", { name: "class", required: true, maxlength: "200", autocomplete: "off" });
    this.main.replaceChildren(
      h("h2", {}, "Classes"),
      h("form", { class: "form", onsubmit: (event) => this.send(event, { name: name.value }, `${name.value} is added as soon as nothing else is under way`) },
        h("label", {}, "A class that was forgotten", name), h("button", { type: "submit", class: "main" }, "Add class")),
      h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Classes" }, h("table", {},
        h("thead", {}, h("tr", {}, ["Key", "Name", "Another name"].map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, classes.map((old, index) => h("tr", {}, h("td", {}, keyOf[index] ? h("kbd", {}, keyOf[index]) : ""), h("td", {}, old), h("td", {}, this.rename(old))))))),
      h("p", { class: "caption" }, "Everything that is labeled stays as it is: a class keeps its number whatever it is called. After one was added, the classifier is learned anew from all labels, and what was said to show none of the classes stands under Review. A class can't be removed."));
  }

  rename(old) {
    const name = h("input", { required: true, maxlength: "200", autocomplete: "off", "aria-label": `Another name for ${old}` });
    return h("form", { class: "form tight", onsubmit: (event) => this.send(event, { name: name.value, instead: old }, `${old} is called ${name.value} as soon as nothing else is under way`) },
      name, h("button", { type: "submit", "aria-label": `Rename ${old}` }, "Rename"));
  }

  async send(event, body, done) {
    event.preventDefault();
    try {
      await post("api/classes", body);
      say(done);
      this.render();
    } catch (error) {
      say(error.message);
    }
  }
}

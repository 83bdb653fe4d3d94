// Who labels, and how somebody new is invited.

import { get, post } from "./api.js";
import { h, say } from "./dom.js";
import { agreed } from "./review.js";

export class People {
  constructor(main) {
    this.main = main;
  }

  async open(state) {
    this.agreement = await get("api/agreement").catch(() => null);
    this.render(state);
  }

  close() {}

  async update(state) {
    if (JSON.stringify(state.people) !== this.seen && !this.main.contains(document.activeElement)) this.render(state);
  }

  key() {
    return false;
  }

  render(state) {
    this.seen = JSON.stringify(state.people);
    const name = h("input", { name: "name", required: true, maxlength: "40", autocomplete: "off" });
    const role = h("select", { name: "role" }, ["label", "review", "lead"].map((value) => h("option", { value }, value)));
    const invite = async (event) => {
      event.preventDefault();
      try {
        const answer = await post("api/people", { name: name.value, role: role.value });
        say(`${name.value} has a link now`);
        this.render(answer.state);
      } catch (error) {
        say(error.message);
      }
    };
    const right = this.agreement?.right ?? {};
    const heads = ["Name", "Role", "Answers", "Seconds each", "Right", "Link"];
    this.main.replaceChildren(
      h("h2", {}, "People"),
      h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "People" }, h("table", {},
        h("thead", {}, h("tr", {}, heads.map((text, index) => h("th", { scope: "col", class: index === 2 || index === 4 ? "number" : index === 3 ? "number few" : null }, text)))),
        h("tbody", {}, state.people.map((person) => h("tr", {},
          h("td", {}, person.name, person.at_work ? h("span", { class: "count" }, "here") : null),
          h("td", {}, person.role),
          h("td", { class: "number" }, String(person.answers)),
          h("td", { class: "number few" }, person.answers ? (person.seconds / person.answers).toFixed(1) : "–"),
          h("td", { class: "number" }, person.name in right ? `${Math.round(100 * right[person.name])} %` : "–"),
          h("td", {}, h("button", { type: "button", "aria-label": `Copy the link of ${person.name}`, onclick: () => this.copy(person) }, "Copy link"))))))),
      this.agreement ? h("p", { class: "caption" }, agreed(this.agreement.alpha), " Right: how many of somebody's answers are right, by Dawid and Skene's model of all answers. It takes three people (reviewers' decisions count as one) and ten images of each that others answered, too.") : "",
      h("form", { class: "form", onsubmit: invite }, h("label", {}, "Name", name), h("label", {}, "Role", role), h("button", { type: "submit", class: "main" }, "Invite")),
      h("p", { class: "caption" }, "label: answers. review: also decides where people differ and labels in doubt. lead: also starts learning, adds rounds and invites. A link is a password: send it to one person."));
  }

  async copy(person) {
    const link = new URL(`${document.body.dataset.home}?token=${person.token}`, location.href).href;
    try {
      await navigator.clipboard.writeText(link);
      say(`the link of ${person.name} is copied`);
    } catch {
      window.prompt(`Link of ${person.name}`, link);
    }
  }
}

// The page: tabs, keys, and the state that the server tells.

import { flush, get, on, post, waiting } from "./api.js";
import { Classes } from "./classes.js";
import { classes, role, say } from "./dom.js";
import { Grid } from "./grid.js";
import { One } from "./one.js";
import { header, panel } from "./panel.js";
import { People } from "./people.js";
import { Review } from "./review.js";

const POLL = 2000;
const main = document.getElementById("main");
const views = { one: new One(main), grid: new Grid(main), review: new Review(main), people: new People(main), classes: new Classes(main) };
const problem = document.getElementById("problem");
let current = null;
let state = null;
let trouble = "";

on("problem", (text) => {
  trouble = text;
  complain();
});

on("state", (fresh) => {
  if (JSON.stringify(fresh.classes) !== JSON.stringify(classes)) {
    location.reload(); // keys and names are others now; what waits to be sent is kept
    return;
  }
  state = fresh;
  header(fresh);
  panel(fresh);
  complain();
  current?.update(fresh);
});

function complain() {
  const text = trouble || state?.problem || "";
  problem.textContent = text;
  problem.hidden = !text;
}

async function show(name) {
  if (!views[name] || ((name === "people" || name === "classes") && role !== "lead")) return;
  current?.close();
  current = null;
  for (const button of document.querySelectorAll("nav [data-tab]")) {
    if (button.dataset.tab === name) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }
  location.hash = name;
  await views[name].open(state);
  current = views[name];
  if (!main.contains(document.activeElement)) main.focus({ preventScroll: true });
}

async function look() {
  try {
    await get("api/state");
    if (trouble && !waiting()) {
      trouble = "";
      complain();
    }
  } catch (error) {
    trouble = error.message;
    complain();
  }
}

function typing(target) {
  return target.matches?.("input, select, textarea") || document.getElementById("help").open;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.key === "Escape" && event.target.matches?.("input")) event.target.blur();
  if (typing(event.target)) return;
  if (event.repeat && !event.key.startsWith("Arrow")) {
    event.preventDefault(); // a key held down would answer images that nobody has looked at
    return;
  }
  const other = { o: "one", g: "grid", v: "review" }[event.key];
  if (other) show(other);
  else if (event.key === "?") document.getElementById("help").showModal();
  else {
    const button = event.target.closest?.("button:not(.tile), a, summary");
    if (button && (event.key === " " || event.key === "Enter")) return;
    if (!current?.key(event)) return;
  }
  event.preventDefault();
});

for (const button of document.querySelectorAll("nav [data-tab]")) button.addEventListener("click", () => show(button.dataset.tab));
document.querySelector("[data-help]").addEventListener("click", () => document.getElementById("help").showModal());
document.querySelector("[data-close]").addEventListener("click", () => document.getElementById("help").close());
document.getElementById("learn-now")?.addEventListener("click", () => post("api/learn", {}).then(() => say("learning from what is answered"), (error) => say(error.message)));
document.getElementById("more-rounds")?.addEventListener("click", () => {
  const rounds = Number(window.prompt("How many rounds more?", "4"));
  if (rounds >= 1) post("api/extend", { rounds: Math.floor(rounds) }).then(() => say("rounds are added"), (error) => say(error.message));
});
if (window.matchMedia("(max-width: 999px)").matches) document.getElementById("panel").open = false;

await flush();
await look();
await show(location.hash.slice(1) in views ? location.hash.slice(1) : "one");
setInterval(() => document.hidden || look(), POLL);

// How far the run is: header and side panel.

import { h, plural } from "./dom.js";

const percent = (value) => `${(100 * value).toFixed(1)} %`;

export function header(state) {
  const doing = { learning: "learning", choosing: "choosing images", broken: "stopped", over: "done" }[state.state];
  document.getElementById("round").textContent = state.over
    ? `${plural(state.rounds, "round")} done`
    : `Round ${state.round} of ${state.rounds} · ${state.answered} of ${state.asked}${doing ? ` · ${doing}` : ""}`;
  const bar = document.getElementById("bar");
  bar.setAttribute("aria-valuemax", String(state.asked));
  bar.setAttribute("aria-valuenow", String(state.answered));
  bar.firstElementChild.style.width = `${state.asked ? (100 * state.answered) / state.asked : 100}%`;
  const count = document.getElementById("to-review");
  count.hidden = !state.to_review;
  count.textContent = String(state.to_review);
}

export function panel(state) {
  const rows = [
    ["Learned from", plural(state.labels, "label")],
    ["Answers", state.answers ? String(state.answers) : "none yet"],
    ["Time", state.answers ? `${state.minutes.toFixed(1)} min, ${state.seconds_each.toFixed(1)} s each` : "–"],
    ["Accuracy", accuracy(state.accuracy)],
    ["Suggestions", suggestions(state)],
    ["Paid for", plural(state.paid, "label")],
  ];
  document.getElementById("progress").replaceChildren(
    h("dl", {}, rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    curve(state.curve),
    state.advice ? h("p", { class: "advice" }, state.advice.stop ? h("b", {}, "You may stop. ") : null, state.advice.text) : "",
    ...state.notes.map((text) => h("p", { class: "caption" }, text)));
  const learn = document.getElementById("learn-now");
  if (learn) learn.disabled = state.state !== "waiting" || !state.answered || state.answered >= state.asked;
}

function accuracy(known) {
  if (!known) return "not known yet";
  return known.low === undefined ? `${percent(known.value)} (${known.of})` : `${percent(known.value)} (${Math.round(100 * known.low)}–${Math.round(100 * known.high)} %)`;
}

function suggestions({ suggesting, suggestions: { right, of, cut } }) {
  const record = of ? ` (${right} of ${of} right)` : "";
  return suggesting ? `${cut > 0 ? `from ${Math.round(100 * cut)} % on` : "shown"}${record}` : `withheld${record}`;
}

// Accuracy against labels, with its interval.
function curve(points) {
  const known = points.filter((point) => point.value !== null);
  if (known.length < 2) return "";
  const svg = (tag, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
    if (text) element.textContent = text;
    return element;
  };
  const most = Math.max(...known.map((point) => point.labels));
  const floor = Math.min(...known.map((point) => point.low ?? point.value), 0.5);
  const x = (point) => 34 + (220 * point.labels) / most;
  const y = (value) => 78 - (68 * (value - floor)) / (1 - floor);
  const found = svg("svg", { class: "curve", viewBox: "0 0 270 92", role: "img", "aria-label": `Accuracy after each round, last ${percent(known.at(-1).value)}` });
  const banded = known.filter((point) => point.low !== null);
  if (banded.length > 1) {
    const upper = banded.map((point) => `${x(point)},${y(point.high)}`);
    const lower = banded.map((point) => `${x(point)},${y(point.low)}`).reverse();
    found.append(svg("polygon", { class: "band", points: [...upper, ...lower].join(" ") }));
  }
  found.append(svg("polyline", { class: "line", points: known.map((point) => `${x(point)},${y(point.value)}`).join(" ") }));
  found.append(svg("text", { x: 0, y: 14 }, "100 %"), svg("text", { x: 0, y: 80 }, `${Math.round(100 * floor)} %`), svg("text", { x: 186, y: 91 }, `${most} labels`));
  return found;
}

// Talks to the server. Answers go through an outbox in the browser's own storage until the server has them, so that
// neither a lost connection nor a closed tab costs one.

// One a run: several of them may be labeled at the same origin.
const BOX = `psp-ray-outbox:${location.pathname}:${document.body.dataset.person}`;
const PAUSE = 1500;
const listeners = { state: [], problem: [] };
let sending = false;

export function on(event, listener) {
  listeners[event].push(listener);
}

function tell(event, value) {
  for (const listener of listeners[event]) listener(value);
}

export class Refused extends Error {}

async function call(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, credentials: "same-origin" });
  } catch {
    throw new Error("the server doesn't answer");
  }
  const text = await response.text();
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // no JSON: an error page
  }
  if (response.status >= 500) throw new Error(body.error || "the server failed; its terminal says why");
  if (!response.ok) throw new Refused(body.error || `refused (${response.status})`);
  if (body.state && body.state.person) tell("state", body.state);
  return body;
}

export async function get(path) {
  const body = await call(path, {});
  if (path === "api/state") tell("state", body);
  return body;
}

export function post(path, body) {
  const headers = { "content-type": "application/json", "x-psp-ray": "1" };
  return call(path, { method: "POST", headers, body: JSON.stringify(body) });
}

function box() {
  try {
    return JSON.parse(localStorage.getItem(BOX) || "[]");
  } catch {
    return [];
  }
}

function keep(entries) {
  localStorage.setItem(BOX, JSON.stringify(entries));
}

// 32 hexadecimal digits; randomUUID is there for secure pages only.
function random() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// What another tab has sent meanwhile is not the first of the box any more.
function done(action) {
  keep(box().filter((entry, row) => (action.id ? entry.id !== action.id : row > 0)));
}

// An action ({answers, shown, way}) that is certain to reach the server, in order.
export function save(action) {
  keep([...box(), { ...action, id: random() }]);
  return flush();
}

export function waiting() {
  return box().reduce((sum, action) => sum + action.answers.length, 0);
}

export async function flush() {
  if (sending) return;
  sending = true;
  try {
    for (let entries = box(); entries.length; entries = box()) {
      try {
        await post("api/answers", entries[0]);
      } catch (error) {
        if (!(error instanceof Refused)) {
          const count = waiting();
          tell("problem", `${error.message}: ${count} ${count === 1 ? "answer waits" : "answers wait"} here and will be sent`);
          setTimeout(flush, PAUSE);
          return;
        }
        tell("problem", error.message);
        done(entries[0]);
        continue;
      }
      done(entries[0]);
      if (!box().length) tell("problem", "");
    }
  } finally {
    sending = false;
  }
}

// Everything answered so far is with the server, or this fails.
export async function settled() {
  for (let tries = 0; waiting() && tries < 40; tries += 1) {
    await flush();
    if (waiting()) await new Promise((done) => setTimeout(done, 100));
  }
  if (waiting()) throw new Error("the server doesn't answer");
}

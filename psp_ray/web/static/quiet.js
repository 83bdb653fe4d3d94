// What stands where no image is to be labeled.

import { h } from "./dom.js";

export function quiet(state) {
  const [title, text] = words(state);
  return h("div", { class: "quiet" }, h("h2", {}, title), h("p", {}, text));
}

function words(state) {
  if (state.over) return ["All rounds are done", "The classifier and its predictions are in the run's folder. Whoever leads can add rounds."];
  if (state.state === "learning") return ["Learning from your answers", "The next images come by themselves."];
  if (state.state === "broken") return ["The run has stopped", "Everything that was answered is safe."];
  if (state.asked && state.answered < state.asked) return ["Others have the rest", "The images that are left are before somebody else's eyes."];
  return ["Choosing images", "They come by themselves."];
}

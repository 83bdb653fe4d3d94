// The list of runs keeps itself up to date, without taking the focus from whoever is in it.

const PAUSE = 5000;
const main = document.getElementById("main");

async function look() {
  if (document.hidden || main.contains(document.activeElement)) return;
  try {
    const answer = await fetch("./", { credentials: "same-origin" });
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
    if (fresh && fresh.innerHTML !== main.innerHTML) main.replaceChildren(...fresh.childNodes);
  } catch {
    // the server is away; the next look may find it
  }
}

setInterval(look, PAUSE);

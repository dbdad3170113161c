"use strict";
// What changes while one looks at it: lists that are asked again, and a study that is told by the server's events.

// Lists: asked again every so many milliseconds, while they are seen and nobody is typing in them
hindsight.onEach("[data-poll]", (part) => {
  setInterval(() => {
    if (document.hidden || part.querySelector(":focus-within, details[open]") || part.contains(document.activeElement)) return;
    if (part.dataset.poll && !part.hasAttribute("aria-busy")) hindsight.merge(part);
  }, Number(part.dataset.poll));
});

// A study: the server tells each change; what is seen of it is asked again, at most so often
const STUDY_PAUSE = 400, FIGURE_PAUSE = 1000, TROUBLE_PAUSE = 5000; // the last: the server is away, or has too much to do

function throttled(call, pause) {
  let timer = 0, last = 0, isBusy = false, again = false;
  const run = async () => {
    timer = 0;
    isBusy = true;
    again = false;
    last = Date.now();
    try { await call(); }
    catch { again = true; last = Date.now() + TROUBLE_PAUSE; } // what changed is still to be seen
    finally { isBusy = false; }
    if (again) request();
  };
  const request = () => {
    if (isBusy) { again = true; return; }
    timer ||= setTimeout(run, Math.max(0, last + pause - Date.now()));
  };
  return request;
}

hindsight.onEach("[data-events]", (head) => {
  const parts = [head, document.getElementById("trials")].filter(Boolean);
  const isPlain = !new URLSearchParams(location.search).get("cursor");
  const refresh = throttled(async () => {
    const text = await (await hindsight.ask(location.href, { headers: { Accept: "text/html" } })).text();
    const page = new DOMParser().parseFromString(text, "text/html");
    for (const part of parts) {
      const other = page.getElementById(part.id);
      if (!other || part.querySelector("details[open]")) continue;
      if (part.id === "trials" && isPlain) hindsight.mergeFrom(part, other);
      else if (part.id !== "trials") { part.replaceChildren(...other.childNodes); hindsight.arrived(part); }
    }
  }, STUDY_PAUSE);
  const redraw = throttled(async () => {
    for (const figure of document.querySelectorAll("figure[data-live]")) hindsight.reload(figure);
  }, FIGURE_PAUSE);
  const only = head.dataset.trial;
  const changed = (event) => {
    if (only !== undefined && event.type === "trial" && String(JSON.parse(event.data).number) !== only) return;
    refresh();
    redraw();
  };
  const events = new EventSource(head.dataset.events);
  events.addEventListener("trial", changed);
  events.addEventListener("study", changed);
  events.addEventListener("end", (event) => { events.close(); changed(event); });
  addEventListener("pagehide", () => events.close());
});

"use strict";
// The study file is checked while one writes; what is wrong, or foretold, stands beside it.
hindsight.onEach("form[data-check]", (form) => {
  const said = document.getElementById("check");
  let later = 0, turn = 0;
  const check = async () => {
    const mine = ++turn;
    said.setAttribute("aria-busy", "true");
    try {
      const answer = await hindsight.ask(form.dataset.check, { method: "POST", body: new FormData(form) });
      const html = await answer.text();
      if (mine !== turn) return;
      said.innerHTML = html;
      hindsight.arrived(said);
    } catch (error) {
      if (mine === turn) said.replaceChildren(Object.assign(document.createElement("p"), { className: "problem", textContent: error.message }));
    }
    if (mine === turn) said.removeAttribute("aria-busy");
  };
  form.addEventListener("input", () => { clearTimeout(later); later = setTimeout(check, 450); });
  form.addEventListener("submit", () => { for (const button of form.querySelectorAll("button")) button.setAttribute("aria-busy", "true"); });
  form.querySelector("textarea").addEventListener("keydown", (event) => {
    if (event.key !== "Tab" || event.shiftKey || event.target.selectionStart === event.target.selectionEnd && !event.target.value.slice(0, event.target.selectionStart).match(/(^|\n) *$/)) return;
    event.preventDefault(); // within the blanks at the beginning of a line: indent
    event.target.setRangeText("  ", event.target.selectionStart, event.target.selectionEnd, "end");
    event.target.dispatchEvent(new Event("input", { bubbles: true }));
  });
  check();
});

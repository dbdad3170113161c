"use strict";
// Lists inside parts that were fetched later: they search, sort and grow by asking for their own part again.

(() => {
  async function refill(part, url) {
    let other = null;
    part.setAttribute("aria-busy", "true");
    try {
      const text = await (await hindsight.ask(url, { headers: { Accept: "text/html" } })).text();
      other = new DOMParser().parseFromString(text, "text/html").getElementById(part.id);
      const field = part.querySelector("input:focus");
      const [name, start] = field ? [field.name, field.selectionStart] : [null, 0];
      part.replaceChildren(...other.childNodes);
      hindsight.arrived(part);
      if (name) { const again = part.querySelector(`input[name="${name}"]`); again?.focus(); again?.setSelectionRange(start, start); }
    } catch (error) { hindsight.toast(error.message, "problem"); }
    part.removeAttribute("aria-busy");
    return other;
  }

  hindsight.onEach("form[data-list]", (form) => {
    const go = () => {
      const asked = new URL(form.action);
      asked.search = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
      refill(form.closest("[data-part]"), asked);
    };
    let later = 0;
    form.addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(later); go(); });
    form.addEventListener("input", () => { clearTimeout(later); later = setTimeout(go, 250); });
  });

  // A form whose answer is put into an element of the page
  hindsight.onEach("form[data-into]", (form) => form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const into = document.getElementById(form.dataset.into);
    const asked = new URL(form.action);
    asked.search = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    into.setAttribute("aria-busy", "true");
    try {
      into.innerHTML = await (await hindsight.ask(asked, { headers: { Accept: "text/x-fragment, */*" } })).text();
    } catch (error) {
      into.replaceChildren(Object.assign(document.createElement("p"), { className: "problem", textContent: error.message }));
    }
    into.removeAttribute("aria-busy");
  }));

  // A part that is asked for again every so many seconds, until the server says that it changes no more; not while it
  // is out of sight, or somebody writes in it or has opened something
  hindsight.onEach("[data-refresh]", (part) => {
    const again = setInterval(async () => {
      const isBusy = document.hidden || part.contains(document.activeElement) || part.querySelector("details.confirm[open]");
      if (isBusy || part.getAttribute("aria-busy") === "true") return;
      const other = await refill(part, location.href);
      if (other && !other.dataset.refresh) { clearInterval(again); delete part.dataset.refresh; }
    }, 1000 * Number(part.dataset.refresh));
  });

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-in-place]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    refill(link.closest("[data-part]"), link.href);
  });
})();

"use strict";
// What every page can do: themes, keys, parts that are fetched later, tables that change in place.

const hindsight = {
  /** What the server says, as text, JSON or an Error whose message is the server's. */
  async ask(url, options = {}) {
    const answer = await fetch(url, { credentials: "same-origin", ...options });
    if (answer.status === 401) { location.reload(); }
    if (!answer.ok) {
      let said = null;
      try { said = await answer.json(); } catch { /* no problem+json: a proxy's page */ }
      throw Object.assign(new Error(said?.detail ?? `${answer.status} ${answer.statusText}`), { problem: said });
    }
    return answer;
  },
  async json(url, options = {}) {
    return (await this.ask(url, { ...options, headers: { Accept: "application/json", ...options.headers } })).json();
  },
  toast(text, kind = "") {
    const note = Object.assign(document.createElement("p"), { textContent: text, className: kind });
    document.querySelector(".toasts").append(note);
    setTimeout(() => note.remove(), kind === "problem" ? 12000 : 5000);
  },
  /** Calls back for each element below `root` that fits, now and when parts are put in later. */
  onEach(selector, call) {
    this._watched.push([selector, call]);
    for (const found of document.querySelectorAll(selector)) call(found);
  },
  _watched: [],
  arrived(root) {
    for (const [selector, call] of this._watched) for (const found of root.querySelectorAll(selector)) call(found);
  },
  /** Once, when it comes near the window. */
  whenSeen(element, call) {
    const watch = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) { watch.disconnect(); call(); }
    }, { rootMargin: "300px" });
    watch.observe(element);
  },
};

// Light and dark ------------------------------------------------------------------------------------------------------

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  try { theme ? localStorage.setItem("theme", theme) : localStorage.removeItem("theme"); } catch { /* for this page only */ }
  document.dispatchEvent(new CustomEvent("theme"));
  hindsight.toast({ light: "Light", dark: "Dark" }[theme] ?? "As the system");
}
const nextTheme = () => setTheme({ light: "dark", dark: null }[document.documentElement.dataset.theme] ?? (document.documentElement.dataset.theme ? null : "light"));
for (const button of document.querySelectorAll("[data-theme-switch]")) { button.hidden = false; button.addEventListener("click", nextTheme); }
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new CustomEvent("theme")));

// Keys ----------------------------------------------------------------------------------------------------------------

const keys = document.getElementById("keys");
for (const button of document.querySelectorAll("[data-show-keys]")) { button.hidden = false; button.addEventListener("click", () => keys?.showModal()); }
let goesSoon = 0;
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, [contenteditable]")) return;
  if (document.querySelector("dialog[open]") && event.key !== "?") return;
  if (Date.now() - goesSoon < 1500) {
    const place = document.querySelector(`nav [data-key="${CSS.escape(event.key)}"]`);
    goesSoon = 0;
    if (place) { event.preventDefault(); place.click(); return; }
  }
  if (event.key === "g") goesSoon = Date.now();
  else if (event.key === "?") keys?.open ? keys.close() : keys?.showModal();
  else if (event.key === "t") nextTheme();
  else if (event.key === "j" || event.key === "k") moveRow(event.key === "j" ? 1 : -1);
  else if (event.key === "/") {
    const field = document.querySelector("[data-search]");
    if (field) { event.preventDefault(); field.focus(); field.select(); }
  }
});

function moveRow(step) {
  const links = [...document.querySelectorAll("table[data-rows] tbody tr a[data-row]")].filter((link) => link.offsetParent);
  if (!links.length) return;
  const at = links.indexOf(document.activeElement);
  links[Math.min(Math.max(at + step, 0), links.length - 1)].focus();
}

// A confirmation closes when something else is clicked, or by Escape
document.addEventListener("click", (event) => {
  for (const open of document.querySelectorAll("details.confirm[open], details.menu[open]")) if (!open.contains(event.target)) open.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const open = event.target.closest?.("details.confirm[open], details.menu[open]");
  if (open) { open.open = false; open.querySelector("summary").focus(); }
});

// Times in the reader's own zone --------------------------------------------------------------------------------------

hindsight.onEach("time[datetime]", (time) => {
  const at = new Date(time.dateTime);
  const pad = (number) => String(number).padStart(2, "0");
  if (!Number.isNaN(at.getTime()))
    time.textContent = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${pad(at.getHours())}:${pad(at.getMinutes())}`;
});

// Parts that take seconds ---------------------------------------------------------------------------------------------

hindsight.onEach("[data-fragment]", (part) => hindsight.whenSeen(part, async () => {
  try {
    part.innerHTML = await (await hindsight.ask(part.dataset.fragment, { headers: { Accept: "text/x-fragment, */*" } })).text();
    hindsight.arrived(part);
  } catch (error) {
    if (part.hasAttribute("data-quiet")) part.replaceChildren();
    else part.replaceChildren(Object.assign(document.createElement("p"), { className: "problem", textContent: error.message }));
  }
  part.removeAttribute("aria-busy");
}));

// A part of the page changes in place: the links and forms inside [data-part] that ask the same page ------------------

async function swap(part, url, { isNew = true } = {}) {
  part.setAttribute("aria-busy", "true");
  try {
    const text = await (await hindsight.ask(url, { headers: { Accept: "text/html" } })).text();
    const other = new DOMParser().parseFromString(text, "text/html").getElementById(part.id);
    if (!other) { location.assign(url); return; }
    part.replaceChildren(...other.childNodes);
    hindsight.arrived(part);
    if (isNew) history.replaceState(null, "", url);
  } catch (error) {
    hindsight.toast(error.message, "problem");
  }
  part.removeAttribute("aria-busy");
}
hindsight.swap = swap;

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-swap], a[data-more]");
  const part = link?.closest("[data-part]");
  if (!part || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (link.hasAttribute("data-swap")) { await swap(part, link.href); return; }
  link.setAttribute("aria-busy", "true");
  try {
    const text = await (await hindsight.ask(link.href, { headers: { Accept: "text/html" } })).text();
    const other = new DOMParser().parseFromString(text, "text/html").getElementById(part.id);
    const rows = [...other.querySelectorAll("tbody > tr")];
    part.querySelector("tbody").append(...rows);
    for (const row of rows) hindsight.arrived(row);
    link.closest(".pager").replaceWith(other.querySelector(".pager"));
    part.querySelector(".pager .quiet")?.prepend(`${part.querySelectorAll("tbody > tr").length.toLocaleString("en")} shown · `);
    rows[0]?.querySelector("a[data-row]")?.focus({ preventScroll: true });
  } catch (error) {
    hindsight.toast(error.message, "problem");
    link.removeAttribute("aria-busy");
  }
});

hindsight.onEach("form[data-filter]", (form) => {
  const part = document.getElementById(form.dataset.filter);
  const go = () => {
    const asked = new URL(form.action || location.href);
    asked.search = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    swap(part, asked);
  };
  let later = 0;
  form.addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(later); go(); });
  form.addEventListener("input", (event) => {
    clearTimeout(later);
    if (!event.target.hasAttribute("data-slow")) later = setTimeout(go, event.target.type === "search" ? 250 : 0);
  });
});

// Rows that are there already change in place, new ones come in, those that were loaded by hand stay -------------------

hindsight.merge = async (part, url = location.href) => {
  try {
    const text = await (await hindsight.ask(url, { headers: { Accept: "text/html" } })).text();
    const other = new DOMParser().parseFromString(text, "text/html").getElementById(part.id);
    if (other) hindsight.mergeFrom(part, other);
  } catch { /* the next time */ }
};

hindsight.mergeFrom = (part, other) => {
  const [body, newer] = [part.querySelector("tbody"), other.querySelector("tbody")];
  if (!body || !newer) { part.replaceChildren(...other.childNodes); hindsight.arrived(part); return; }
  const isAll = body.children.length <= newer.children.length; // nothing more was loaded by hand
  let before = body.firstElementChild;
  for (const row of [...newer.children]) {
    const known = row.id && body.querySelector(`#${CSS.escape(row.id)}`);
    if (!known) {
      row.classList.add("arrived");
      body.insertBefore(row, before);
      hindsight.arrived(row);
      continue;
    }
    if (before !== known && before) body.insertBefore(known, before);
    if (text(known) !== text(row)) {
      const judged = known.querySelector("[data-fragment]")?.innerHTML;
      const focused = known.contains(document.activeElement) && document.activeElement.getAttribute("href");
      known.replaceChildren(...row.childNodes);
      const fragment = known.querySelector("[data-fragment]");
      if (judged && fragment) fragment.innerHTML = judged;
      hindsight.arrived(known);
      if (focused) known.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
    }
    before = known.nextElementSibling;
  }
  const [pager, newPager] = [part.querySelector(".pager"), other.querySelector(".pager")];
  if (isAll && pager && newPager) pager.replaceWith(newPager);

  function text(row) {
    const copy = row.cloneNode(true);
    for (const each of copy.querySelectorAll("time, [data-fragment]")) each.textContent = each.getAttribute("datetime") ?? "";
    return copy.innerHTML;
  }
};

// A form that shows another view as soon as something else is chosen
hindsight.onEach("form[data-reload]", (form) => form.addEventListener("change", () => form.requestSubmit()));

// A form that takes its time is sent once, and says so
hindsight.onEach("form[data-once]", (form) => form.addEventListener("submit", (event) => {
  if (form.hasAttribute("aria-busy")) { event.preventDefault(); return; }
  form.setAttribute("aria-busy", "true");
  const button = form.querySelector("button");
  button.textContent = form.dataset.once;
  button.classList.add("waits");
}));

// On a phone the place where one is may be out of sight in a row of links that scrolls, and what is cut off there fades
hindsight.onEach("header nav, .tabs", (row) => {
  const here = row.querySelector("[aria-current]");
  if (here) row.scrollLeft += here.getBoundingClientRect().left - row.getBoundingClientRect().left - (row.clientWidth - here.clientWidth) / 2;
  const fade = () => {
    row.toggleAttribute("data-more-before", row.scrollLeft > 1);
    row.toggleAttribute("data-more-after", row.scrollLeft + row.clientWidth < row.scrollWidth - 1);
  };
  row.addEventListener("scroll", fade, { passive: true });
  new ResizeObserver(fade).observe(row);
});

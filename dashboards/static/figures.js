"use strict";
// Figures: plotly's JSON from the server, in the colours of the page; drawn when they come into sight.

const plotlyUrl = document.currentScript.dataset.plotly;
let plotly = null;
function loadPlotly() {
  plotly ??= new Promise((resolve, reject) => {
    const script = Object.assign(document.createElement("script"), { src: plotlyUrl, onload: () => resolve(window.Plotly), onerror: () => reject(new Error("plotly did not come")) });
    document.head.append(script);
  });
  return plotly;
}

/** The page's own colours, over which a figure's layout is laid. */
function pageLayout() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: colour("--line"), linecolor: colour("--line-strong"), zerolinecolor: colour("--line-strong"), tickcolor: colour("--line-strong"), automargin: true };
  return {
    axis,
    layout: {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: style.getPropertyValue("--sans"), size: 12, color: colour("--ink-2") },
      margin: { l: 56, r: 12, t: 8, b: 44 },
      legend: { orientation: "h", yanchor: "bottom", y: 1.0, xanchor: "left", x: 0, bgcolor: "rgba(0,0,0,0)" },
      hoverlabel: { bgcolor: colour("--raised"), bordercolor: colour("--line-strong"), font: { color: colour("--ink"), family: style.getPropertyValue("--sans") } },
      colorway: [1, 2, 3, 4, 5, 6].map((place) => colour(`--series-${place}`)),
    },
  };
}

function merged(below, above) {
  const result = { ...below };
  for (const [name, value] of Object.entries(above ?? {}))
    result[name] = value && typeof value === "object" && !Array.isArray(value) ? merged(below?.[name] ?? {}, value) : value;
  return result;
}

// One figure at a time, those in view first, and between two of them the page reacts
const waiting = [];
let isDrawing = false;
const idle = () => new Promise((done) => { window.requestIdleCallback ? requestIdleCallback(done, { timeout: 500 }) : setTimeout(done); });

function isInView(figure) {
  const { top, bottom } = figure.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}

function draw(figure, content) {
  return new Promise((resolve, reject) => {
    waiting.push({ figure, content, resolve, reject });
    drawWaiting();
  });
}

async function drawWaiting() {
  if (isDrawing) return;
  isDrawing = true;
  while (waiting.length) {
    await idle();
    const [next] = waiting.splice(Math.max(0, waiting.findIndex(({ figure }) => isInView(figure))), 1);
    await drawNow(next.figure, next.content).then(next.resolve, next.reject);
  }
  isDrawing = false;
}

async function drawNow(figure, content) {
  const Plotly = await loadPlotly();
  const { axis, layout } = pageLayout();
  const full = merged(layout, content.layout);
  for (const name of new Set(["xaxis", "yaxis", ...Object.keys(full).filter((key) => /^[xy]axis\d*$/.test(key))])) full[name] = merged(axis, full[name]);
  if (full.annotations) full.annotations = full.annotations.map((each) => merged({ font: { color: layout.font.color } }, each));
  const canvas = figure.querySelector(".canvas");
  if (content.layout?.height) canvas.style.height = `${content.layout.height}px`;
  full.height = content.layout?.height ?? canvas.clientHeight;
  canvas.classList.remove("skeleton");
  canvas.removeAttribute("aria-hidden");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", content.summary ?? content.title ?? "");
  await Plotly.react(canvas, content.data, full, { responsive: true, displaylogo: false, displayModeBar: false });
  for (const button of figure.querySelectorAll("[data-download]")) button.hidden = false;
  showTable(figure, content.table);
}

/** The same as a table, for those who do not see the figure. */
function showTable(figure, table) {
  if (!table) return;
  let details = figure.querySelector("details.as-table");
  const isOpen = details?.open;
  details?.remove();
  details = Object.assign(document.createElement("details"), { className: "as-table", open: Boolean(isOpen) });
  details.append(Object.assign(document.createElement("summary"), { textContent: "As a table" }));
  const fill = () => {
    if (details.querySelector("table")) return;
    const element = document.createElement("table");
    const head = element.createTHead().insertRow();
    for (const column of table.columns) head.append(Object.assign(document.createElement("th"), { scope: "col", textContent: column }));
    const body = element.createTBody();
    for (const row of table.rows.slice(0, 1000)) {
      const line = body.insertRow();
      for (const cell of row) {
        const field = line.insertCell();
        field.textContent = typeof cell === "number" ? Number(cell.toPrecision(5)) : cell ?? "–";
        if (typeof cell === "number") field.className = "number";
      }
    }
    const scroll = Object.assign(document.createElement("div"), { className: "scroll", tabIndex: 0 });
    scroll.append(element);
    details.append(scroll);
  };
  details.addEventListener("toggle", fill, { once: true });
  if (isOpen) fill();
  figure.append(details);
}

/** What costs nothing is drawn at once; what takes the server seconds follows, from under `more`. */
async function load(figure) {
  const turn = figure.turn = (figure.turn ?? 0) + 1;
  try {
    const inline = figure.querySelector('script[type="application/json"]'); // its content came with the page
    let content = inline ? JSON.parse(inline.textContent) : await hindsight.json(figure.dataset.figure);
    if (!figure.content?.isFull || !content.more) await show(figure, content);
    if (content.more) {
      figure.setAttribute("aria-busy", "true");
      content = { ...(await hindsight.json(content.more)), isFull: true };
      if (turn === figure.turn) await show(figure, content);
    }
  } catch (error) {
    if (!figure.content && figure.hasAttribute("data-quiet")) figure.hidden = true;
    else if (!figure.content?.data.length) say(figure, error.message);
  }
  if (turn === figure.turn) figure.removeAttribute("aria-busy");
}

async function show(figure, content) {
  figure.content = content;
  if (!content.data.length) { say(figure, content.empty ?? "There is nothing to draw yet."); return; }
  figure.querySelector(".nothing")?.remove();
  figure.classList.remove("is-empty");
  await draw(figure, content);
}

function say(figure, text) {
  figure.querySelector(".canvas").classList.remove("skeleton");
  figure.classList.add("is-empty");
  let note = figure.querySelector(".nothing");
  if (!note) { note = Object.assign(document.createElement("p"), { className: "nothing quiet" }); figure.querySelector(".canvas").after(note); }
  note.textContent = text;
}

function csv(table) {
  const cell = (value) => {
    let text = value === null || value === undefined ? "" : String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`; // no formula for a spreadsheet
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [table.columns, ...table.rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function save(name, url) {
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("figure [data-download]");
  if (!button) return;
  const figure = button.closest("figure");
  const name = (figure.content.title ?? "figure").replace(/[^\p{L}\p{N}._-]+/gu, "-");
  if (button.dataset.download === "csv") {
    const url = URL.createObjectURL(new Blob([csv(figure.content.table)], { type: "text/csv" }));
    save(`${name}.csv`, url);
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    return;
  }
  const canvas = figure.querySelector(".canvas");
  const background = getComputedStyle(document.documentElement).getPropertyValue("--raised").trim();
  const Plotly = await loadPlotly();
  await Plotly.relayout(canvas, { paper_bgcolor: background });
  const image = await Plotly.toImage(canvas, { format: "png", scale: 2, width: canvas.clientWidth, height: canvas.clientHeight });
  await Plotly.relayout(canvas, { paper_bgcolor: "rgba(0,0,0,0)" });
  save(`${name}.png`, image);
});

hindsight.reload = (figure) => { if (figure.content) load(figure); };
hindsight.onEach("figure[data-figure]", (figure) => hindsight.whenSeen(figure, () => {
  load(figure);
  idle().then(loadPlotly).catch(() => {}); // meanwhile; where it does not come, who draws says so
}));
// Once in a window it is read while nothing else is to be done, so that the first figures need not wait for it
addEventListener("load", () => {
  if (document.querySelector("figure[data-figure]")) return;
  try {
    if (sessionStorage.getItem("plotly") === plotlyUrl) return;
    sessionStorage.setItem("plotly", plotlyUrl);
  } catch { return; /* no storage: it would be read again on each page */ }
  window.requestIdleCallback?.(() => loadPlotly().catch(() => {}));
});
document.addEventListener("theme", () => {
  for (const figure of document.querySelectorAll("figure[data-figure]")) if (figure.content?.data.length) draw(figure, figure.content);
});

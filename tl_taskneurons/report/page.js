// Sorting of tables, and the view of neurons. The state is in the address after the #, so that it
// can be linked: #task=..&selection=..&layer=..&neuron=5.123&tint=relevance, #sort=table:column:asc
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function rounded(value) {
  const size = Math.abs(value);
  const text = size && size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  return text.replaceAll("-", "\u2212");
}

function signed(value) {
  return (value < 0 ? "" : "+") + rounded(value);
}

function visible(token) {
  return token.replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5");
}

// ---- Sorting ------------------------------------------------------------------------------------

function sortTable(table, column, direction) {
  const headings = [...table.tHead.rows[0].cells];
  const isNumber = headings[column].classList.contains("number");
  const value = (row) => {
    const cell = row.cells[column];
    // The tooltip has the number before rounding; a cell without one has no number.
    return isNumber ? (cell.title ? parseFloat(cell.title) : NaN) : cell.title || cell.textContent;
  };
  const sign = direction === "descending" ? -1 : 1;
  const rows = [...table.tBodies[0].rows].map((row) => [value(row), row]);
  rows.sort(([a], [b]) => {
    if (!isNumber) return sign * a.localeCompare(b);
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return sign * (a - b);
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
  headings.forEach((heading, i) => heading.setAttribute("aria-sort", i === column ? direction : "none"));
}

function enableSorting() {
  document.addEventListener("click", (event) => {
    const heading = event.target.closest(".data th");
    if (!heading) return;
    const numberFirst = heading.classList.contains("number") ? "descending" : "ascending";
    const other = { ascending: "descending", descending: "ascending" };
    sortTable(heading.closest("table"), heading.cellIndex, other[heading.getAttribute("aria-sort")] ?? numberFirst);
  });
}

function sortFromAddress(wanted) {
  const [name, column, direction] = wanted.split(":");
  const table = [...document.querySelectorAll("table.data")].find((one) => one.dataset.name === name);
  const index = table ? [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.trim() === column) : -1;
  if (index >= 0) {
    sortTable(table, index, direction === "asc" ? "ascending" : "descending");
    table.closest("section").scrollIntoView();
  }
}

// ---- The view of neurons ------------------------------------------------------------------------

const state = { task: "", selection: "", layer: "all", neuron: "", tint: "activation" };

const currentSet = () => data.sets[state.selection][state.task];
const nameOf = (entry) => `${entry.layer}.${entry.neuron}`;

function choose(changes) {
  Object.assign(state, changes);
  if (!Object.hasOwn(data.sets, state.selection)) state.selection = Object.keys(data.sets)[0];
  if (!Object.hasOwn(data.sets[state.selection], state.task)) state.task = Object.keys(data.sets[state.selection])[0];
  if (!(Number(state.layer) < data.layers)) state.layer = "all";
  const listed = listedNeurons();
  if (!listed.some((entry) => nameOf(entry) === state.neuron)) state.neuron = listed.length ? nameOf(listed[0]) : "";
  showControls();
  showLayers();
  showMap();
  showList(listed);
  showDetail(listed.find((entry) => nameOf(entry) === state.neuron));
}

function remember() {
  history.replaceState(null, "", "#" + new URLSearchParams(state));
}

function listedNeurons() {
  return currentSet().neurons.filter((entry) => state.layer === "all" || entry.layer === Number(state.layer));
}

function fill(select, names, chosen) {
  select.replaceChildren(...names.map((name) => make("option", { value: name, textContent: name })));
  select.value = chosen;
}

function showControls() {
  fill(find("selection"), Object.keys(data.sets), state.selection);
  fill(find("task"), Object.keys(data.sets[state.selection]), state.task);
  find("tint").value = state.tint;
}

function showLayers() {
  const counts = currentSet().counts;
  const most = Math.max(...counts, 1);
  const button = (layer, label, title, ...children) => {
    const made = make("button", { type: "button", title }, ...children, label);
    made.dataset.layer = layer;
    made.setAttribute("aria-pressed", String(state.layer === String(layer)));
    return made;
  };
  const all = button("all", "all", "Neurons of all layers");
  all.className = "all";
  find("layers").replaceChildren(all, ...counts.map((count, layer) => {
    const bar = make("span");
    bar.style.height = `${(100 * count) / most}%`;
    return button(layer, String(layer), `Layer ${layer}: ${count} neurons`, make("div", { className: "column" }, bar));
  }));
}

function showMap() {
  const canvas = find("map").querySelector("canvas");
  const map = Object.hasOwn(data.maps, state.task) ? data.maps[state.task] : null;
  canvas.hidden = !map;
  if (!map) return;
  const sizes = Uint8Array.from(atob(map.sizes), (char) => char.charCodeAt(0));
  const rows = sizes.length / map.columns;
  Object.assign(canvas, { width: map.columns, height: rows });
  canvas.style.height = `${Math.max(8, Math.min(20, 0.4 * rows))}rem`;
  const [red, green, blue] = getComputedStyle(document.documentElement).getPropertyValue("--above").split(",").map(Number);
  const context = canvas.getContext("2d");
  const picture = context.createImageData(map.columns, rows);
  sizes.forEach((size, i) => picture.data.set([red, green, blue, size], 4 * i));
  context.putImageData(picture, 0, 0);
  const shared = map.step > 1 ? `; ${map.step} neurons share a column, of which the largest counts` : "";
  find("map").querySelector("p").textContent =
    `Layer 0 at the top; logarithmic, over four decades below ${rounded(map.largest)}${shared}. Click on a layer to list its neurons.`;
}

function showList(listed) {
  const counts = currentSet().counts;
  const here = state.layer === "all" ? counts.reduce((a, b) => a + b, 0) : counts[Number(state.layer)];
  const where = state.layer === "all" ? "the task's neurons" : `the task's neurons in layer ${state.layer}`;
  find("listed").textContent = `${listed.length} of ${where} (${here}) are listed` +
    (listed.length < here ? ": the best of each layer, then the best of all." : ".") +
    (typeof currentSet().returns === "number" ? ` ${Math.round(100 * currentSet().returns)}% of the task's neurons return when half the examples choose them.` : "") +
    (data.about ? ` Score: ${data.about}.` : "");
  const number = (value, text) => make("td", { className: "number", title: String(value), textContent: text });
  const table = find("list").querySelector("table");
  table.tBodies[0].replaceChildren(...listed.map((entry) => {
    const row = make("tr", { tabIndex: 0 }, number(entry.layer, entry.layer), number(entry.neuron, entry.neuron),
      number(entry.score, rounded(entry.score)), number(entry.shared.length, entry.shared.length));
    row.dataset.neuron = nameOf(entry);
    return row;
  }));
  const sorted = [...table.tHead.rows[0].cells].findIndex((cell) => cell.getAttribute("aria-sort") !== "none");
  sortTable(table, sorted, table.tHead.rows[0].cells[sorted].getAttribute("aria-sort"));
  markSelected();
}

function markSelected() {
  for (const row of find("list").querySelectorAll("tbody tr")) {
    row.setAttribute("aria-selected", String(row.dataset.neuron === state.neuron));
  }
}

function showDetail(entry) {
  if (!entry) {
    find("detail").replaceChildren(make("p", { className: "note", textContent: "No neuron to show: none of the task's neurons in this layer is listed." }));
    return;
  }
  const parts = [make("h3", { textContent: `Layer ${entry.layer}, neuron ${entry.neuron}` })];
  const shared = entry.shared.length ? `also selected for ${entry.shared.join(", ")}` : "selected for no other task";
  parts.push(make("p", { className: "note", textContent: `Score ${rounded(entry.score)} for ${state.task}; ${shared}.` }));
  if (entry.examples) {
    for (const [title, tokens] of [["Promotes", entry.promoted], ["Suppresses", entry.suppressed]]) {
      parts.push(make("h4", { textContent: `${title} (output weights, per unit of activation)` }), chips(tokens));
    }
    const what = `Texts that excite it most, of ${entry.seen}, coloured by ${state.tint}`;
    parts.push(make("h4", { textContent: what }), ...entry.examples.map((example) => exampleOf(entry, example)), legend());
  }
  const scores = Object.entries(entry.scores);
  if (scores.length > 1) parts.push(make("h4", { textContent: "Its score in each task" }), scoreBars(scores));
  find("detail").replaceChildren(...parts);
}

function chips(tokens) {
  return make("div", { className: "tokens" }, ...tokens.map(([token, effect]) =>
    make("code", { textContent: visible(token), title: signed(effect) })));
}

function exampleOf(entry, example) {
  const text = data.texts[state.task][example.text];
  const key = state.tint === "relevance" ? "relevances" : "activations";
  const peak = Math.max(...entry.examples.flatMap((one) => one[key].map(Math.abs)));
  const unit = key === "relevances" ? " nats" : "";
  const spans = text.tokens.map((token, i) => {
    const value = example[key][i];
    const span = make("span", { textContent: visible(token), title: `${JSON.stringify(token)}: ${signed(value)}${unit}` });
    const strength = peak ? 0.7 * Math.abs(value) / peak : 0;
    span.style.background = `rgba(var(--${value < 0 ? "below" : "above"}), ${strength.toFixed(2)})`;
    if (i >= text.answer) span.className = "answer";
    return span;
  });
  const strongest = example.activations.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a));
  const about = `example ${example.text}: activation ${signed(strongest)}, relevance ${signed(example.relevance)} nats, ` +
    `after ${text.context} tokens of context`;
  return make("div", { className: "example" }, make("div", { className: "text" }, ...spans), make("small", { textContent: about }));
}

function legend() {
  const words = state.tint === "relevance"
    ? "Orange: the neuron raises the answer's loss there; blue: it lowers the loss, so it helps. Gradient times activation, to first order."
    : "Orange: positive activation; blue: negative, where the neuron promotes what is listed as suppressed.";
  return make("p", { className: "note", textContent: `${words} The answer is underlined. Point at a token for the number.` });
}

function scoreBars(scores) {
  const most = Math.max(...scores.map(([, score]) => Math.abs(score))) || 1;
  return make("div", { className: "scores" }, ...scores.flatMap(([task, score]) => {
    const className = task === state.task ? "own" : "";
    const bar = make("div", { className });
    bar.style.width = `${(100 * Math.abs(score)) / most}%`;
    return [make("span", { className, textContent: task }), bar, make("span", { className, textContent: rounded(score), title: String(score) })];
  }));
}

function enableView() {
  const change = (changes) => { choose(changes); remember(); };
  for (const name of ["task", "selection", "tint"]) {
    find(name).addEventListener("change", (event) => change({ [name]: event.target.value }));
  }
  find("layers").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) change({ layer: button.dataset.layer });
  });
  find("map").querySelector("canvas").addEventListener("click", (event) => {
    const box = event.target.getBoundingClientRect();
    change({ layer: String(Math.floor((event.target.height * (event.clientY - box.top)) / box.height)) });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showMap);
  const pick = (row) => {
    state.neuron = row.dataset.neuron;
    markSelected();
    showDetail(listedNeurons().find((entry) => nameOf(entry) === state.neuron));
    remember();
  };
  const list = find("list");
  list.addEventListener("click", (event) => {
    const row = event.target.closest("tbody tr");
    if (row) pick(row);
  });
  list.addEventListener("keydown", (event) => {
    const row = event.target.closest("tbody tr");
    const next = { ArrowDown: row?.nextElementSibling, ArrowUp: row?.previousElementSibling, Enter: row }[event.key];
    if (next) { event.preventDefault(); next.focus(); pick(next); }
  });
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (data && Object.keys(state).some((name) => given.has(name))) {
    choose(Object.fromEntries(Object.keys(state).filter((name) => given.has(name)).map((name) => [name, given.get(name)])));
    find("neurons").scrollIntoView();
  }
  if (given.has("sort")) sortFromAddress(given.get("sort"));
}

enableSorting();
if (data) { enableView(); choose({}); }
readAddress();
addEventListener("hashchange", readAddress);
document.documentElement.dataset.ready = String(Math.round(performance.now()));

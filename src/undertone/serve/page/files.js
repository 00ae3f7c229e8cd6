// Several files: a table that fills as answers come, sorted by any column, to take away as CSV or JSON.

import * as api from "./api.js";
import { clock, element, legend, percent, swatch } from "./draw.js";
import { busy, byId, chosenModel, complain, save, say, show } from "./shell.js";

const FILES_A_REQUEST = 4; // rows appear a few at a time
const BYTES_A_REQUEST = 8e6;
const AT_A_TIME = 2;

const body = byId("files-table").tBodies[0];
let rows = []; // {file, result, line}
let order = { key: null, up: true };
let work = null;
let openRow = () => {};

/** Send all files and show the table; `onOpen` gets the file whose row is chosen. */
export async function openFiles(files, onOpen) {
  work?.abort();
  work = new AbortController();
  const { signal } = work;
  openRow = onOpen;
  order = { key: null, up: true };
  rows = files.map((file) => ({ file, result: null, line: element("tr") }));
  byId("files-title").textContent = `${files.length} files`;
  byId("files-legend").replaceChildren();
  showOrder();
  show("files-view");
  rows.forEach(fill);
  body.replaceChildren(...rows.map(({ line }) => line));
  tellProgress();
  const waiting = batches(rows);
  const worker = async () => {
    for (let batch = waiting.shift(); batch; batch = waiting.shift()) await predictBatch(batch, signal);
  };
  try {
    await Promise.all(Array.from({ length: AT_A_TIME }, worker));
    tellEnd();
  } catch (error) {
    waiting.length = 0;
    complain(error);
  }
}

export function stopFiles() {
  work?.abort();
}

/** The table as it was left. */
export function backToFiles() {
  show("files-view");
}

export const reopenFiles = () => openFiles(rows.map(({ file }) => file), openRow);

function batches(all) {
  const made = [];
  let bytes = Infinity;
  for (const row of all) {
    if (bytes + row.file.size > BYTES_A_REQUEST || made.at(-1).length >= FILES_A_REQUEST) {
      made.push([]);
      bytes = 0;
    }
    made.at(-1).push(row);
    bytes += row.file.size;
  }
  return made;
}

async function predictBatch(batch, signal) {
  const files = batch.map(({ file }) => file);
  let results;
  try {
    ({ predictions: results } = await api.predict(files, { model: chosenModel(), signal, onWait: busy }));
  } catch (error) {
    if (!(error instanceof api.ServiceError) || error.status < 400 || error.status >= 500 || error.status === 401) throw error;
    if (batch.length > 1) {
      for (const row of batch) await predictBatch([row], signal); // one bad file costs its own row only
      return;
    }
    results = [{ emotion: null, confidence: null, probs: {}, error: error.message }];
  }
  batch.forEach((row, index) => {
    row.result = results[index];
    fill(row);
  });
  if (order.key) sort();
  tellProgress();
}

function fill(row) {
  const { file, result, line } = row;
  const name = element("th", { scope: "row" });
  line.replaceChildren(name);
  if (!result || result.error) {
    name.textContent = file.name;
    const words = element("td", { colSpan: 4, textContent: result ? result.error : "waiting", className: result ? "fault" : "small" });
    line.append(words);
    return;
  }
  const open = element("button", { type: "button", className: "link", textContent: file.name });
  open.addEventListener("click", () => openRow(file));
  name.append(open);
  const stack = element("span", { className: "stack" });
  stack.setAttribute("aria-hidden", "true");
  for (const [emotion, prob] of Object.entries(result.probs)) {
    const part = element("span", { title: `${emotion} ${percent(prob)}` });
    part.dataset.emotion = emotion;
    part.style.width = `${100 * prob}%`;
    stack.append(part);
  }
  line.append(
    element("td", {}, element("span", { className: "emotion" }, swatch(result.emotion), result.emotion)),
    element("td", { className: "number", textContent: percent(result.confidence) }),
    element("td", { className: "wide" }, stack),
    element("td", { className: "number", textContent: clock(result.end_s - result.start_s) }),
  );
}

function tellProgress() {
  const done = rows.filter(({ result }) => result);
  const failed = done.filter(({ result }) => result.error);
  byId("files-progress").max = rows.length;
  byId("files-progress").value = done.length;
  byId("files-progress").hidden = done.length === rows.length;
  byId("files-meta").textContent =
    `${done.length} of ${rows.length} done` + (failed.length ? `, ${failed.length} could not be used` : "");
  const heard = done.find(({ result }) => !result.error);
  if (heard) legend(byId("files-legend"), Object.keys(heard.result.probs));
}

function tellEnd() {
  const failed = rows.filter(({ result }) => result.error).length;
  say(`All ${rows.length} files done${failed ? `; ${failed} could not be used, their rows say why` : ""}.`, { seen: failed > 0 });
}

// Order ---------------------------------------------------------------------------------------------------------

const KEYS = {
  name: ({ file }) => file.name,
  emotion: ({ result }) => result?.emotion ?? "￿", // errors last
  confidence: ({ result }) => result?.confidence ?? -1,
  duration: ({ result }) => (result && !result.error ? result.end_s - result.start_s : -1),
};

byId("files-table").tHead.addEventListener("click", ({ target }) => {
  const key = target.closest("[data-sort]")?.dataset.sort;
  if (!key) return;
  const startsUp = key === "name" || key === "emotion";
  order = { key, up: order.key === key ? !order.up : startsUp };
  showOrder();
  sort();
});

function showOrder() {
  for (const button of document.querySelectorAll("[data-sort]")) {
    const isKey = button.dataset.sort === order.key;
    button.closest("th").setAttribute("aria-sort", isKey ? (order.up ? "ascending" : "descending") : "none");
  }
}

function sort() {
  const key = KEYS[order.key];
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
  const sorted = [...rows].sort((a, b) => (order.up ? 1 : -1) * compare(key(a), key(b)));
  body.append(...sorted.map(({ line }) => line));
}

// Taking it away ------------------------------------------------------------------------------------------------

const finished = () =>
  rows
    .filter(({ result }) => result)
    .map(({ file, result }) => ({
      path: file.webkitRelativePath || file.name,
      start_s: result.start_s ?? null,
      end_s: result.end_s ?? null,
      emotion: result.emotion,
      confidence: result.confidence,
      probs: result.probs,
      error: result.error ?? null,
    }));

byId("files-json").addEventListener("click", () =>
  save(`${JSON.stringify(finished(), null, 1)}\n`, "undertone.json", "application/json"),
);

byId("files-csv").addEventListener("click", () => {
  const labels = [...new Set(finished().flatMap(({ probs }) => Object.keys(probs)))];
  const quoted = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = finished().map(({ path, start_s, end_s, emotion, confidence, probs, error }) =>
    [path, start_s, end_s, emotion, confidence, ...labels.map((label) => probs[label]), error].map(quoted).join(),
  );
  const head = ["path", "start_s", "end_s", "emotion", "confidence", ...labels, "error"].join();
  save(`${[head, ...lines].join("\n")}\n`, "undertone.csv", "text/csv");
});

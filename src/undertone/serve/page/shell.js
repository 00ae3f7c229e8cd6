// What the parts of the page share: which view is open, what is said to the visitor, the chosen model.

import { element } from "./draw.js";

const VIEWS = ["live-view", "files-view", "clip-view"];
const status = document.getElementById("status");
const alertBox = document.getElementById("alert");
const model = document.getElementById("model");

export const byId = (id) => document.getElementById(id);
export const chosenModel = () => model.value;

/** Show one view, or none, and put the reader at its title. */
export function show(view, state = "heard") {
  document.body.dataset.view = view ? state : "welcome";
  for (const id of VIEWS) byId(id).hidden = id !== view;
  if (view) byId(view).querySelector("h2").focus({ preventScroll: true });
}

/** Tell what is going on, read out when the reader is idle; seen, unless the same is to be seen elsewhere. */
export function say(text, { seen = true } = {}) {
  status.classList.toggle("silent", !seen);
  if (status.textContent !== text) status.textContent = text;
}

/** Show an error as text that says what to do, until it is closed or the next thing is begun. */
export function complain(error) {
  if (error.name === "AbortError") return;
  say("");
  const close = element("button", { type: "button", className: "quiet", textContent: "Close" });
  close.addEventListener("click", forgive);
  alertBox.replaceChildren(element("span", { textContent: error.message }), close);
  alertBox.scrollIntoView({ block: "nearest" });
}

export function forgive() {
  alertBox.replaceChildren();
}

/** Give the visitor a file. */
export function save(content, name, type = "application/octet-stream") {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export const stem = (name) => name.replace(/\.[^.]*$/, "");
export const busy = (wait_s) => say(`The service is busy; trying again in ${Math.ceil(wait_s)} s.`);
export const sending = (share) => share < 1 && say(`Sending, ${Math.round(100 * share)} %`);

// Where sound comes in: files chosen, dropped or pasted, the examples, the microphone. Everything else follows from it.

import * as api from "./api.js";
import { loadCard, showCard } from "./card.js";
import { closeClip, isOpen, openClip, reopenClip } from "./clip.js";
import { element } from "./draw.js";
import { backToFiles, openFiles, reopenFiles, stopFiles } from "./files.js";
import { onRecorded, startListening, stopListening } from "./live.js";
import { byId, chosenModel, complain, forgive, say } from "./shell.js";
import { SAMPLE_RATE, decode, join, mix, toWav } from "./sound.js";

const EXAMPLES = ["loud-fast.wav", "slow-quiet.opus", "hushed-rushed.flac", "bright.flac", "flat.flac"];
const GAP_S = 0.8;

// Files ---------------------------------------------------------------------------------------------------------

/** What the visitor gave: one recording, or a table of several. */
async function take(files, hint = "") {
  if (!files.length || !(await isReady())) return;
  await stopListening();
  stopFiles();
  closeClip();
  if (files.length === 1) return openClip(files[0], { hint });
  return openFiles(files, (file) => openClip(file, { onBack: backToFiles }));
}

byId("choose").addEventListener("click", () => byId("picker").click());
byId("picker").addEventListener("change", ({ target }) => {
  take([...target.files]);
  target.value = ""; // the same file may be chosen again
});

const hasFiles = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
let nEntered = 0; // elements below the pointer: leaving one for its child is no leaving
addEventListener("dragenter", (event) => {
  if (!hasFiles(event)) return;
  nEntered += 1;
  byId("dropping").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!hasFiles(event)) return;
  nEntered -= 1;
  byId("dropping").hidden = nEntered <= 0;
});
addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
addEventListener("drop", async (event) => {
  nEntered = 0;
  byId("dropping").hidden = true;
  if (!hasFiles(event)) return;
  event.preventDefault();
  const files = await filesOf(event.dataTransfer);
  if (files.length) take(files);
  else complain(new Error("There is no file in what was dropped. Drop sound files, or a folder that has some."));
});
addEventListener("paste", ({ clipboardData }) => take([...clipboardData.files]));

/** All files that were dropped, those in folders too. */
async function filesOf({ items, files }) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  return entries.length ? (await Promise.all(entries.map(filesBelow))).flat() : [...files];
}

async function filesBelow(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // a hundred at a time
    if (!some.length) break;
    found.push(...some);
  }
  const sounds = found.filter(({ name, isDirectory }) => isDirectory || /\.(wav|flac|ogg|oga|opus|mp3|aiff?|aifc)$/i.test(name));
  return (await Promise.all(sounds.map(filesBelow))).flat();
}

// Examples ------------------------------------------------------------------------------------------------------

async function example(name) {
  const response = await fetch(`static/examples/${name}`);
  if (!response.ok) throw new Error("This service has no examples. Choose a file of your own.");
  return new File([await response.blob()], name);
}

/** All examples as one recording, put together here. */
async function allExamples() {
  const decoded = await Promise.all(EXAMPLES.map(async (name) => decode(await example(name))));
  const waveforms = decoded.filter(Boolean).map((channels) => level(mix(channels)));
  return toWav(join(waveforms, GAP_S), SAMPLE_RATE, "five-in-a-row.wav");
}

function level(waveform) {
  const loudest = waveform.reduce((largest, sample) => Math.max(largest, Math.abs(sample)), 1e-4);
  return waveform.map((sample) => (0.6 * sample) / loudest);
}

for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", async () => {
    const name = button.dataset.example;
    say("Fetching the example.");
    try {
      await take([name === "all" ? await allExamples() : await example(name)], "a synthetic voice");
    } catch (error) {
      complain(error);
    }
  });
}

// Microphone ----------------------------------------------------------------------------------------------------

for (const mode of ["record", "live"]) {
  byId(mode).addEventListener("click", async () => {
    if (!(await isReady())) return;
    stopFiles();
    closeClip();
    try {
      const { labels } = await loadCard(chosenModel());
      await startListening(mode, labels);
    } catch (error) {
      complain(error);
    }
  });
}
onRecorded((file) => openClip(file));

// Model, token, host --------------------------------------------------------------------------------------------

let listing = null;

/** Whether the models are known; asks for them, and for the token, where that did not succeed before. */
async function isReady() {
  forgive();
  try {
    await (listing ??= listModels());
    return true;
  } catch (error) {
    listing = null;
    complain(error);
    return false;
  }
}

async function listModels() {
  const { default: first, models } = await api.models();
  byId("model").replaceChildren(
    ...models.map(({ name }) => element("option", { value: name, textContent: name, selected: name === first })),
  );
  byId("model-choice").classList.toggle("only", models.length === 1);
  byId("model").disabled = byId("open-card").disabled = false;
}

byId("model").addEventListener("change", () => {
  forgive();
  if (isOpen()) reopenClip();
  else if (!byId("files-view").hidden) reopenFiles();
});

for (const [id, part] of [["open-card", ""], ["open-limits", "card-limits"]]) {
  byId(id).addEventListener("click", () => showCard(chosenModel(), part).catch(complain));
}

let asking = null; // several requests may be refused at once: one question for all
api.onTokenNeeded((fault) => {
  asking ??= new Promise((resolve) => {
    const dialog = byId("token");
    byId("token-fault").textContent = fault;
    byId("token-value").value = "";
    dialog.returnValue = "";
    dialog.showModal();
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        resolve(dialog.returnValue === "given" ? byId("token-value").value.trim() : null);
      },
      { once: true },
    );
  });
  return asking;
});

const isHere = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
byId("host").textContent = isHere ? "this computer" : location.host;
isReady();

// The microphone: a clip to record, or live answers while one speaks.

import { LiveConnection } from "./api.js";
import { clock, drawBars, drawLiveWave, drawRibbon, element, legend, percent, verdict } from "./draw.js";
import { Microphone, toPcm, toWav } from "./sound.js";
import { byId, chosenModel, complain, forgive, save, say, show } from "./shell.js";

const MAX_SPAN_S = 12; // of sound in view
const PX_PER_S = 75; // so that the strokes of a wave stay apart
const QUIET_DB = -60; // below this there is no voice to answer for
const MAX_RECORDING_S = 300;
const KEPT_S = 600; // of a live session's sound
const ANNOUNCE_EVERY_MS = 3000;
const FAR_BEHIND_S = 2; // of sound that waits to be sent

let session = null;
let openClip = () => {};

export function onRecorded(open) {
  openClip = open;
}

/** Start to listen: `mode` is "record" or "live", `labels` the chosen model's emotions. */
export async function startListening(mode, labels) {
  forgive();
  await stopListening();
  const starting = new Session(mode, labels);
  session = starting;
  say("Waiting for the microphone.");
  try {
    await starting.start();
  } catch (error) {
    if (session === starting) session = null;
    await starting.release();
    show(null);
    complain(error);
  }
}

/** End without keeping anything: something else was begun. */
export async function stopListening() {
  const ending = session;
  session = null;
  await ending?.release();
}

byId("stop").addEventListener("click", () => session?.end());
byId("microphone").addEventListener("change", ({ target }) => session?.change(target.value));
document.addEventListener("themechange", () => session?.draw());

class Session {
  constructor(mode, labels) {
    this.mode = mode;
    this.labels = labels;
    this.pcm = []; // what was heard, KEPT_S at most
    this.pieces = []; // {end_s, peak, emotion, at_ms}: what the wave shows
    this.updates = [];
    this.delays = [];
    this.nSamples = 0;
    this.announced = { emotion: null, at_ms: -Infinity };
    this.ended = false;
  }

  get span_s() {
    return Math.min(MAX_SPAN_S, byId("live-wave").clientWidth / PX_PER_S);
  }

  get now_s() {
    return this.nSamples / this.sampleRate;
  }

  async start() {
    this.microphone = await Microphone.open(this.callbacks());
    this.sampleRate = this.microphone.sampleRate;
    if (this.mode === "live") {
      this.connection = await LiveConnection.open({
        model: chosenModel(),
        sampleRate: this.sampleRate,
        onUpdate: (update) => this.take(update),
        onLost: (error) => this.end(error),
      });
    }
    if (session !== this) return this.release();
    this.prepareView();
    await this.listMicrophones();
  }

  callbacks(deviceId) {
    return {
      deviceId,
      onPiece: (samples) => this.hear(samples),
      onLost: () => this.end(new Error("The microphone is gone. Connect it and start once more.")),
    };
  }

  prepareView() {
    const isLive = this.mode === "live";
    byId("live-title").replaceChildren(element("span", { className: "dot pulse" }), isLive ? " Live" : " Recording");
    byId("stop-text").textContent = isLive ? "Stop" : "Stop and listen";
    byId("stop").hidden = false;
    byId("live-after").hidden = true;
    byId("live-answer").hidden = byId("live-ribbon").hidden = !isLive;
    byId("live-verdict").replaceChildren();
    byId("live-bars").dataset.emotions = "";
    legend(byId("live-caption"), isLive ? this.labels : []);
    byId("live-caption").className = "legend";
    show("live-view", "live");
    byId("stop").focus({ preventScroll: true });
    if (isLive) {
      drawBars(byId("live-bars"), {}, this.labels);
      verdict(byId("live-verdict"), { word: "listening" });
    }
    say(isLive ? "Listening. Speak for a second or two." : "Recording. Nothing is sent before you stop.");
  }

  async listMicrophones() {
    const devices = await Microphone.list();
    byId("microphone-choice").hidden = devices.length < 2;
    const current = this.microphone.stream.getAudioTracks()[0]?.getSettings().deviceId;
    byId("microphone").replaceChildren(
      ...devices.map(({ label, deviceId }, index) =>
        element("option", { value: deviceId, textContent: label || `microphone ${index + 1}`, selected: deviceId === current }),
      ),
    );
  }

  async change(deviceId) {
    try {
      await this.microphone.close();
      this.microphone = await Microphone.open(this.callbacks(deviceId));
      if (this.microphone.sampleRate !== this.sampleRate) throw new Error("That microphone has another rate. Stop and start once more.");
    } catch (error) {
      this.end(error);
    }
  }

  hear(samples) {
    if (this.ended || !this.sampleRate || (this.mode === "live" && !this.connection)) return;
    const pcm = toPcm(samples);
    this.nSamples += pcm.length;
    this.keep(pcm);
    const peak = samples.reduce((largest, sample) => Math.max(largest, Math.abs(sample)), 0);
    this.pieces.push({ end_s: this.now_s, peak, emotion: null, at_ms: performance.now() });
    while (this.pieces[0].end_s < this.now_s - MAX_SPAN_S) this.pieces.shift();
    this.connection?.send(pcm);
    if (this.connection?.waiting > FAR_BEHIND_S * 2 * this.sampleRate) say("The service is falling behind; answers come late.");
    this.draw();
    if (this.mode === "record" && this.now_s >= MAX_RECORDING_S) this.end();
  }

  keep(pcm) {
    this.pcm.push(pcm);
    const tooMany = this.pcm.length - Math.ceil(KEPT_S / 0.04);
    if (tooMany > 0) this.pcm.splice(0, tooMany);
  }

  /** One answer of the service. */
  take(update) {
    const before = this.updates.at(-1)?.end_s ?? 0;
    const isQuiet = update.level_db < QUIET_DB;
    const fresh = this.pieces.filter(({ end_s }) => end_s > before && end_s <= update.end_s + 0.02);
    for (const piece of fresh) piece.emotion = isQuiet ? null : update.emotion;
    this.updates.push({ ...update, isQuiet, hop_s: update.end_s - before });
    if (fresh.length) this.delays.push(performance.now() - fresh.at(-1).at_ms);
    this.delays.splice(0, this.delays.length - 9);
    drawBars(byId("live-bars"), isQuiet ? {} : update.probs, this.labels);
    verdict(
      byId("live-verdict"),
      isQuiet
        ? { word: "quiet" }
        : { lead: update.confidence < 0.5 ? "perhaps" : "sounds like", emotion: update.emotion, sure: `${percent(update.confidence)} sure` },
    );
    this.announce(isQuiet ? null : update);
    this.draw();
  }

  announce(update) {
    const at_ms = performance.now();
    if (!update || update.emotion === this.announced.emotion || at_ms - this.announced.at_ms < ANNOUNCE_EVERY_MS) return;
    this.announced = { emotion: update.emotion, at_ms };
    say(`${update.emotion}, ${percent(update.confidence)}`, { seen: false });
  }

  get delay_ms() {
    const sorted = [...this.delays].sort((a, b) => a - b);
    return sorted[sorted.length >> 1];
  }

  draw() {
    if (byId("live-view").hidden) return;
    drawLiveWave(byId("live-wave"), this.pieces, this.now_s, this.span_s, this.mode === "record" ? "ink" : "faint");
    const recent = this.updates.filter(({ end_s, isQuiet }) => end_s > this.now_s - MAX_SPAN_S && !isQuiet);
    if (this.mode === "live") drawRibbon(byId("live-ribbon"), recent, this.labels, this.now_s, this.span_s);
    const delay = this.delay_ms === undefined ? "" : ` · answers ${(this.delay_ms / 1000).toFixed(2)} s after the sound`;
    byId("live-meta").textContent = clock(this.now_s) + (this.ended ? "" : delay);
    if (this.delay_ms !== undefined) byId("live-meta").dataset.delayMs = this.delay_ms.toFixed(1);
  }

  /** Stop, keep what was heard, and show it; with an error where it did not stop by itself. */
  async end(error) {
    if (this.ended) return;
    await this.microphone?.close();
    this.ended = true;
    await this.connection?.finish();
    if (session !== this) return;
    session = null;
    if (error) complain(error);
    if (!this.nSamples || (error && this.mode === "live" && !this.updates.length)) {
      show(null);
      if (!error) complain(new Error("Nothing was heard. See whether the microphone is switched on, then start once more."));
      return;
    }
    if (this.mode === "record" && !error) openClip(this.file());
    else this.showEnd(error);
  }

  file() {
    const pcm = new Int16Array(this.pcm.reduce((sum, piece) => sum + piece.length, 0));
    let start = 0;
    for (const piece of this.pcm) {
      pcm.set(piece, start);
      start += piece.length;
    }
    const time = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
    return toWav(pcm, this.sampleRate, `${this.mode === "live" ? "live" : "recording"}-${time}.wav`);
  }

  showEnd(error) {
    document.body.dataset.view = "heard";
    byId("live-title").textContent = "What was heard";
    byId("stop").hidden = byId("microphone-choice").hidden = true;
    byId("live-after").hidden = false;
    this.draw();
    const voiced = this.updates.filter(({ isQuiet }) => !isQuiet);
    if (voiced.length) {
      const shares = Object.fromEntries(
        this.labels.map((label) => [label, voiced.reduce((sum, { probs }) => sum + (probs[label] ?? 0), 0) / voiced.length]),
      );
      const top = this.labels.reduce((best, label) => (shares[label] > shares[best] ? label : best));
      drawBars(byId("live-bars"), shares, this.labels);
      verdict(byId("live-verdict"), { lead: "on the whole", emotion: top, sure: `${percent(shares[top])} on average` });
    }
    const file = this.file();
    byId("live-open").onclick = () => openClip(file);
    byId("live-save").onclick = () => save(file, file.name);
    byId("live-open").focus({ preventScroll: true });
    if (!error) say(`Stopped after ${clock(this.now_s)}.`);
  }

  async release() {
    this.ended = true;
    await this.microphone?.close();
    this.connection?.finish();
  }
}

// One recording: its emotion, and its waveform to click and hear; the spectrogram and the timeline have files of their own.

import * as api from "./api.js";
import { loadCard, scoreLine } from "./card.js";
import { UNSURE, clock, drawBars, drawOverview, drawWave, element, legend, percent, swatch, verdict } from "./draw.js";
import { Segments, channelName, shareOf } from "./segments.js";
import { busy, byId, chosenModel, complain, forgive, say, sending, show } from "./shell.js";
import { SAMPLE_RATE, decode, mix } from "./sound.js";
import { Spectrum } from "./spectrum.js";

const LONG_S = 12; // from here on a recording is a timeline first: one emotion for all of it says little
const MAX_DECODED_S = 1800; // longer ones are not drawn as waves: decoded they would fill the memory
const MAX_DECODED_BYTES = 200e6;

let clip = null;

/** Show a recording; `onBack` is there where it came out of a table. */
export async function openClip(file, { onBack = null, hint = "" } = {}) {
  closeClip();
  forgive();
  const opened = (clip = new Clip(file, onBack, hint));
  opened.reset();
  try {
    await opened.run();
  } catch (error) {
    if (clip !== opened) return;
    byId("clip-progress").hidden = true;
    if (!opened.prediction && !opened.timeline && !onBack) show(null);
    complain(error);
  }
}

export function closeClip() {
  clip?.close();
  clip = null;
}

/** Listen again, to another model say. */
export const reopenClip = () => clip && openClip(clip.file, { onBack: clip.onBack, hint: clip.hint });
export const isOpen = () => clip !== null && !byId("clip-view").hidden;

class Clip {
  constructor(file, onBack, hint) {
    Object.assign(this, { file, onBack, hint, model: chosenModel(), channelMode: "mix" });
    this.work = new AbortController();
    this.url = URL.createObjectURL(file);
    this.audio = new Audio();
    this.isPlayable = false;
    this.duration_s = null;
    this.waveforms = null; // one for each channel
    this.prediction = this.timeline = null;
    this.view = { start_s: 0, end_s: 1 };
    this.chosen = null; // a segment
    this.stopAt_s = null;
    this.spectrum = new Spectrum(this);
    this.table = new Segments(this);
  }

  close() {
    this.work.abort();
    this.audio.pause();
    this.audio.removeAttribute("src");
    URL.revokeObjectURL(this.url);
  }

  get isClosed() {
    return clip !== this;
  }

  get options() {
    return { model: this.model, signal: this.work.signal, onWait: busy };
  }

  get isLong() {
    return this.duration_s === null ? this.file.size > 3e6 : this.duration_s > LONG_S;
  }

  reset() {
    byId("clip-title").textContent = this.file.name;
    byId("clip-meta").textContent = [this.hint, this.model].filter(Boolean).join(" · ");
    byId("back").hidden = !this.onBack;
    byId("clip-progress").hidden = false;
    for (const id of ["clip-answer", "player", "zoom", "overview", "channels", "player-note"]) {
      byId(id).hidden = true;
    }
    document.querySelector("[name=channels][value=mix]").checked = true;
    show("clip-view");
  }

  /** Everything in the order in which it is soonest seen. */
  async run() {
    say(`Listening to ${this.file.name}.`);
    await this.openAudio();
    const drawn = this.openWaveform();
    if (!this.isLong) {
      await this.predict();
      this.showPlayer();
    }
    await Promise.all([drawn.then(() => this.showPlayer()), this.listen()]);
    byId("clip-progress").hidden = true;
    this.sayAnswer();
  }

  /** Whether the browser can play it, and how long it is. */
  openAudio() {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, 3000);
      const done = () => {
        clearTimeout(timer);
        resolve();
      };
      this.audio.addEventListener("loadedmetadata", () => {
        this.isPlayable = true;
        if (Number.isFinite(this.audio.duration)) this.duration_s = this.audio.duration;
        done();
      });
      this.audio.addEventListener("error", done);
      this.audio.addEventListener("play", () => this.follow());
      for (const name of ["play", "pause", "ended"]) this.audio.addEventListener(name, () => this.showPlaying());
      this.audio.preload = "metadata";
      this.audio.src = this.url;
    });
  }

  async openWaveform() {
    if (this.duration_s === null || this.duration_s > MAX_DECODED_S || this.file.size > MAX_DECODED_BYTES) return;
    this.waveforms = await decode(this.file);
    if (!this.waveforms) return;
    this.duration_s = this.waveforms[0].length / SAMPLE_RATE;
    this.mixed = mix(this.waveforms);
    this.loudest = 1e-3;
    for (const waveform of this.waveforms) {
      for (let i = 0; i < waveform.length; i += 7) this.loudest = Math.max(this.loudest, Math.abs(waveform[i]));
    }
  }

  async predict() {
    const { predictions } = await api.predict([this.file], this.options);
    const [prediction] = predictions;
    this.prediction = prediction;
    this.duration_s ??= prediction.end_s;
    const { emotion, confidence, probs } = prediction;
    const emotions = Object.keys(probs).sort((a, b) => probs[b] - probs[a]);
    byId("clip-answer").hidden = false;
    byId("clip-bars").setAttribute("aria-label", "Probability of each emotion");
    drawBars(byId("clip-bars"), probs, emotions);
    verdict(byId("clip-verdict"), {
      lead: confidence < 0.5 ? "perhaps" : "sounds like",
      emotion,
      sure: `${percent(confidence)} sure, then ${emotions[1]} with ${percent(probs[emotions[1]])}`,
      small: `It tells what the voice sounds like, not what anybody feels. ${scoreLine(await loadCard(this.model))}`,
    });
  }

  /** The timeline: the answer of a long recording, the colours of a short one. */
  async listen() {
    try {
      this.timeline = await api.timeline(this.file, { ...this.options, channels: this.channelMode, onUpload: sending });
    } catch (error) {
      if (this.isLong || !this.prediction) throw error;
      if (error.name !== "AbortError") complain(new Error(`There is no timeline of this clip. ${error.message}`));
      return;
    }
    this.duration_s = this.timeline.duration_s;
    if (!this.prediction) this.showShares();
    this.showPlayer();
    this.table.show();
  }

  get segments() {
    if (this.timeline) return this.timeline.segments;
    return this.prediction ? [{ ...this.prediction, start_s: 0, end_s: this.duration_s, channel: null }] : [];
  }

  get channels() {
    return [...new Set(this.segments.map(({ channel }) => channel))].sort((a, b) => a - b);
  }

  sayAnswer() {
    const box = byId("clip-verdict");
    const words = ["lead", "emotion", "sure"].map((name) => box.querySelector(`.${name}`)?.textContent);
    say(`${words[0]} ${words[1]}: ${words[2]}.`, { seen: false });
  }

  showShares() {
    const shares = shareOf(this.segments);
    const emotions = Object.keys(shares).sort((a, b) => shares[b] - shares[a]);
    byId("clip-answer").hidden = false;
    byId("clip-bars").setAttribute("aria-label", "Share of the speech");
    drawBars(byId("clip-bars"), shares, emotions);
    const [first, second] = emotions;
    verdict(byId("clip-verdict"), {
      lead: first ? "mostly" : "",
      emotion: first,
      word: "no speech",
      sure: first ? `${percent(shares[first])} of the speech` + (second ? `, then ${second} with ${percent(shares[second])}` : "") : "Nothing in it was taken for speech.",
      small: "It tells what voices sound like, not what anybody feels.",
    });
  }

  // Player ------------------------------------------------------------------------------------------------------

  showPlayer() {
    if (this.isClosed || !this.duration_s) return;
    byId("player").hidden = false;
    byId("play").disabled = !this.isPlayable;
    byId("length").textContent = clock(this.duration_s);
    byId("wave").setAttribute("aria-valuemax", this.duration_s.toFixed(2));
    byId("clip-meta").textContent = [clock(this.duration_s), this.hint, this.model].filter(Boolean).join(" · ");
    if (this.view.end_s !== this.duration_s && !this.zoomed) this.view = { start_s: 0, end_s: this.duration_s };
    byId("zoom").hidden = byId("overview").hidden = this.duration_s <= LONG_S;
    byId("channels").hidden = !this.mayHaveChannels;
    const notes = [];
    if (!this.isPlayable) notes.push("This browser cannot play this format; the answers hold all the same.");
    else if (!this.waveforms && this.timeline) notes.push("Too long to be drawn as a wave here: blocks show where there is speech.");
    byId("player-note").textContent = notes.join(" ");
    byId("player-note").hidden = !notes.length;
    this.makeLanes();
    this.showPosition();
    this.draw();
    this.spectrum.show();
  }

  /** Where the browser cannot tell, the service will. */
  get mayHaveChannels() {
    if (this.waveforms) return this.waveforms.length > 1;
    return this.isLong && !(this.channelMode === "split" && this.timeline?.n_channels === 1);
  }

  makeLanes() {
    const isSplit = this.channelMode === "split" && this.timeline;
    const channels = isSplit ? Array.from({ length: this.timeline.n_channels ?? this.channels.length }, (_, index) => index) : [null];
    if (byId("lanes").dataset.channels === channels.join()) return;
    byId("lanes").dataset.channels = channels.join();
    byId("lanes").replaceChildren(
      ...channels.flatMap((channel) => {
        const canvas = element("canvas", { className: "lane" });
        canvas.dataset.channel = channel ?? "";
        canvas.setAttribute("aria-hidden", "true");
        return channel === null ? [canvas] : [element("span", { className: "lane-name", textContent: channelName(channel) }), canvas];
      }),
    );
  }

  draw() {
    for (const canvas of byId("lanes").querySelectorAll("canvas")) {
      const channel = canvas.dataset.channel === "" ? null : Number(canvas.dataset.channel);
      drawWave(canvas, {
        waveform: this.waveforms && (channel === null ? this.mixed : this.waveforms[channel]),
        sampleRate: SAMPLE_RATE,
        segments: this.segments.filter((segment) => channel === null || segment.channel === channel),
        view: this.view,
        loudest: this.loudest,
        chosen: this.chosen && (channel === null || this.chosen.channel === channel) ? this.chosen : null,
      });
    }
    if (!byId("overview").hidden) drawOverview(byId("overview"), this);
    const emotions = [...new Set(this.segments.map(({ emotion }) => emotion))];
    legend(byId("clip-legend"), emotions);
    this.placePlayhead();
  }

  at(time_s) {
    return this.segments.find(({ start_s, end_s }) => start_s <= time_s && time_s < end_s) ?? null;
  }

  showPosition() {
    const now_s = this.audio.currentTime;
    const segment = this.at(now_s);
    const words = segment ? `${segment.emotion ?? UNSURE} ${percent(segment.confidence)}` : this.timeline && now_s ? "no speech" : "";
    byId("now").textContent = clock(now_s);
    byId("heard").replaceChildren(...(segment ? [swatch(segment.emotion)] : []), words);
    const slider = byId("wave");
    slider.setAttribute("aria-valuenow", now_s.toFixed(2));
    slider.setAttribute("aria-valuetext", `${clock(now_s)} of ${clock(this.duration_s)}${words ? `, ${words}` : ""}`);
    this.placePlayhead();
    this.table.mark(segment);
  }

  placePlayhead() {
    const share = (this.audio.currentTime - this.view.start_s) / (this.view.end_s - this.view.start_s);
    byId("playhead").hidden = share < 0 || share > 1;
    byId("playhead").style.left = `${100 * share}%`;
  }

  showPlaying() {
    const isPlaying = !this.audio.paused && !this.audio.ended;
    byId("play").toggleAttribute("data-playing", isPlaying);
    byId("play").setAttribute("aria-label", isPlaying ? "Pause" : "Play");
    this.showPosition();
  }

  follow() {
    const step = () => {
      if (this.isClosed || this.audio.paused) return;
      if (this.stopAt_s !== null && this.audio.currentTime >= this.stopAt_s) {
        this.audio.pause();
        this.stopAt_s = null;
      }
      const span_s = this.view.end_s - this.view.start_s;
      if (this.audio.currentTime > this.view.end_s && this.zoomed) this.lookAt(this.audio.currentTime + span_s / 2, span_s);
      this.showPosition();
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  /** Play, from a moment and up to one where they are given. */
  async play(from_s = null, to_s = null) {
    if (!this.isPlayable) return;
    if (from_s !== null) this.audio.currentTime = from_s;
    this.stopAt_s = to_s;
    try {
      await this.audio.play();
    } catch (error) {
      if (error.name !== "AbortError") complain(new Error("The browser did not play the sound. Press play once more."));
    }
  }

  toggle() {
    if (this.audio.paused) this.play();
    else this.audio.pause();
  }

  seek(time_s) {
    this.stopAt_s = null;
    this.audio.currentTime = Math.max(0, Math.min(this.duration_s, time_s));
    const span_s = this.view.end_s - this.view.start_s;
    if (time_s < this.view.start_s || time_s > this.view.end_s) this.lookAt(time_s, span_s);
    this.showPosition();
  }

  /** Centre the lanes on a moment. */
  lookAt(centre_s, span_s) {
    const span = Math.max(5, Math.min(this.duration_s, span_s));
    const start_s = Math.max(0, Math.min(this.duration_s - span, centre_s - span / 2));
    this.view = { start_s, end_s: start_s + span };
    this.zoomed = span < this.duration_s;
    byId("zoom-out").disabled = byId("zoom-all").disabled = !this.zoomed;
    this.draw();
  }

  /** Play a segment, mark it, and look into it. */
  choose(segment) {
    this.chosen = segment;
    if (segment.start_s < this.view.start_s || segment.end_s > this.view.end_s) {
      this.lookAt((segment.start_s + segment.end_s) / 2, this.view.end_s - this.view.start_s);
    }
    this.draw();
    this.spectrum.lookInto(segment);
    this.play(segment.start_s, segment.end_s);
  }

  async changeChannels(mode) {
    this.channelMode = mode;
    this.chosen = null;
    byId("clip-progress").hidden = false;
    say("Listening again.");
    try {
      await this.listen();
      if (!this.isClosed) say(mode === "split" ? "Channels apart." : "Channels together.");
    } catch (error) {
      complain(error);
    }
    byId("clip-progress").hidden = true;
  }
}

// Controls ------------------------------------------------------------------------------------------------------

const wave = byId("wave");
const timeAt = (target, { clientX }, view) => {
  const { left, width } = target.getBoundingClientRect();
  return view.start_s + ((clientX - left) / width) * (view.end_s - view.start_s);
};

wave.addEventListener("click", (event) => {
  if (!clip) return;
  clip.chosen = null;
  clip.seek(timeAt(wave, event, clip.view));
  clip.play();
});

wave.addEventListener("keydown", (event) => {
  if (!clip) return;
  const step_s = Math.max(0.1, (clip.view.end_s - clip.view.start_s) / 40);
  const now_s = clip.audio.currentTime;
  const goals = {
    ArrowRight: now_s + step_s,
    ArrowUp: now_s + step_s,
    ArrowLeft: now_s - step_s,
    ArrowDown: now_s - step_s,
    PageUp: now_s + 10 * step_s,
    PageDown: now_s - 10 * step_s,
    Home: 0,
    End: clip.duration_s,
  };
  if (event.key in goals) clip.seek(goals[event.key]);
  else if (event.key === " " || event.key === "Enter") clip.toggle();
  else return;
  event.preventDefault();
});

byId("overview").addEventListener("click", (event) => {
  const { view, duration_s } = clip;
  clip.lookAt(timeAt(event.target, event, { start_s: 0, end_s: duration_s }), view.end_s - view.start_s);
});

const zoom = (factor) => {
  const { start_s, end_s } = clip.view;
  const now_s = clip.audio.currentTime;
  clip.lookAt(now_s >= start_s && now_s <= end_s ? now_s : (start_s + end_s) / 2, (end_s - start_s) * factor);
};
byId("zoom-in").addEventListener("click", () => zoom(0.5));
byId("zoom-out").addEventListener("click", () => zoom(2));
byId("zoom-all").addEventListener("click", () => clip.lookAt(0, clip.duration_s));
byId("play").addEventListener("click", () => clip?.toggle());
byId("back").addEventListener("click", () => {
  const { onBack } = clip;
  closeClip();
  onBack();
});
byId("explain").addEventListener("change", () => clip?.spectrum.explain());
byId("explain-emotion").addEventListener("change", ({ target }) => clip?.spectrum.explain(target.value));
byId("segments-filter").addEventListener("change", () => clip?.table.showRows());
byId("segments-more").addEventListener("click", () => clip?.table.showAll());
byId("channels").addEventListener("change", ({ target }) => clip?.changeChannels(target.value));

const redraw = () => {
  if (!isOpen() || byId("player").hidden) return;
  clip.draw();
  clip.spectrum.show();
};
document.addEventListener("themechange", redraw);
let lastWidth = 0;
new ResizeObserver(([{ contentRect }]) => {
  if (contentRect.width === lastWidth) return;
  lastWidth = contentRect.width;
  redraw();
}).observe(wave);

// One recording: its emotion, its waveform to click and hear, its spectrogram with the explanation, its timeline.

import * as api from "./api.js";
import { loadCard, scoreLine } from "./card.js";
import {
  UNSURE, clock, drawBars, drawImportance, drawOverview, drawSpectrum, drawWave, element, legend, percent, swatch, verdict,
} from "./draw.js";
import { busy, byId, chosenModel, complain, forgive, save, say, sending, show, stem } from "./shell.js";
import { SAMPLE_RATE, cut, decode, mix, spectrogram, toWav } from "./sound.js";

const LONG_S = 12; // from here on a recording is a timeline first: one emotion for all of it says little
const EXPLAINED_S = 30; // at most, at once
const MAX_DECODED_S = 1800; // longer ones are not drawn as waves: decoded they would fill the memory
const MAX_DECODED_BYTES = 200e6;
const ROWS_AT_FIRST = 200;
const TOP_HZ = SAMPLE_RATE / 2;
const FORMATS = [
  ["csv", "CSV", "for a spreadsheet", "csv"],
  ["json", "JSON", "for programs", "json"],
  ["jsonl", "JSON Lines", "an object a line", "jsonl"],
  ["textgrid", "TextGrid", "for Praat", "TextGrid"],
  ["vtt", "WebVTT", "subtitles for players", "vtt"],
  ["audacity", "Labels", "for Audacity", "txt"],
  ["rttm", "RTTM", "for diarisation tools", "rttm"],
  ["html", "Web page", "to play beside the sound", "html"],
];

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
    this.chosen = this.focus = null;
    this.explanations = new Map();
    this.stopAt_s = null;
    this.nRows = ROWS_AT_FIRST;
  }

  close() {
    this.work.abort();
    this.audio.pause();
    this.audio.removeAttribute("src");
    URL.revokeObjectURL(this.url);
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
    for (const id of ["clip-answer", "player", "spectrum", "segments", "downloads", "zoom", "overview", "channels", "player-note"]) {
      byId(id).hidden = true;
    }
    byId("explain").checked = false;
    byId("explain-choice").hidden = true;
    byId("spectrum-text").textContent = "";
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
    const listened = this.listen();
    await drawn;
    this.showPlayer();
    await listened;
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
    this.showSegments();
    this.showDownloads();
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
    if (clip !== this || !this.duration_s) return;
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
    this.showSpectrum();
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
    this.markRow(segment);
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
      if (clip !== this || this.audio.paused) return;
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

  // Spectrogram and explanation ---------------------------------------------------------------------------------

  showSpectrum() {
    if (!this.waveforms) return;
    this.focus ??= this.duration_s > EXPLAINED_S ? this.firstFocus() : { start_s: 0, end_s: this.duration_s };
    if (!this.focus) return;
    const { start_s, end_s } = this.focus;
    byId("spectrum").hidden = false;
    byId("spectrum-title").textContent = "Spectrogram" + (this.looksAtAll ? "" : `, ${clock(start_s)} to ${clock(end_s)}`);
    const columns = Math.round(byId("spectrum-picture").getBoundingClientRect().width) || 600;
    const sound = cut(this.mixed, start_s, end_s);
    drawSpectrum(byId("spectrum-picture"), spectrogram(sound, Math.min(columns, 1200)), TOP_HZ);
    byId("spectrum-picture").setAttribute("aria-label", `Spectrogram from ${clock(start_s)} to ${clock(end_s)}, up to 8 kHz`);
    this.showExplanation();
  }

  firstFocus() {
    const segment = this.segments.find(({ emotion }) => emotion !== null) ?? this.segments[0];
    return segment && focusOf(segment);
  }

  get looksAtAll() {
    return this.focus.start_s === 0 && Math.abs(this.focus.end_s - this.duration_s) < 0.1; // the ways to tell a length differ
  }

  get focusKey() {
    return `${this.focus.start_s} ${this.focus.end_s}`;
  }

  /** Fetch the explanation if it is wanted and not here yet, and draw it. */
  async explain(emotion = null) {
    if (!byId("explain").checked) return this.showExplanation();
    const key = `${this.focusKey} ${emotion ?? ""}`;
    if (!this.explanations.has(key)) {
      byId("spectrum-text").textContent = "Listening again, with one part silenced at a time.";
      byId("explain").setAttribute("aria-busy", "true");
      try {
        const { start_s, end_s } = this.focus;
        const sound = this.looksAtAll ? this.file : toWav(cut(this.mixed, start_s, end_s), SAMPLE_RATE, "part.wav");
        this.explanations.set(key, await api.explain(sound, { ...this.options, emotion }));
      } catch (error) {
        byId("explain").checked = false;
        byId("spectrum-text").textContent = "";
        complain(error);
      }
      byId("explain").removeAttribute("aria-busy");
      if (clip !== this) return;
    }
    this.explained = key;
    this.showExplanation();
  }

  showExplanation() {
    const isWanted = byId("explain").checked && this.explained?.startsWith(`${this.focusKey} `);
    const explanation = isWanted ? this.explanations.get(this.explained) : null;
    const duration_s = this.focus.end_s - this.focus.start_s;
    drawImportance(byId("spectrum-overlay"), explanation, { duration_s, topHz: TOP_HZ });
    byId("explain-choice").hidden = !explanation;
    if (!explanation) {
      byId("spectrum-text").textContent = "Time runs to the right, pitch upwards; the stronger a mark, the louder.";
      return;
    }
    const choice = byId("explain-emotion");
    const labels = this.timeline?.labels ?? Object.keys(this.prediction?.probs ?? { [explanation.emotion]: 1 });
    choice.replaceChildren(
      ...labels.map((label) => element("option", { value: label, textContent: label, selected: label === explanation.emotion })),
    );
    byId("spectrum-text").replaceChildren(...explanationWords(explanation, this.focus.start_s));
  }

  // Timeline ----------------------------------------------------------------------------------------------------

  showSegments() {
    byId("segments").hidden = this.segments.length < 2 && this.channelMode === "mix";
    const emotions = [...new Set(this.segments.map(({ emotion }) => emotion ?? UNSURE))];
    byId("segments-filter").replaceChildren(
      element("option", { value: "", textContent: "all" }),
      ...emotions.map((emotion) => element("option", { value: emotion, textContent: emotion })),
    );
    byId("segments-channel").hidden = this.channelMode === "mix";
    byId("shares").replaceChildren(
      ...this.channels.flatMap((channel) => {
        const shares = Object.entries(shareOf(this.segments.filter((segment) => segment.channel === channel)));
        const items = shares
          .sort((a, b) => b[1] - a[1])
          .map(([emotion, share]) => element("li", {}, swatch(emotion), emotion, element("b", { textContent: percent(share) })));
        return channel === null ? items : [element("li", { className: "whose", textContent: channelName(channel) }), ...items];
      }),
    );
    byId("totals").textContent = (this.timeline.totals ?? []).map(totalWords).join(" ");
    this.showRows();
  }

  showRows() {
    const wanted = byId("segments-filter").value;
    const shown = this.segments.filter(({ emotion }) => !wanted || (emotion ?? UNSURE) === wanted);
    byId("segments-table").tBodies[0].replaceChildren(...shown.slice(0, this.nRows).map((segment) => this.row(segment)));
    byId("segments-more").hidden = shown.length <= this.nRows;
    byId("segments-more").textContent = `Show all ${shown.length.toLocaleString("en")}`;
    this.current = undefined;
  }

  row(segment) {
    const { start_s, end_s, channel, emotion, confidence } = segment;
    const from = element("button", { type: "button", className: "link", textContent: clock(start_s) });
    from.setAttribute("aria-label", `Play from ${clock(start_s)} to ${clock(end_s)}, ${emotion ?? UNSURE}`);
    const line = element(
      "tr",
      {},
      element("td", {}, from),
      element("td", { textContent: clock(end_s) }),
      element("td", { textContent: channel === null ? "" : channelName(channel), hidden: this.channelMode === "mix" }),
      element("td", {}, element("span", { className: "emotion" }, swatch(emotion), emotion ?? UNSURE)),
      element("td", { className: "number", textContent: percent(confidence) }),
    );
    line.addEventListener("click", () => this.choose(segment));
    segment.line = line;
    return line;
  }

  markRow(segment) {
    if (segment === this.current) return;
    this.current?.line?.removeAttribute("data-current");
    segment?.line?.setAttribute("data-current", "");
    this.current = segment;
  }

  /** Play a segment, mark it, and look into it. */
  choose(segment) {
    this.chosen = segment;
    if (this.duration_s > EXPLAINED_S) this.focus = focusOf(segment);
    if (segment.start_s < this.view.start_s || segment.end_s > this.view.end_s) {
      this.lookAt((segment.start_s + segment.end_s) / 2, this.view.end_s - this.view.start_s);
    }
    this.draw();
    this.showSpectrum();
    this.play(segment.start_s, segment.end_s);
    if (byId("explain").checked) this.explain();
  }

  async changeChannels(mode) {
    this.channelMode = mode;
    this.chosen = null;
    byId("clip-progress").hidden = false;
    say("Listening again.");
    try {
      await this.listen();
      if (clip === this) say(mode === "split" ? "Channels apart." : "Channels together.");
    } catch (error) {
      complain(error);
    }
    byId("clip-progress").hidden = true;
  }

  // Downloads ---------------------------------------------------------------------------------------------------

  showDownloads() {
    byId("downloads").hidden = false;
    byId("download-list").replaceChildren(
      ...FORMATS.map(([format, name, purpose, suffix]) => {
        const button = element("button", { type: "button" }, name, element("small", { textContent: purpose }));
        button.dataset.format = format;
        button.addEventListener("click", () => this.download(button, format, suffix));
        return element("li", {}, button);
      }),
    );
  }

  async download(button, format, suffix) {
    button.disabled = true;
    say("Preparing the file.");
    try {
      const content = await api.timeline(this.file, { ...this.options, channels: this.channelMode, format, as: "blob" });
      save(content, `${stem(this.file.name)}.${suffix}`);
      say(`${stem(this.file.name)}.${suffix} is ready.`);
    } catch (error) {
      complain(error);
    }
    button.disabled = false;
    button.focus({ preventScroll: true });
  }
}

function focusOf({ start_s, end_s }) {
  return { start_s, end_s: Math.min(end_s, start_s + EXPLAINED_S) };
}

function channelName(channel) {
  return ["left", "right"][channel] ?? `channel ${channel + 1}`;
}

/** Share of the time of all segments, by emotion. */
function shareOf(segments) {
  const seconds = {};
  let all = 0;
  for (const { start_s, end_s, emotion } of segments) {
    const name = emotion ?? UNSURE;
    seconds[name] = (seconds[name] ?? 0) + end_s - start_s;
    all += end_s - start_s;
  }
  return Object.fromEntries(Object.entries(seconds).map(([emotion, time]) => [emotion, time / all]));
}

function totalWords({ channel, turning_points, longest_anger }) {
  const whose = channel === null ? "" : `${channelName(channel)}: `;
  const n = turning_points.length;
  const turns = `${n || "no"} turning point${n === 1 ? "" : "s"}`;
  const anger = longest_anger ? `; longest anger from ${clock(longest_anger.start_s)} to ${clock(longest_anger.end_s)}` : "";
  return api.sentence(`${whose}${turns}${anger}`);
}

function explanationWords({ emotion, prob, times_s, bands_hz, importance }, start_s) {
  let best = { value: -Infinity };
  importance.forEach((row, band) =>
    row.forEach((value, time) => {
      if (value > best.value) best = { value, band, time };
    }),
  );
  const hz = (value) => (value < 1000 ? `${Math.round(value / 10) * 10} Hz` : `${(value / 1000).toFixed(1)} kHz`);
  const [lowest, highest] = [bands_hz[best.band], bands_hz[best.band + 1]];
  const pitch = lowest < 20 ? `below ${hz(highest)}` : `${hz(lowest)} to ${hz(highest)}`;
  const where = `${clock(start_s + times_s[best.time])} to ${clock(start_s + times_s[best.time + 1])}, ${pitch}`;
  const points = Math.round(100 * best.value);
  return [
    swatch(emotion),
    points < 1
      ? `No single part made much of a difference to ${emotion} (${percent(prob)}).`
      : `${emotion} has ${percent(prob)}. It rests most on ${where}: with that part silenced it falls by ${points} point${points > 1 ? "s" : ""}. Coloured parts speak for it, hatched ones against.`,
  ];
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
byId("explain").addEventListener("change", () => clip?.explain());
byId("explain-emotion").addEventListener("change", ({ target }) => clip?.explain(target.value));
byId("segments-filter").addEventListener("change", () => clip?.showRows());
byId("segments-more").addEventListener("click", () => {
  clip.nRows = Infinity;
  clip.showRows();
});
byId("channels").addEventListener("change", ({ target }) => clip?.changeChannels(target.value));

const redraw = () => {
  if (!isOpen() || byId("player").hidden) return;
  clip.draw();
  clip.showSpectrum();
};
document.addEventListener("themechange", redraw);
let lastWidth = 0;
new ResizeObserver(([{ contentRect }]) => {
  if (contentRect.width === lastWidth) return;
  lastWidth = contentRect.width;
  redraw();
}).observe(wave);

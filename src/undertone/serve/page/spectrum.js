// The spectrogram of a recording, or of a part of a long one, and the explanation over it.

import * as api from "./api.js";
import { clock, drawImportance, drawSpectrum, element, percent, swatch } from "./draw.js";
import { byId, complain } from "./shell.js";
import { SAMPLE_RATE, cut, spectrogram, toWav } from "./sound.js";

const EXPLAINED_S = 30; // at most, at once
const TOP_HZ = SAMPLE_RATE / 2;

export class Spectrum {
  constructor(clip) {
    this.clip = clip;
    this.focus = null; // {start_s, end_s}: what is in the picture
    this.explanations = new Map();
    byId("spectrum").hidden = byId("explain-choice").hidden = true;
    byId("explain").checked = false;
    byId("spectrum-text").textContent = "";
  }

  show() {
    if (!this.clip.waveforms) return;
    this.focus ??= this.clip.duration_s > EXPLAINED_S ? this.firstFocus() : { start_s: 0, end_s: this.clip.duration_s };
    if (!this.focus) return;
    const { start_s, end_s } = this.focus;
    byId("spectrum").hidden = false;
    byId("spectrum-title").textContent = "Spectrogram" + (this.looksAtAll ? "" : `, ${clock(start_s)} to ${clock(end_s)}`);
    const columns = Math.round(byId("spectrum-picture").getBoundingClientRect().width) || 600;
    const sound = cut(this.clip.mixed, start_s, end_s);
    drawSpectrum(byId("spectrum-picture"), spectrogram(sound, Math.min(columns, 1200)), TOP_HZ);
    byId("spectrum-picture").setAttribute("aria-label", `Spectrogram from ${clock(start_s)} to ${clock(end_s)}, up to 8 kHz`);
    this.showExplanation();
  }

  /** Look into a segment, if all is too long for one picture. */
  lookInto(segment) {
    if (this.clip.duration_s <= EXPLAINED_S) return;
    this.focus = focusOf(segment);
    this.show();
    if (byId("explain").checked) this.explain();
  }

  firstFocus() {
    const segment = this.clip.segments.find(({ emotion }) => emotion !== null) ?? this.clip.segments[0];
    return segment && focusOf(segment);
  }

  get looksAtAll() {
    return this.focus.start_s === 0 && Math.abs(this.focus.end_s - this.clip.duration_s) < 0.1; // the ways to tell a length differ
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
        const sound = this.looksAtAll ? this.clip.file : toWav(cut(this.clip.mixed, start_s, end_s), SAMPLE_RATE, "part.wav");
        this.explanations.set(key, await api.explain(sound, { ...this.clip.options, emotion }));
      } catch (error) {
        byId("explain").checked = false;
        byId("spectrum-text").textContent = "";
        complain(error);
      }
      byId("explain").removeAttribute("aria-busy");
      if (this.clip.isClosed) return;
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
    const labels = this.clip.timeline?.labels ?? Object.keys(this.clip.prediction?.probs ?? { [explanation.emotion]: 1 });
    choice.replaceChildren(
      ...labels.map((label) => element("option", { value: label, textContent: label, selected: label === explanation.emotion })),
    );
    byId("spectrum-text").replaceChildren(...explanationWords(explanation, this.focus.start_s));
  }
}

function focusOf({ start_s, end_s }) {
  return { start_s, end_s: Math.min(end_s, start_s + EXPLAINED_S) };
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

// Everything that is drawn: bars, waveforms, the spectrogram with the explanation over it, live lanes.

import { toMel } from "./sound.js";

const STEP = 3; // CSS pixels from one stroke of a waveform to the next
const STROKE = 2;
const NAMES_HEIGHT = 20; // below a waveform
export const UNSURE = "not sure";

let colours = {};

/** Colour of an emotion, or of "ink", "paper", "line", "muted", as the style sheet has it in the theme of now. */
export function colourOf(name) {
  const key = name === null || name === UNSURE ? "unsure" : name;
  colours[key] ??= getComputedStyle(document.documentElement).getPropertyValue(`--${key}`).trim() || "gray";
  return colours[key];
}

document.addEventListener("themechange", () => {
  colours = {};
});

export const percent = (prob) => `${Math.round(100 * prob)} %`;

/** 75.25 -> "1:15.3"; hours appear when there are some. */
export function clock(seconds, decimals = 1) {
  const tenths = Math.round(Math.max(0, seconds) * 10 ** decimals);
  const whole = Math.floor(tenths / 10 ** decimals);
  const rest = decimals ? `.${tenths % 10}` : "";
  const two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor((whole % 3600) / 60);
  return (hours ? `${hours}:${two(minutes)}` : `${minutes}`) + `:${two(whole % 60)}${rest}`;
}

/** An element with these properties and children. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A coloured mark; the emotion's name has to stand beside it. */
export function swatch(emotion) {
  const mark = element("span", { className: "swatch" });
  mark.dataset.emotion = emotion ?? UNSURE;
  mark.setAttribute("aria-hidden", "true");
  return mark;
}

export function legend(list, emotions) {
  list.replaceChildren(...emotions.map((emotion) => element("span", {}, swatch(emotion), emotion ?? UNSURE)));
}

/** Bars of probabilities, kept in their place when only the numbers change. */
export function drawBars(list, probs, emotions) {
  if (list.dataset.emotions !== emotions.join()) {
    list.dataset.emotions = emotions.join();
    list.replaceChildren(
      ...emotions.map((emotion) => {
        const fill = element("span", { className: "fill" });
        fill.dataset.emotion = emotion;
        const track = element("span", { className: "track" }, fill);
        track.setAttribute("aria-hidden", "true");
        const name = element("span", { className: "name", textContent: emotion });
        return element("li", {}, name, track, element("span", { className: "value" }));
      }),
    );
  }
  const top = Math.max(...emotions.map((emotion) => probs[emotion] ?? 0));
  emotions.forEach((emotion, index) => {
    const row = list.children[index];
    const prob = probs[emotion] ?? 0;
    row.classList.toggle("top", prob > 0 && prob === top);
    row.querySelector(".fill").style.transform = `scaleX(${prob})`;
    row.querySelector(".value").textContent = percent(prob);
  });
}

/** What it sounds like, in large letters. */
export function verdict(box, { lead = "\u00a0", emotion = null, word = "", sure = "", small = "" }) {
  box.replaceChildren(
    element("p", { className: "lead", textContent: lead }),
    element("p", { className: emotion ? "emotion" : "emotion none" }, ...(emotion ? [swatch(emotion), emotion] : [word])),
    element("p", { className: "sure", textContent: sure }),
  );
  if (small) box.append(element("p", { className: "small", textContent: small }));
}

/** A canvas's context in CSS pixels, cleared, as sharp as the screen. */
function prepare(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  const scale = devicePixelRatio || 1;
  const [columns, rows] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
  if (canvas.width !== columns || canvas.height !== rows) Object.assign(canvas, { width: columns, height: rows });
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** Largest amplitude of each stretch of a waveform between two moments; the strokes of a drawn wave. */
export function peaks(waveform, sampleRate, view, nStrokes) {
  const found = new Float32Array(nStrokes);
  const perStroke = ((view.end_s - view.start_s) * sampleRate) / nStrokes;
  const stride = Math.max(1, Math.floor(perStroke / 400)); // of long stretches some samples are enough
  for (let stroke = 0; stroke < nStrokes; stroke++) {
    const from = Math.floor(view.start_s * sampleRate + stroke * perStroke);
    const to = Math.min(waveform.length, Math.ceil(from + perStroke));
    for (let i = Math.max(0, from); i < to; i += stride) found[stroke] = Math.max(found[stroke], Math.abs(waveform[i]));
  }
  return found;
}

/**
 * A waveform whose strokes have the colour of the segment they lie in; blocks where there is no waveform.
 * Quiet recordings are drawn as high as loud ones: `loudest` is what fills the lane.
 */
export function drawWave(canvas, { waveform, sampleRate, segments, view, loudest = 1, chosen = null }) {
  const { context, width, height: fullHeight } = prepare(canvas);
  const toX = (time_s) => ((time_s - view.start_s) / (view.end_s - view.start_s)) * width;
  if (chosen) {
    context.fillStyle = colourOf("tint");
    context.fillRect(toX(chosen.start_s), 0, toX(chosen.end_s) - toX(chosen.start_s), fullHeight);
  }
  drawNames(context, segments, toX, width, fullHeight);
  const height = fullHeight - NAMES_HEIGHT;
  const nStrokes = Math.max(1, Math.floor(width / STEP));
  const heights = waveform && peaks(waveform, sampleRate, view, nStrokes);
  let next = 0;
  for (let stroke = 0; stroke < nStrokes; stroke++) {
    const time_s = view.start_s + ((stroke + 0.5) / nStrokes) * (view.end_s - view.start_s);
    while (next < segments.length && segments[next].end_s <= time_s) next += 1;
    const segment = next < segments.length && segments[next].start_s <= time_s ? segments[next] : null;
    if (!heights && !segment) continue;
    const reach = heights ? Math.max(1, (heights[stroke] / loudest) * (height / 2 - 2)) : height * 0.28;
    context.fillStyle = segment ? colourOf(segment.emotion) : colourOf("faint");
    context.beginPath();
    context.roundRect(stroke * STEP, height / 2 - reach, STROKE, 2 * reach, 1);
    context.fill();
  }
}

/** A line below each segment in its colour, broken where it is not sure, and its name where there is room. */
function drawNames(context, segments, toX, width, bottom) {
  context.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  context.textBaseline = "alphabetic";
  for (const { start_s, end_s, emotion } of segments) {
    const [left, right] = [Math.max(0, toX(start_s)), Math.min(width, toX(end_s))];
    if (right <= 0 || left >= width) continue;
    context.strokeStyle = colourOf(emotion);
    context.lineWidth = 3;
    context.setLineDash(emotion === null ? [3, 3] : []);
    context.beginPath();
    context.moveTo(left + 1, bottom - 1.5);
    context.lineTo(Math.max(left + 2, right - 1), bottom - 1.5);
    context.stroke();
    const name = emotion ?? UNSURE;
    if (context.measureText(name).width + 6 > right - left) continue;
    context.fillStyle = colourOf("muted");
    context.fillText(name, left + 2, bottom - 7);
  }
  context.setLineDash([]);
}

/** Where in the whole recording the lanes above look. */
export function drawOverview(canvas, { segments, view, duration_s }) {
  const { context, width, height } = prepare(canvas);
  for (const { start_s, end_s, emotion } of segments) {
    context.fillStyle = colourOf(emotion);
    context.fillRect((start_s / duration_s) * width, 3, Math.max(0.5, ((end_s - start_s) / duration_s) * width), height - 6);
  }
  context.strokeStyle = colourOf("ink");
  context.lineWidth = 1.5;
  const [from, to] = [(view.start_s / duration_s) * width, (view.end_s / duration_s) * width];
  context.beginPath();
  context.roundRect(from + 1, 1, Math.max(4, to - from - 2), height - 2, 3);
  context.stroke();
}

/** Loudness as ink on paper, low frequencies at the bottom, with a scale in kHz. */
export function drawSpectrum(canvas, picture, topHz) {
  const { context, width, height } = prepare(canvas);
  const { levels, nRows, nColumns } = picture;
  const [paper, ink] = [rgb(colourOf("raised")), rgb(colourOf("ink"))];
  const image = new ImageData(nColumns, nRows);
  levels.forEach((level, index) => {
    const share = level ** 1.6;
    for (let c = 0; c < 3; c++) image.data[4 * index + c] = paper[c] + (ink[c] - paper[c]) * share * 0.85;
    image.data[4 * index + 3] = 255;
  });
  const small = element("canvas", { width: nColumns, height: nRows });
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, width, height);
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "middle";
  for (const hz of height > 190 ? [500, 1000, 2000, 4000] : [500, 2000]) {
    const y = height * (1 - toMel(hz) / toMel(topHz));
    const words = hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz`;
    context.fillStyle = colourOf("raised");
    context.globalAlpha = 0.8;
    context.fillRect(0, y - 7, context.measureText(words).width + 8, 14);
    context.globalAlpha = 1;
    context.fillStyle = colourOf("muted");
    context.fillText(words, 4, y);
  }
}

/** Cells in the emotion's colour where it gains from the sound, hatched where it loses by it. */
export function drawImportance(canvas, explanation, { duration_s, topHz }) {
  const { context, width, height } = prepare(canvas);
  if (!explanation) return;
  const { times_s, bands_hz, importance, emotion } = explanation;
  const strongest = Math.max(...importance.flat().map(Math.abs), 1e-9);
  const toY = (hz) => height * (1 - Math.min(1, toMel(hz) / toMel(topHz)));
  const against = hatching(context);
  importance.forEach((row, band) =>
    row.forEach((value, time) => {
      const strength = Math.abs(value) / strongest;
      if (strength < 0.08) return;
      const [left, right] = [(times_s[time] / duration_s) * width, (times_s[time + 1] / duration_s) * width];
      const [top, bottom] = [toY(bands_hz[band + 1]), toY(bands_hz[band])];
      context.globalAlpha = 0.85 * strength ** 0.8;
      context.fillStyle = value > 0 ? colourOf(emotion) : against;
      context.fillRect(left, top, right - left + 0.5, bottom - top + 0.5);
    }),
  );
  context.globalAlpha = 1;
}

function hatching(context) {
  const tile = element("canvas", { width: 6, height: 6 });
  const pen = tile.getContext("2d");
  pen.strokeStyle = colourOf("muted");
  pen.lineWidth = 1.5;
  pen.beginPath();
  for (const shift of [-6, 0, 6]) {
    pen.moveTo(shift, 6);
    pen.lineTo(shift + 6, 0);
  }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}

function rgb(colour) {
  return colour.match(/[\d.]+/g).slice(0, 3).map(Number);
}

/** The last `span_s` seconds of live sound, newest at the right; `pieces` are {end_s, peak, emotion}. */
export function drawLiveWave(canvas, pieces, now_s, span_s, rest = "faint") {
  const { context, width, height } = prepare(canvas);
  const loudest = Math.max(0.05, ...pieces.map(({ peak }) => peak));
  for (const { end_s, peak, emotion } of pieces) {
    const x = width - ((now_s - end_s) / span_s) * width;
    if (x < 0) continue;
    const reach = Math.max(1, (peak / loudest) * (height / 2 - 2));
    context.fillStyle = colourOf(emotion ?? rest);
    context.beginPath();
    context.roundRect(x - STROKE, height / 2 - reach, STROKE, 2 * reach, 1);
    context.fill();
  }
}

/** Probabilities of the last `span_s` seconds, one on top of the other. */
export function drawRibbon(canvas, updates, emotions, now_s, span_s) {
  const { context, width, height } = prepare(canvas);
  const toX = (time_s) => width - ((now_s - time_s) / span_s) * width;
  updates.forEach(({ end_s, probs, hop_s }) => {
    const [left, right] = [toX(end_s - hop_s), toX(end_s)];
    if (right < 0) return;
    let y = height;
    for (const emotion of emotions) {
      const share = (probs[emotion] ?? 0) * height;
      context.fillStyle = colourOf(emotion);
      context.fillRect(left, y - share, right - left - 1, Math.max(0, share - 0.5));
      y -= share;
    }
  });
}

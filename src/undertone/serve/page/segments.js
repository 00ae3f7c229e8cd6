// The timeline of a recording: shares and totals, a table of segments, and the files to take away.

import * as api from "./api.js";
import { UNSURE, clock, element, percent, swatch } from "./draw.js";
import { byId, complain, save, say, stem } from "./shell.js";

const ROWS_AT_FIRST = 200;
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

export class Segments {
  constructor(clip) {
    this.clip = clip;
    this.nRows = ROWS_AT_FIRST;
    this.current = null;
    byId("segments").hidden = byId("downloads").hidden = true;
  }

  show() {
    this.showDownloads();
    byId("segments").hidden = this.clip.segments.length < 2 && this.clip.channelMode === "mix";
    const emotions = [...new Set(this.clip.segments.map(({ emotion }) => emotion ?? UNSURE))];
    byId("segments-filter").replaceChildren(
      element("option", { value: "", textContent: "all" }),
      ...emotions.map((emotion) => element("option", { value: emotion, textContent: emotion })),
    );
    byId("segments-channel").hidden = this.clip.channelMode === "mix";
    byId("shares").replaceChildren(
      ...this.clip.channels.flatMap((channel) => {
        const shares = Object.entries(shareOf(this.clip.segments.filter((segment) => segment.channel === channel)));
        const items = shares
          .sort((a, b) => b[1] - a[1])
          .map(([emotion, share]) => element("li", {}, swatch(emotion), emotion, element("b", { textContent: percent(share) })));
        return channel === null ? items : [element("li", { className: "whose", textContent: channelName(channel) }), ...items];
      }),
    );
    byId("totals").textContent = (this.clip.timeline.totals ?? []).map(totalWords).join(" ");
    this.showRows();
  }

  showRows() {
    const wanted = byId("segments-filter").value;
    const shown = this.clip.segments.filter(({ emotion }) => !wanted || (emotion ?? UNSURE) === wanted);
    byId("segments-table").tBodies[0].replaceChildren(...shown.slice(0, this.nRows).map((segment) => this.row(segment)));
    byId("segments-more").hidden = shown.length <= this.nRows;
    byId("segments-more").textContent = `Show all ${shown.length.toLocaleString("en")}`;
    this.current = null;
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
      element("td", { textContent: channel === null ? "" : channelName(channel), hidden: this.clip.channelMode === "mix" }),
      element("td", {}, element("span", { className: "emotion" }, swatch(emotion), emotion ?? UNSURE)),
      element("td", { className: "number", textContent: percent(confidence) }),
    );
    line.addEventListener("click", () => this.clip.choose(segment));
    segment.line = line;
    return line;
  }

  /** Mark the row of what is heard now. */
  mark(segment) {
    if (segment === this.current) return;
    this.current?.line?.removeAttribute("data-current");
    segment?.line?.setAttribute("data-current", "");
    this.current = segment;
  }

  showAll() {
    this.nRows = Infinity;
    this.showRows();
  }

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
      const content = await api.timeline(this.clip.file, { ...this.clip.options, channels: this.clip.channelMode, format, as: "blob" });
      save(content, `${stem(this.clip.file.name)}.${suffix}`);
      say(`${stem(this.clip.file.name)}.${suffix} is ready.`);
    } catch (error) {
      complain(error);
    }
    button.disabled = false;
    button.focus({ preventScroll: true });
  }
}

export function channelName(channel) {
  return ["left", "right"][channel] ?? `channel ${channel + 1}`;
}

/** Share of the time of all segments, by emotion. */
export function shareOf(segments) {
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

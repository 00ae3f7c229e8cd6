// The model's card: what it heard, how well it does and under which protocol, what it is fit for.

import * as api from "./api.js";
import { element, percent } from "./draw.js";

const dialog = document.getElementById("card");
const body = document.getElementById("card-body");
const cards = new Map();

export async function loadCard(name) {
  if (!cards.has(name)) cards.set(name, await api.card(name));
  return cards.get(name);
}

export async function showCard(name, part) {
  const card = await loadCard(name);
  document.getElementById("card-title").textContent = `${card.name} ${card.version}`;
  body.replaceChildren(...sections(card));
  dialog.showModal();
  dialog.scrollTop = 0;
  const goal = part && document.getElementById(part);
  if (goal) goal.scrollIntoView({ block: "start" });
  else document.getElementById("card-title").focus();
}

dialog.addEventListener("click", ({ target }) => {
  if (target === dialog || target.closest("[data-close]")) dialog.close();
});

function sections(card) {
  return [
    element("p", { textContent: capital(card.description) }),
    heading("What it is for"),
    element("p", { textContent: card.intended_use }),
    heading("What it is not fit for", "card-limits"),
    element("p", { className: "warn", textContent: card.not_fit_for }),
    heading("How well it does"),
    ...scores(card.scores),
    heading("What it heard"),
    corpora(card.corpora),
    heading("Licence of the weights"),
    element("p", { textContent: card.licence }),
    heading("More"),
    facts(card),
  ];
}

function heading(text, id = "") {
  return element("h3", { textContent: text, id });
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function scores(byProtocol) {
  const protocols = Object.entries(byProtocol ?? {});
  if (!protocols.length) return [element("p", { textContent: "The card has no scores." })];
  const explained = element("p", {
    className: "small",
    textContent:
      "UAR is the mean of the recalls of the classes, the same weight for each: guessing scores the chance column. All of it on acted speech of speakers that the tested runs had never heard, where the protocol’s name ends in “speaker”. In brackets: 95 % intervals.",
  });
  return [explained, ...protocols.flatMap(([name, score]) => protocol(name, score))];
}

function protocol(name, score) {
  const rows = [];
  if (typeof score.uar === "number") rows.push(["all", score]);
  for (const [corpus, part] of Object.entries(score.corpora ?? {})) rows.push([corpus, part]);
  const made = [element("p", {}, element("strong", { textContent: name }), folds(score))];
  if (rows.length) {
    made.push(
      table(
        ["corpus", "classes", "speakers", "clips", "UAR", "chance"],
        rows.map(([corpus, part]) => [
          corpus,
          part.n_classes,
          part.n_speakers,
          part.n_utterances?.toLocaleString("en"),
          withInterval(part.uar, part.uar_interval),
          part.n_classes ? (1 / part.n_classes).toFixed(3) : "",
        ]),
      ),
    );
  } else {
    made.push(element("pre", {}, element("code", { textContent: JSON.stringify(score, null, 1) })));
  }
  for (const line of notes(score)) made.push(element("p", { className: "small", textContent: line }));
  if (score.command) made.push(element("p", { className: "small" }, "Measured by ", element("code", { textContent: score.command })));
  return made;
}

/** What else is known: what conditions cost, how far confidences are off, how the sexes differ. */
function notes(score) {
  const said = [];
  const lost = Object.entries(score.conditions?.lost ?? {}).filter(([, share]) => typeof share === "number");
  if (lost.length) {
    const costs = lost.map(([name, share]) => `${name}: ${(Math.round(1000 * share) / 10 || 0).toFixed(1)}`);
    said.push(`Points of UAR lost where the same clips are altered: ${costs.join("; ")}.`);
  }
  if (typeof score.ece === "number") said.push(`A confidence is off by ${(100 * score.ece).toFixed(1)} points on the average.`);
  const gap = score.sex_gap?.gap;
  if (typeof gap === "number") said.push(`UAR of women minus that of men: ${gap < 0 ? "−" : "+"}${Math.abs(100 * gap).toFixed(1)} points.`);
  return said;
}

function folds(score) {
  if (!score.folds || !score.n_folds) return "";
  const all = score.folds.length === score.n_folds;
  return all ? `, all ${score.n_folds} folds` : `, folds ${score.folds.join(", ")} of ${score.n_folds} (counted from 0)`;
}

function withInterval(value, interval) {
  if (typeof value !== "number") return "";
  return value.toFixed(3) + (interval ? ` [${interval.map((bound) => bound.toFixed(3)).join(", ")}]` : "");
}

function corpora(list) {
  return table(
    ["corpus", "clips", "speakers", "licence"],
    list.map(({ name, n_utterances, speakers, licence }) => [
      name,
      n_utterances.toLocaleString("en"),
      Array.isArray(speakers) ? speakers.length : speakers,
      licence,
    ]),
  );
}

function facts(card) {
  const list = element("dl", { className: "facts" });
  const entries = {
    "tells apart": card.labels.join(", "),
    takes: `clips of ${card.min_duration_s} to ${card.max_duration_s} s; longer ones in windows of ${card.recommended_duration_s} s`,
    "made by recipe": `${card.recipe} (${card.recipe_hash}), ${card.created}`,
    parameters: card.n_parameters.toLocaleString("en"),
  };
  for (const [name, value] of Object.entries(entries)) {
    list.append(element("dt", { textContent: name }), element("dd", { textContent: value }));
  }
  return list;
}

function table(names, rows) {
  const head = element("tr", {}, ...names.map((name, index) => cell("th", name, index, names)));
  const lines = rows.map((row) => element("tr", {}, ...row.map((value, index) => cell("td", value ?? "", index, names))));
  const made = element("table", {}, element("thead", {}, head), element("tbody", {}, ...lines));
  const scroll = element("div", { className: "scroll", tabIndex: 0 }, made);
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", `${names[0]}: ${names.slice(1).join(", ")}`);
  return scroll;
}

function cell(tag, value, index, names) {
  const made = element(tag, { textContent: value });
  const isText = index === 0 || names[index] === "licence";
  made.className = isText ? (names[index] === "licence" ? "text" : "") : "number";
  if (tag === "th") made.scope = "col";
  return made;
}

/** One line on how well a model does, for the head of a result. */
export function scoreLine(card) {
  const [name, score] = Object.entries(card.scores ?? {})[0] ?? [];
  if (typeof score?.uar !== "number" || !score.n_classes) return "";
  return `Of actors it had never heard, it gets ${percent(score.uar)} right; guessing, ${percent(1 / score.n_classes)} (${name}).`;
}

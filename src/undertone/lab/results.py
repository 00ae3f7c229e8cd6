"""The table of results: what published systems report, what ours give under the same protocol, and on new speakers.

Each recipe that says what its authors published is evaluated under that protocol and on speakers it has never heard.
One small JSON file per evaluation is kept; the pages of the documentation are made from these files alone, so that the
words and the figures cannot drift from what was measured.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undertone.audio import SAMPLE_RATE
from undertone.files import write_file
from undertone.lab.corpora import check_counts, get_corpus, load
from undertone.lab.data import bucket_batches, pad_batch, to_float
from undertone.lab.evaluation import get_protocol
from undertone.lab.experiment import evaluate, parity_clips, run_dir_of
from undertone.lab.export import load_run
from undertone.lab.recipes import Model, Recipe, load_recipe, recipe_names
from undertone.lab.report import command_of, describe_folds, save_figures, write_report

UNSEEN = "pooled-speaker"  # every system is measured on new speakers under this protocol
OWN_UNSEEN = {"crema-d-random": "crema-d-speaker"}  # and under this one too, where the published one has one corpus
TRAINED_ON_ONE = {"undertone-open": "crema-d-speaker"}  # a recipe for one corpus is tested on that one alone
COUNTS = "corpora.json"  # beside the rows: clips on disk and official ones
UNSEEN_FOLDS = (0, 4)  # of the six: of the pooled protocol, these two between them test all four corpora
SPEED_BATCH = 8


@dataclass(frozen=True)
class Job:
    """One evaluation of the table: a recipe under a protocol, on these folds (None: all)."""

    recipe: Recipe
    protocol: str
    folds: tuple[int, ...] | None

    @property
    def name(self) -> str:
        """``RECIPE--PROTOCOL``: what its file is called."""
        return f"{self.recipe.name}--{self.protocol}"


def plan_jobs(names: Sequence[str] | None = None, *, unseen_share: float = 1.0) -> list[Job]:
    """List the evaluations of the table: published protocols first, then new speakers.

    Parameters
    ----------
    names
        Recipes; None means all there are. Those that say what was published have two evaluations or more, the others
        (undertone's own, plain networks) those on new speakers alone.
    unseen_share
        Share of a published system's epochs that its runs on new speakers take.
    """
    recipes = [load_recipe(name) for name in names or recipe_names()]
    published = [Job(recipe, recipe.published.protocol, None) for recipe in recipes if recipe.published]
    unseen = []
    for recipe in recipes:
        short = recipe
        if unseen_share < 1 and recipe.published:
            short = recipe.with_training(epochs=max(1, round(unseen_share * recipe.training.epochs)))
        protocols = {_own_unseen(recipe), UNSEEN} if recipe.name not in TRAINED_ON_ONE else {_own_unseen(recipe)}
        unseen += [Job(short, protocol, UNSEEN_FOLDS) for protocol in sorted(protocols)]
    return published + unseen


def _own_unseen(recipe: Recipe) -> str:
    """Return the protocol of new speakers that is comparable with the published one: the same corpora."""
    published = recipe.published.protocol if recipe.published else ""
    return TRAINED_ON_ONE.get(recipe.name) or OWN_UNSEEN.get(published, UNSEEN)


def is_finished(runs: Path, job: Job) -> bool:
    """Whether every fold of an evaluation has been tested."""
    folds = range(get_protocol(job.protocol).n_folds) if job.folds is None else job.folds
    folder = run_dir_of(job.protocol, job.recipe, runs=runs)
    return all((folder / f"fold-{fold}" / "fold.json").exists() for fold in folds)


def finished(jobs: Iterable[Job], runs: Path) -> list[Job]:
    """Those of the evaluations that need no more training."""
    return [job for job in jobs if is_finished(runs, job)]


def run_job(
    root: Path,
    job: Job,
    runs: Path,
    out: Path,
    *,
    jobs: int = 1,
    accelerator: str = "auto",
    cache_dir: Path | None = None,
    on_epoch: Callable[[int, int, int, dict[str, float]], None] | None = None,
) -> Path:
    """Evaluate (what is finished is read back), write the run's report, and keep the table's file of it in ``out``."""
    folder = run_dir_of(job.protocol, job.recipe, runs=runs)
    report = evaluate(root, job.protocol, job.recipe, folder, folds=job.folds, jobs=jobs, accelerator=accelerator,
                      cache_dir=cache_dir, on_epoch=on_epoch)  # fmt: skip
    write_report(report, folder)
    clips = parity_clips(load(root, get_protocol(job.protocol).corpora), 8)
    model, _ = load_run(folder / f"fold-{report['folds'][0]}")
    row = summarise_row(report) | {"times_real_time": round(measure_speed(model, clips.clips), 1)}
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / f"{job.name}.json", json.dumps(row, indent=1) + "\n")
    save_figures(report, out, prefix=f"{job.name}-", names=("learning", "confusion"))
    return out / f"{job.name}.json"


@torch.inference_mode()
def measure_speed(model: Model, clips: Sequence[np.ndarray]) -> float:
    """Seconds of sound that the model hears per second, on one thread, features included, in batches of eight."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        n_samples = np.array([len(clip) for clip in clips])
        batches = [pad_batch([to_float(clips[row]) for row in rows]) for rows in bucket_batches(n_samples, SPEED_BATCH)]
        best = np.inf
        for _ in range(3):  # the first is warm-up; the best of the rest is least disturbed by other work
            started = time.perf_counter()
            for batch in batches:
                model(*(torch.from_numpy(value) for value in batch))
            best = min(best, time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return float(n_samples.sum()) / SAMPLE_RATE / best


def summarise_row(report: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what the table and its pages need of a report, JSON-ready."""
    scores = report["scores"]
    if get_protocol(report["protocol"]).speaker_disjoint:  # each clip among the emotions of its corpus
        scores = report.get("restricted", scores)
    kept = ("uar", "war", "f1_macro", "f1_weighted", "ece", "n_utterances", "n_speakers", "classes", "per_class")
    row = {key: report[key] for key in ("protocol", "recipe_hash", "n_parameters", "folds", "n_folds", "seed")}
    row |= {
        "recipe": report["recipe"]["name"],
        "command": command_of(report),
        "described_folds": describe_folds(report),
        "banner": report["banner"],
        "training_seconds": round(sum(fold["training_seconds"] for fold in report["per_fold"]), 1),
        "n_epochs": [len(fold["history"]) for fold in report["per_fold"]],
        "leaks": _leaks(report["per_fold"][0]["audit"]),
        "audit_summary": report["per_fold"][0]["audit_summary"],
        "torch": report["torch"],
        "scores": {key: scores[key] for key in kept} | {"intervals": scores["intervals"]},
    }
    if "corpora" in report:
        row["corpora"] = {
            corpus: {key: both["restricted"][key] for key in ("uar", "war", "n_speakers", "n_utterances", "intervals")}
            for corpus, both in report["corpora"].items()
        }
    return row


def _leaks(audit: Mapping[str, Any]) -> dict[str, list[int]]:
    """Kind of leak from train into test -> [rows concerned, rows in all]."""
    return {
        finding["kind"]: [finding["n_rows"], finding["n_total"]]
        for finding in audit["findings"]
        if finding["leaks"] and (finding["first"], finding["second"]) == ("train", "test")
    }


# ---------------------------------------------------------------------------------------------- pages


def keep_counts(root: Path, data: Path) -> None:
    """Keep in ``data`` how many of each corpus's official clips are on disk, for the table to say."""
    names = get_protocol(UNSEEN).corpora
    counts = {
        count.corpus: [count.n_utterances, count.n_official] for count in check_counts(load(root, names), names).corpora
    }
    data.mkdir(parents=True, exist_ok=True)
    write_file(data / COUNTS, json.dumps(counts, indent=1) + "\n")


def write_pages(data: Path, page: Path) -> None:
    """Write the table (``page``) and a page per recipe beside ``data``, from the JSON files in ``data``."""
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(data.glob("*--*.json"))]
    by_recipe: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_recipe.setdefault(row["recipe"], {})[row["protocol"]] = row
    counts = json.loads((data / COUNTS).read_text(encoding="utf-8")) if (data / COUNTS).exists() else {}
    write_file(page, _table_page(by_recipe, data.name, counts))
    for name, found in by_recipe.items():
        write_file(data / f"{name}.md", _recipe_page(load_recipe(name), found))


def _table_page(by_recipe: Mapping[str, Mapping[str, Any]], folder: str, counts: Mapping[str, Sequence[int]]) -> str:
    lines = [
        "# What published systems are worth",
        "",
        "Each system is trained afresh by undertone: first under the protocol its authors used, then on speakers that "
        "it has never heard, each clip among the emotions of its corpus. Figures are per cent. The authors report "
        "accuracy (WAR); UAR, the mean of the recalls, is at one over the number of classes by chance. Intervals are "
        f"95 %, by bootstrap over speakers. New speakers are those of folds {' and '.join(map(str, UNSEEN_FOLDS))} of "
        "six, and training for them may have had fewer epochs: each system's page says how many, and by which command."
        + _tell_counts(counts),
        "",
        "| system | published | ours, same protocol | ours, new speakers: WAR | UAR [95 %] | drop of WAR "
        "| these are of | parameters | a fold trained in | speed | what of the test is in train |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    order = sorted(by_recipe, key=lambda name: (load_recipe(name).published is None, name))
    lines += [_table_row(load_recipe(name), by_recipe[name], folder) for name in order]
    lines += ["", "A dash: not measured yet, or nothing published.", *_missing(by_recipe)]
    lines += ["", *_lessons(by_recipe), "", *_footnotes(by_recipe), ""]
    return "\n".join(lines)


def _tell_counts(counts: Mapping[str, Sequence[int]]) -> str:
    """Say which corpora were not whole, as a sentence behind others."""
    parts = [
        f"{get_corpus(name).folder}, of which there were {n_here:,} of {n_official:,} clips"
        for name, (n_here, n_official) in counts.items()
        if n_here < n_official
    ]
    return f" The corpora were whole, but for {' and '.join(parts)}." if parts else ""


def _missing(by_recipe: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say which evaluations of the table are not there."""
    missing: dict[str, list[str]] = {}
    for job in plan_jobs():
        if job.protocol not in by_recipe.get(job.recipe.name, {}):
            missing.setdefault(job.protocol, []).append(f"`{job.recipe.name}`")
    told = [f"under `{protocol}` {', '.join(names)}" for protocol, names in missing.items()]
    return [f"Not measured yet: {'; '.join(told)}."] if told else []


def _table_row(recipe: Recipe, found: Mapping[str, Any], folder: str) -> str:
    published, own = recipe.published, _own(recipe, found)
    unseen = _unseen(recipe, found)
    claimed = "–" if published is None or not published.score else f"{100 * published.score:.1f}"
    metric = "war" if published is None else published.metric
    same = "–" if own is None else f"{100 * own['scores'][metric]:.1f}"
    cells = [f"[{recipe.name}]({folder}/{recipe.name}.md)", claimed, same]
    if unseen is None:
        cells += ["–"] * 4
    else:
        scores = unseen["scores"]
        low, high = scores["intervals"]["uar"] or (float("nan"),) * 2
        cells += [f"{100 * scores['war']:.1f}", f"{100 * scores['uar']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"]
        cells.append("–" if own is None else f"{100 * (scores['war'] - own['scores']['war']):+.1f}")
        cells.append(f"`{unseen['protocol']}`")
    any_row = own or unseen or next(iter(found.values()))
    cells += [f"{any_row['n_parameters']:,}", _duration(any_row), f"{any_row['times_real_time']:,.0f} x"]
    cells.append("–" if own is None else _leak_words(own["leaks"]))
    return f"| {' | '.join(cells)} |"


def _own(recipe: Recipe, found: Mapping[str, Any]) -> Any:
    return found.get(recipe.published.protocol) if recipe.published else None


def _unseen(recipe: Recipe, found: Mapping[str, Any]) -> Any:
    """Return the row on new speakers: of the same corpora where there is one."""
    return found.get(_own_unseen(recipe)) or found.get(UNSEEN)


def _duration(row: Mapping[str, Any]) -> str:
    minutes = row["training_seconds"] / 60 / len(row["folds"])
    return f"{minutes:.0f} min" if minutes >= 1.5 else f"{60 * minutes:.0f} s"


def _leak_words(leaks: Mapping[str, Sequence[int]]) -> str:
    words = {"speaker": "speakers", "copy": "copies of the clip", "audio": "the very audio"}
    parts = [
        f"{words[kind]}: {100 * n / total:.0f} % of test rows" for kind, (n, total) in leaks.items() if kind in words
    ]
    return "; ".join(parts) or "nothing"


def _lessons(by_recipe: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say what the rows that have both sides show together, in words that follow from the numbers."""
    pairs = []
    for name, found in by_recipe.items():
        recipe = load_recipe(name)
        own, unseen = _own(recipe, found), _unseen(recipe, found)
        if own and unseen:
            pairs.append((name, own, unseen))
    if not pairs:
        return []
    drops = [100 * (own["scores"]["war"] - unseen["scores"]["war"]) for _, own, unseen in pairs]
    copied = [drop for drop, (_, own, _) in zip(drops, pairs, strict=True) if "copy" in own["leaks"]]
    lines: list[str | None] = [
        "## What to learn from it",
        "",
        f"- Over {len(pairs)} systems, accuracy falls by {np.mean(drops):.0f} points on the average (from "
        f"{min(drops):.0f} to {max(drops):.0f}) as soon as the speaker is new. The published figures are right as "
        "measurements and wrong as promises: they say how well voices are remembered.",
    ]
    n_short = sum(own["recipe_hash"] != unseen["recipe_hash"] for _, own, unseen in pairs)
    if n_short:
        lines.append(
            f"- Not all of that fall is the voice's: {n_short} of these runs on new speakers had fewer epochs than "
            "under the published protocol. And some is hidden: on new speakers each clip is judged among the emotions "
            "of its corpus, which is easier."
        )
    if copied and len(copied) < len(drops):
        other = [drop for drop, (_, own, _) in zip(drops, pairs, strict=True) if "copy" not in own["leaks"]]
        lines.append(
            f"- Where altered copies of the tested clips stand in train, the fall is {np.mean(copied):.0f} points; "
            f"where only the speakers do, {np.mean(other):.0f}."
        )
    best = max(pairs, key=lambda pair: pair[2]["scores"]["uar"])
    leaking = max(pairs, key=lambda pair: pair[1]["scores"]["war"])
    lines.append(
        f"- Of those measured both ways, best on new speakers is `{best[0]}` "
        f"(UAR {100 * best[2]['scores']['uar']:.1f}); best under its own protocol is `{leaking[0]}` "
        f"(WAR {100 * leaking[1]['scores']['war']:.1f}), which keeps {100 * leaking[2]['scores']['war']:.1f} of it."
    )
    lines += [_own_lesson(by_recipe, protocol) for protocol in (UNSEEN, *TRAINED_ON_ONE.values())]
    return [line for line in lines if line is not None]


def _own_lesson(by_recipe: Mapping[str, Mapping[str, Any]], protocol: str) -> str | None:
    """Compare undertone's best recipe with the best published system on the new speakers of a protocol."""
    uar: dict[bool, dict[str, float]] = {True: {}, False: {}}  # of published systems, and of our own
    for name, found in by_recipe.items():
        if protocol in found:
            uar[load_recipe(name).published is not None][name] = 100 * found[protocol]["scores"]["uar"]
    if not (uar[True] and uar[False]):
        return None
    theirs, ours = (max(scores, key=scores.__getitem__) for scores in (uar[True], uar[False]))
    each = [by_recipe[name][protocol].get("corpora", {}) for name in (ours, theirs)]
    parts = [
        f"{get_corpus(corpus).folder} {100 * each[0][corpus]['uar']:.1f} and {100 * each[1][corpus]['uar']:.1f}"
        for corpus in each[0] if len(each[0]) > 1 and corpus in each[1]
    ]  # fmt: skip
    apart = f" ({', '.join(parts)})" if parts else ""
    return (
        f"- On the new speakers of `{protocol}`, undertone's own `{ours}` has UAR {uar[False][ours]:.1f}; the best of "
        f"the published systems there, `{theirs}`, {uar[True][theirs]:.1f}{apart}."
    )


def _footnotes(by_recipe: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say how far ours is from each published figure, and why."""
    lines = ["## Where ours differs from what was published", ""]
    for name, found in sorted(by_recipe.items()):
        published, own = load_recipe(name).published, _own(load_recipe(name), found)
        if published is None:
            continue
        words = [published.note] if published.note else []
        if own is not None and published.score:
            gap = 100 * (own["scores"][published.metric] - published.score)
            words.insert(0, f"{gap:+.1f} points, {'within 3 points or above' if gap >= -3 else 'NOT reached'}.")
        if words:
            lines.append(f"- `{name}`: {' '.join(words)}")
    return lines


def _recipe_page(recipe: Recipe, found: Mapping[str, Any]) -> str:
    lines = [f"# {recipe.name}", "", recipe.description + ".", ""]
    if recipe.published:
        score = f"; reported: {100 * recipe.published.score:.1f} %" if recipe.published.score else ""
        lines += [f"Published at <{recipe.published.source}>{score}. {recipe.published.note}".rstrip(), ""]
    for protocol, row in found.items():
        lines += _protocol_section(recipe.name, protocol, row)
    return "\n".join(lines)


def _protocol_section(name: str, protocol: str, row: Mapping[str, Any]) -> list[str]:
    scores = row["scores"]
    epochs = ", ".join(str(n) for n in row["n_epochs"])
    lines = [
        f"## {protocol}",
        "",
        f"{row['described_folds'].capitalize()}; epochs run: {epochs}; seed {row['seed']}; "
        f"recipe {row['recipe_hash']}.",
        "",
        "```sh",
        row["command"],
        "```",
        "",
    ]
    if row["banner"]:
        lines += ["!!! warning", f"    {row['banner']}", ""]
    low, high = scores["intervals"]["uar"] or (float("nan"),) * 2
    lines += [
        f"UAR {scores['uar']:.3f} [{low:.3f}, {high:.3f}], WAR {scores['war']:.3f}, macro F1 {scores['f1_macro']:.3f}, "
        f"weighted F1 {scores['f1_weighted']:.3f}, ECE {scores['ece']:.3f}; {scores['n_utterances']:,} clips of "
        f"{scores['n_speakers']} speakers.",
        "",
        "| emotion | precision | recall | F1 | clips |",
        "|---|---|---|---|---|",
        *(
            f"| {emotion} | {v['precision']:.3f} | {v['recall']:.3f} | {v['f1']:.3f} | {v['support']:,} |"
            for emotion, v in scores["per_class"].items()
        ),
        "",
    ]
    if "corpora" in row:
        lines += ["| corpus | UAR | WAR | clips | speakers |", "|---|---|---|---|---|"]
        lines += [
            f"| {corpus} | {v['uar']:.3f} | {v['war']:.3f} | {v['n_utterances']:,} | {v['n_speakers']} |"
            for corpus, v in row["corpora"].items()
        ]
        lines.append("")
    for figure, alt in (("learning", "Loss and UAR by epoch"), ("confusion", "Confusion matrix")):
        lines += [f"![{alt}, {name} under {protocol}]({name}--{protocol}-{figure}.svg)", ""]
    return [*lines, "```text", row["audit_summary"], "```", ""]

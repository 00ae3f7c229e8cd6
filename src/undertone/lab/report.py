"""What a run found, for people and machines: one HTML page, its figures, one JSON file, a table for the terminal.

All functions take the dict that :func:`undertone.lab.experiment.summarise` returns and change nothing in it. The page
is one file that opens anywhere: style and figures are inside, there is no script, and it follows the reader's light
or dark setting. Whatever came from a file name or a corpus is escaped.

Figures are drawn once, in the colours of ``PALETTE``; in the page each of these becomes a CSS variable, which is how
they turn dark. Emotions keep their colour of ``EMOTION_COLOURS`` in every figure and table.
"""

import json
import math
import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from undertone.files import write_file
from undertone.lab.corpora import CORPORA
from undertone.lab.drawing import EMOTION_COLOURS, PALETTE, calm, figure_style, new_figure, render
from undertone.lab.recipes import load_recipe, recipe_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

SEX_MARKS = {"female": ("o", True, "woman"), "male": ("o", False, "man")}  # marker, whether filled, word
PACKAGES = ("undertone", "torch", "lightning-fabric", "numpy", "soundfile", "soxr")
N_CONFUSIONS = 3  # named in words under the matrix
MAX_NAMED_SPEAKERS = 48  # names that have room under the figure: of more speakers, every second or third is named
MAX_NAME_LENGTH = 12  # letters of a speaker's name under its dot
DEEP_CELL = 0.7  # from this share on, light letters read better than dark ones on the accent colour
PAGE_WIDTH_IN = 9.9


# ---------------------------------------------------------------------------------------------- files


def write_report(report: Mapping[str, Any], out_dir: Path) -> Path:
    """Write ``report.html``, ``report.json`` and ``figures/*.svg`` into ``out_dir``; return the page's path.

    Numbers that are not finite (the loss of a run that diverged) become null in the JSON. Each file is written under
    a temporary name and renamed; the page comes last.

    Parameters
    ----------
    report
        What :func:`undertone.lab.experiment.summarise` returned.
    out_dir
        Folder, made if missing.
    """
    content = _json_ready({**report, "packages": _package_versions(report)})
    (out_dir / "figures").mkdir(parents=True, exist_ok=True)
    with figure_style():
        pictures = [render(*drawn) for drawn in _draw_all(content)]
    for picture in pictures:
        write_file(out_dir / "figures" / f"{picture.name}.svg", picture.svg.encode())
    write_file(out_dir / "report.json", json.dumps(content, indent=1, allow_nan=False).encode())
    page = out_dir / "report.html"
    write_file(page, _render_page(content, {picture.name: picture.inline() for picture in pictures}).encode())
    return page


def save_figures(report: Mapping[str, Any], out_dir: Path, *, names: Sequence[str], prefix: str = "") -> list[Path]:
    """Write some of the page's figures, such as ``learning`` and ``confusion``, as SVG files into ``out_dir``."""
    content, paths = _json_ready(report), []
    with figure_style():
        for name, figure, alt in _draw_all(content):
            if name in names:
                paths.append(out_dir / f"{prefix}{name}.svg")
                write_file(paths[-1], render(name, figure, alt).svg.encode())
    return paths


def _json_ready(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json_ready(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _package_versions(report: Mapping[str, Any]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a source tree that is not installed
            continue
    return found | ({"torch": report["torch"]} if "torch" in report else {})


# ---------------------------------------------------------------------------------------------- the card


def scores_for_card(report: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Scores for a model card's ``scores[protocol]``: no matrix, no history.

    Per-corpus scores are those with probabilities restricted to the corpus's classes, and so are the calibration errors
    under ``restricted``, of all clips together; ``unrestricted`` stands in each. A protocol that leaks has its banner
    as ``leaks``.

    Parameters
    ----------
    report
        What :func:`undertone.lab.experiment.summarise` returned.
    command
        The command line that measured this.
    """
    card: dict[str, Any] = {
        "folds": list(report["folds"]),
        "n_folds": report["n_folds"],
        "command": command,
        "seed": report["seed"],
        "recipe_hash": report["recipe_hash"],
        **_compact(report["scores"]),
        "per_fold": [{key: fold[key] for key in ("fold", "uar", "war", "n_speakers")} for fold in report["per_fold"]],
    }
    card |= {name: report[key] for name, key in (("leaks", "banner"), ("extra_train",) * 2) if report[key]}
    if "corpora" in report:
        card["corpora"] = {
            corpus: _compact(both["restricted"]) | {"unrestricted": _figures_of(both["unrestricted"])}
            for corpus, both in report["corpora"].items()
        }
        card["restricted"] = {key: report["restricted"][key] for key in ("ece", "ece_uncalibrated")}
    return card | {name: report[name] for name in ("voted", "conditions") if name in report}


def _compact(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "classes": list(scores["classes"]),
        "n_classes": len(scores["classes"]),
        **_figures_of(scores),
        "n_utterances": scores["n_utterances"],
        "n_speakers": scores["n_speakers"],
        "sex_gap": scores["sex_gap"],
    }


def _figures_of(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "uar": scores["uar"],
        "uar_interval": scores["intervals"]["uar"],
        "war": scores["war"],
        "war_interval": scores["intervals"]["war"],
        "f1_macro": scores["f1_macro"],
        "ece": scores["ece"],
        "ece_uncalibrated": scores["ece_uncalibrated"],
    }


# ---------------------------------------------------------------------------------------------- words


def describe_folds(report: Mapping[str, Any]) -> str:
    """Say which folds were run, of how many.

    Examples
    --------
    >>> describe_folds({"folds": [0, 4], "n_folds": 6})
    'folds 0 and 4 of 6, counted from 0'
    >>> describe_folds({"folds": [0, 1], "n_folds": 2}), describe_folds({"folds": [0], "n_folds": 1})
    ('all 2 folds', 'the only fold')
    """
    folds, n_folds = report["folds"], report["n_folds"]
    if len(folds) == n_folds:
        return f"all {n_folds} folds" if n_folds > 1 else "the only fold"
    return f"fold{'s' if len(folds) > 1 else ''} {_listed(folds)} of {n_folds}, counted from 0"


def _listed(values: Sequence[object]) -> str:
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def command_of(report: Mapping[str, Any]) -> str:
    """Return the command line that measures the same once more, ``--data ROOT`` to be filled in.

    Examples
    --------
    >>> report = {"protocol": "tess-speaker", "recipe": {"name": "undertone-small"}, "seed": 1, "n_folds": 2}
    >>> command_of({**report, "folds": [1], "extra_train": ["savee"]})
    'undertone lab evaluate tess-speaker undertone-small --data ROOT --extra-train savee --seed 1 --folds 1'
    >>> command_of({**report, "seed": 0, "folds": [0, 1], "extra_train": [], "conditions": {}})
    'undertone lab evaluate tess-speaker undertone-small --data ROOT --conditions'
    """
    words = ["undertone", "lab", "evaluate", report["protocol"], report["recipe"]["name"], "--data", "ROOT"]
    if "conditions" in report:
        words.append("--conditions")
    for corpus in report["extra_train"]:
        words += ["--extra-train", corpus]
    if report["seed"]:
        words += ["--seed", str(report["seed"])]
    name, epochs = report["recipe"]["name"], _epochs_of(report["recipe"])
    if name in recipe_names() and epochs and epochs != _epochs_of(load_recipe(name).to_json()):
        words += ["--epochs", str(epochs[0])]
    if len(report["folds"]) < report["n_folds"]:
        words += ["--folds", ",".join(map(str, report["folds"]))]
    return shlex.join(words)


def _epochs_of(recipe: Mapping[str, Any]) -> list[int]:
    """Epochs of a recipe, or of each member of an ensemble."""
    return [part["training"]["epochs"] for part in recipe.get("members", [recipe]) if "training" in part]


def _corpus_title(name: str) -> str:
    return CORPORA[name].folder if name in CORPORA else name


def _chance(scores: Mapping[str, Any]) -> float:
    """UAR of guessing: one out of the classes that may be answered."""
    return 1 / len(scores["classes"])


def _confusions(scores: Mapping[str, Any]) -> list[tuple[float, str, str]]:
    """Return the largest shares of one emotion heard as another: (share, meant, heard)."""
    counts = np.array(scores["confusion"])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(share, 0)
    order = np.argsort(-share, axis=None, kind="stable")[:N_CONFUSIONS]
    cells = [np.unravel_index(cell, share.shape) for cell in order]
    names = scores["classes"]
    return [(float(share[cell]), names[cell[0]], names[cell[1]]) for cell in cells if share[cell] > 0]


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _interval(pair: Sequence[float] | None) -> str:
    return "–" if pair is None else f"{pair[0]:.3f} – {pair[1]:.3f}"


# ---------------------------------------------------------------------------------------------- terminal


def summary_table(report: Mapping[str, Any]) -> "Table":
    """Build the end-of-run summary: a row for each fold, for each corpus of a pooled protocol, and for all."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    scores = report["scores"]
    accent = "cyan"
    table = Table(
        title=_summary_title(report), title_justify="left", title_style="", caption=_summary_caption(report),
        caption_justify="left", caption_style="", box=None, header_style="dim", pad_edge=False, padding=(0, 1),
        collapse_padding=True,
    )  # fmt: skip
    table.add_column("", no_wrap=True)
    for name in ("UAR", "95 %", "WAR", "ECE", "dev UAR", "epoch", "clips", "speakers"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("", max_width=16)  # the bar gives way where the terminal is narrow

    def add(name: str, values: Mapping[str, Any], style: str = "", *more: str) -> None:
        pair = values.get("intervals", {}).get("uar")
        cells = [f"{name} ", f"{values['uar']:.3f}", f"{pair[0]:.3f}-{pair[1]:.3f}" if pair else ""]
        cells += [f"{values['war']:.3f}", f"{values['ece']:.3f}" if "ece" in values else "", *(more or ("", ""))]
        cells += [f"{values['n_utterances']:,}", str(values["n_speakers"])]
        bar = ProgressBar(total=1, completed=values["uar"], width=16, complete_style=accent, finished_style=accent)
        table.add_row(*(Text(cell, style=style) for cell in cells), bar)

    for fold in report["per_fold"]:
        dev = "" if fold["dev_uar"] is None else f"{fold['dev_uar']:.3f}"
        add(f"fold {fold['fold']}", fold, "", dev, f"{fold['best_epoch']}/{len(fold['history'])}")
    table.add_row()
    for corpus, both in report.get("corpora", {}).items():
        add(_corpus_title(corpus), both["restricted"])
    add("together" if "corpora" in report else "all", scores, "bold")
    return table


def _summary_title(report: Mapping[str, Any]) -> Any:
    from rich.text import Text

    about = f"  {report['recipe_hash']}, seed {report['seed']}"
    title = Text.assemble((report["protocol"], "bold"), "  ", report["recipe"]["name"], (about, "dim"), ("\n", ""))
    return Text.assemble((f"{report['banner']}\n", "bold red"), title) if report["banner"] else title


def _summary_caption(report: Mapping[str, Any]) -> Any:
    from rich.text import Text

    scores = report["scores"]
    whole = len(report["folds"]) == report["n_folds"]
    facts = [f"chance {_chance(scores):.3f}"]
    facts.append(f"ECE {scores['ece']:.3f} ({scores['ece_uncalibrated']:.3f} before the temperature)")
    if gap := scores["sex_gap"]:
        facts.append(f"women {gap['female']:.3f}, men {gap['male']:.3f}")
    if "corpora" in report:
        facts.append("each corpus on its own classes")
    return Text.assemble("\n", (describe_folds(report), "" if whole else "yellow"), (", " + ", ".join(facts), "dim"))


# ---------------------------------------------------------------------------------------------- page


def _render_page(report: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    template = resources.files("undertone.lab").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"score": _score, "interval": _interval, "title": _corpus_title}
    return environment.from_string(template).render(
        report=report,
        pictures={name: Markup(svg) for name, svg in pictures.items()},
        folds_run=describe_folds(report),
        whole=len(report["folds"]) == report["n_folds"],
        listed=_listed,
        command=command_of(report),
        chance=_chance,
        confusions=_confusions,
        colours=EMOTION_COLOURS,
        settings=_settings(report["recipe"]),
        n_excluded=sum(len(problem["excluded"]) for problem in report["problems"]),
    )


def _settings(recipe: Mapping[str, Any]) -> dict[str, list[tuple[str, Any]]]:
    """Section -> (key, value) of a recipe, in its order; what is in no section comes first."""
    sections = {"recipe": [(key, value) for key, value in recipe.items() if not isinstance(value, Mapping)]}
    return sections | {key: list(value.items()) for key, value in recipe.items() if isinstance(value, Mapping)}


# ---------------------------------------------------------------------------------------------- figures


def _draw_all(report: Mapping[str, Any]) -> Iterator[tuple[str, "Figure", str]]:
    """Yield (name, figure, words) of every figure of the page."""
    parts = {"": report["scores"]}
    for corpus, both in report.get("corpora", {}).items():
        parts |= {f"-{corpus}": both["restricted"], f"-{corpus}-unrestricted": both["unrestricted"]}
    for suffix, scores in parts.items():
        yield f"confusion{suffix}", _draw_confusion(scores), _confusion_in_words(scores)
        if suffix.endswith("-unrestricted"):
            continue
        yield f"reliability{suffix}", _draw_reliability(scores), _reliability_in_words(scores)
        if scores["n_speakers"] > 1 and (suffix or "corpora" not in report):
            yield f"speakers{suffix}", _draw_speakers(scores), _speakers_in_words(scores)
    yield "learning", _draw_learning(report["per_fold"]), _learning_in_words(report["per_fold"])


def _draw_confusion(scores: Mapping[str, Any]) -> "Figure":
    """Rows are what was meant; a cell's depth is its share of the row, its small number the clips."""
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    classes, counts = scores["classes"], np.array(scores["confusion"])
    n = len(classes)
    figure = new_figure(1.3 + 0.6 * n, 0.9 + 0.5 * n)
    axes = figure.add_subplot()
    axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), ylabel="meant")
    axes.set_xlabel("recognised", labelpad=8)
    axes.xaxis.set_label_position("top")
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = [Rectangle((column - 0.48, row - 0.48), 0.96, 0.96) for row, column in np.ndindex(n, n)]
    depths = [to_rgba(PALETTE["accent"], alpha) for alpha in share.flat]
    for colours in (to_rgba(PALETTE["line"], 0.35), depths):
        axes.add_collection(PatchCollection(cells, facecolors=colours, linewidths=0), autolim=False)
    for (row, column), count in np.ndenumerate(counts):
        if not count:
            continue
        colour = PALETTE["on-accent" if share[row, column] > DEEP_CELL else "ink"]
        place: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
        weight = "bold" if row == column else "normal"
        axes.text(column, row - 0.1, f"{100 * share[row, column]:.0f}", fontsize=9.5, fontweight=weight, **place)
        axes.text(column, row + 0.26, f"{count}", fontsize=6.8, alpha=0.8, **place)
    axes.set_xticks(range(n), classes, fontsize=7)
    axes.set_yticks(range(n), classes)
    axes.tick_params(length=0, pad=12, top=True, bottom=False, labeltop=True, labelbottom=False)
    axes.tick_params(axis="both", labelcolor=PALETTE["ink"])
    axes.spines[:].set_visible(False)
    dots = [EMOTION_COLOURS[name] for name in classes]
    axes.scatter(np.full(n, -0.66), range(n), s=26, c=dots, clip_on=False, linewidths=0)
    axes.scatter(range(n), np.full(n, -0.68), s=26, c=dots, clip_on=False, linewidths=0)
    return figure


def _draw_reliability(scores: Mapping[str, Any]) -> "Figure":
    """Above: how often predictions of a confidence are right; below: how many there are."""
    bins = scores["reliability"]
    figure = new_figure(3.9, 3.9)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    left = [b["lower"] for b in bins]
    width = [b["upper"] - b["lower"] for b in bins]
    accent = PALETTE["accent"]
    above.plot([0, 1], [0, 1], color=PALETTE["muted"], linewidth=0.9, dashes=(3, 3))
    above.bar(left, [b["accuracy"] for b in bins], width, align="edge", color=accent, alpha=0.2, linewidth=0)
    above.plot(
        [b["confidence"] for b in bins],
        [b["accuracy"] for b in bins],
        "o-",
        color=accent,
        ms=4,
        linewidth=1.2,
        clip_on=False,
    )
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
    below.bar(left, [b["n"] for b in bins], np.array(width) * 0.92, align="edge", color=PALETTE["muted"], alpha=0.6)
    below.set(xlabel="confidence", ylabel="clips", yticks=[max(b["n"] for b in bins)])
    calm(above)
    calm(below, grid="")
    return figure


def _draw_speakers(scores: Mapping[str, Any]) -> "Figure":
    """Every speaker's UAR, sorted: filled for women, open for men, grey for those whose sex alone is not given."""
    ranked = _ranked_speakers(scores)
    any_sex = any(row.get("sex") for _, row in ranked)
    figure = new_figure(PAGE_WIDTH_IN, 2.6)
    axes = figure.add_subplot()
    values = [row["uar"] for _, row in ranked]
    axes.axhline(scores["uar"], color=PALETTE["muted"], linewidth=0.9, dashes=(3, 3))
    axes.axhline(_chance(scores), color=PALETTE["line"], linewidth=0.9)
    axes.vlines(range(len(values)), scores["uar"], values, color=PALETTE["line"], linewidth=1)
    for sex in ("female", "male", None):
        ranks = [rank for rank, (_, row) in enumerate(ranked) if row.get("sex") == sex]
        if ranks:
            marker, filled, word = SEX_MARKS.get(sex or "", ("o", True, ""))
            colour = PALETTE["accent" if sex or not any_sex else "muted"]
            axes.plot(ranks, [values[rank] for rank in ranks], marker, ms=6, color=colour, label=word, linestyle="",
                      markerfacecolor=colour if filled else PALETTE["paper"], markeredgewidth=1.3)  # fmt: skip
    axes.set(xlim=(-0.8, len(values) - 0.2), ylim=(0, 1.02), ylabel="UAR")
    _name_speakers(axes, [name.partition("/")[2] or name for name, _ in ranked])
    for height, text in ((scores["uar"], "all"), (_chance(scores), "chance")):
        axes.text(1.005, height, text, transform=axes.get_yaxis_transform(), va="center", color=PALETTE["muted"])
    if any_sex:
        axes.legend(loc="lower right", ncols=3, frameon=False, handletextpad=0.1, borderaxespad=0.6)
    calm(axes)
    return figure


def _name_speakers(axes: "Axes", names: Sequence[str]) -> None:
    shown = range(0, len(names), math.ceil(len(names) / MAX_NAMED_SPEAKERS))
    labels = [_shortened(names[rank]) for rank in shown]
    axes.set_xticks(shown, labels, rotation=90 if max(map(len, labels)) > 3 else 0)


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"


def _ranked_speakers(scores: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return sorted(scores["per_speaker"].items(), key=lambda item: (item[1]["uar"], item[0]))


def _draw_learning(per_fold: Sequence[Mapping[str, Any]]) -> "Figure":
    """Give each fold a column: above the dev UAR with the chosen epoch, below the losses."""
    n_columns = min(len(per_fold), 6 if len(per_fold) in (6, 12) else 5)
    n_blocks = math.ceil(len(per_fold) / n_columns)
    figure = new_figure(max(3.6, PAGE_WIDTH_IN * n_columns / max(n_columns, 3)), 2.5 * n_blocks)
    grid = figure.subplots(2 * n_blocks, n_columns, squeeze=False, sharex=True, height_ratios=(3, 2) * n_blocks)
    losses = [
        row[key] for fold in per_fold for row in fold["history"] for key in ("train_loss", "dev_loss") if row.get(key)
    ]
    shares = [
        row[key] for fold in per_fold for row in fold["history"] for key in ("dev_uar", "train_war") if row.get(key)
    ]
    for index in range(n_blocks * n_columns):
        block, column = divmod(index, n_columns)
        above, below = grid[2 * block, column], grid[2 * block + 1, column]
        if index >= len(per_fold):
            above.set_axis_off()
            below.set_axis_off()
            continue
        _draw_fold(above, below, per_fold[index], per_fold)
        above.set_ylim(0, min(1, max(shares, default=1) * 1.15))
        below.set_ylim(0, float(np.percentile(losses, 99)) * 1.1 if losses else 1)
        if column == 0:
            above.set_ylabel("dev UAR, train WAR" if _has_train_war(per_fold) else "dev UAR")
            below.set_ylabel("loss")
        else:
            above.tick_params(labelleft=False)
            below.tick_params(labelleft=False)
    return figure


def _draw_fold(above: "Axes", below: "Axes", fold: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> None:
    epochs, accent = _column(fold, "epoch"), PALETTE["accent"]
    for other in others:
        if other is not fold:
            above.plot(
                _column(other, "epoch"), _column(other, "dev_uar"), color=PALETTE["muted"], alpha=0.35, linewidth=0.7
            )
    above.plot(epochs, _column(fold, "dev_uar"), color=accent, linewidth=1.5)
    above.plot(epochs, _column(fold, "train_war"), color=PALETTE["ink"], linewidth=1.1)
    chosen = fold["best_epoch"]
    if fold["dev_uar"] is not None:
        above.plot([chosen], [fold["dev_uar"]], "o", color=accent, ms=5)
        above.annotate(f"{fold['dev_uar']:.2f}", (chosen, fold["dev_uar"]), (0, 6), textcoords="offset points",
                       ha="center", color=accent)  # fmt: skip
    else:
        above.text(0.5, 0.5, "no dev", transform=above.transAxes, ha="center", color=PALETTE["muted"])
    for axes in (above, below):
        axes.axvline(chosen, color=PALETTE["muted"], linewidth=0.8, dashes=(2, 2))
        calm(axes)
    below.plot(epochs, _column(fold, "train_loss"), color=PALETTE["ink"], linewidth=1.1)
    below.plot(epochs, _column(fold, "dev_loss"), color=accent, linewidth=1.1)
    above.set_title(f"fold {fold['fold']}", loc="left", fontweight="bold")
    below.set_xlabel("epoch")


def _has_train_war(per_fold: Sequence[Mapping[str, Any]]) -> bool:
    return any("train_war" in row for fold in per_fold for row in fold["history"])


def _column(fold: Mapping[str, Any], key: str) -> np.ndarray:
    return np.array([np.nan if row.get(key) is None else row[key] for row in fold["history"]], dtype=np.float64)


# ---------------------------------------------------------------------------------------------- figures in words


def _confusion_in_words(scores: Mapping[str, Any]) -> str:
    recalls = [(name, scores["per_class"][name]["recall"]) for name in scores["classes"]]
    heard = ", ".join(f"{name} {100 * recall:.0f} %" for name, recall in recalls if recall is not None)
    wrong = "; ".join(f"{meant} as {heard_as} {100 * share:.0f} %" for share, meant, heard_as in _confusions(scores))
    return f"Confusion matrix. Recognised as meant: {heard}. Most often mistaken: {wrong or 'none'}."


def _reliability_in_words(scores: Mapping[str, Any]) -> str:
    points = ", ".join(f"{b['confidence']:.2f}: {b['accuracy']:.2f}" for b in scores["reliability"])
    return f"Reliability diagram, confidence: share that is right. {points}. Calibration error {scores['ece']:.3f}."


def _speakers_in_words(scores: Mapping[str, Any]) -> str:
    ranked = _ranked_speakers(scores)
    (worst, low), (best, high) = ranked[0], ranked[-1]
    median = float(np.median([row["uar"] for _, row in ranked]))
    return (
        f"UAR of {len(ranked)} speakers, sorted: lowest {worst} {low['uar']:.3f}, median {median:.3f}, "
        f"highest {best} {high['uar']:.3f}."
    )


def _learning_in_words(per_fold: Sequence[Mapping[str, Any]]) -> str:
    chosen = "; ".join(
        f"fold {fold['fold']}: epoch {fold['best_epoch']} of {len(fold['history'])}, dev UAR {_score(fold['dev_uar'])}"
        for fold in per_fold
    )
    return f"Learning curves, dev UAR and losses by epoch. Chosen: {chosen}."

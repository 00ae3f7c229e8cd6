"""Fill the generated parts of the README and the docs, so that no figure in them is typed by hand.

A generated part stands between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->``. Scores and facts come from
the card inside the shipped model file, protocols, corpora and audio outcomes from the code, published systems from the
table of results.

Examples
--------
``python scripts/update_readme.py`` writes; ``python scripts/update_readme.py --check`` changes nothing and
fails when a part is out of date. ``demo-output`` is a real run of the demo: it is written, and not checked,
because the last digits of a probability may differ between processors.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from undertone import audio
from undertone.lab.corpora import CORPORA
from undertone.lab.evaluation.protocols import PROTOCOLS
from undertone.model_file import DEFAULT_MODEL, Card, installed_models, read_card

ROOT = Path(__file__).resolve().parent.parent
NO_MODEL = "*(no model is shipped in this checkout)*"
DEMO_WIDTH_COLUMNS = 100


def score_tables(card: Card) -> str:
    """Return one section per protocol that the card has scores for."""
    sections = [_score_section(name, scores) for name, scores in card.scores.items()]
    return "\n\n".join(sections) or "*(the card of this model has no scores)*"


def _score_section(protocol: str, scores: Mapping[str, Any]) -> str:
    parts = [f"**`{protocol}`**{_folds_run(protocol, scores)}"]
    if "corpora" in scores:
        parts.append(_corpus_table(scores["corpora"]))
    if "uar" in scores:
        parts.append(f"UAR {_with_interval(scores, 'uar')}, WAR {_with_interval(scores, 'war')}.")
    if "per_fold" in scores:
        parts.append(_fold_table(scores))
    if "ece" in scores:
        parts.append(f"Expected calibration error {_calibration_words(scores)}.")
    if gap := scores.get("sex_gap"):
        parts.append(f"UAR of women minus that of men: {100 * gap['gap']:+.1f} points.")
    if "conditions" in scores:
        parts.append(_conditions_table(scores["conditions"]))
    if "voted" in scores:
        parts.append(_voted_words(scores["voted"]))
    if "command" in scores:
        parts.append(f"Measured by `{scores['command']}`.")
    return "\n\n".join(parts)


def _calibration_words(scores: Mapping[str, Any]) -> str:
    def words(part: Mapping[str, Any]) -> str:
        return f"{_number(part, 'ece')} ({_number(part, 'ece_uncalibrated')} before the temperature)"

    if "restricted" not in scores:
        return words(scores)
    return f"{words(scores['restricted'])} among the emotions of each clip's corpus, {words(scores)} among all"


def _conditions_table(conditions: Mapping[str, Any]) -> str:
    corpora = list(conditions["uar"]["clean"])
    rows = (
        (name, *(f"{uar[corpus]:.3f}" for corpus in corpora),
         "" if name == "clean" else f"{round(100 * conditions['lost'][name], 1) or 0:.1f}")
        for name, uar in conditions["uar"].items()
    )  # fmt: skip
    folders = [CORPORA[name].folder if name in CORPORA else name for name in corpora]
    return _table(("the same test clips", *folders, "points of UAR lost"), rows)


def _voted_words(voted: Mapping[str, Any]) -> str:
    names = " and ".join(CORPORA[name].folder if name in CORPORA else name for name in voted["corpora"])
    return (
        f"Against what the listeners of {names} heard, not what the actors meant ({voted['n_utterances']:,} clips on "
        f"which they agreed): UAR {voted['uar']:.3f}, WAR {voted['war']:.3f}; what the actors meant agrees with the "
        f"listeners in {voted['acted_war']:.3f} of these clips."
    )


def _folds_run(protocol: str, scores: Mapping[str, Any]) -> str:
    if "folds" not in scores:
        return ""
    n_folds = PROTOCOLS[protocol].n_folds if protocol in PROTOCOLS else len(scores["folds"])
    if len(scores["folds"]) == n_folds:
        return f", all {n_folds} folds"
    return f", folds {', '.join(map(str, scores['folds']))} of {n_folds} (counted from 0)"


def _corpus_table(corpora: Mapping[str, Mapping[str, Any]]) -> str:
    header = (
        "corpus",
        "classes",
        "speakers",
        "clips",
        "UAR [95 %]",
        "WAR [95 %]",
        "UAR, unrestricted",
        "chance",
    )
    return _table(
        header,
        (
            (
                CORPORA[name].folder if name in CORPORA else name,
                scores.get("n_classes", ""),
                scores.get("n_speakers", ""),
                f"{scores['n_utterances']:,}" if "n_utterances" in scores else "",
                _with_interval(scores, "uar"),
                _with_interval(scores, "war"),
                _number(scores.get("unrestricted", {}), "uar"),
                f"{1 / scores['n_classes']:.3f}" if "n_classes" in scores else "",
            )
            for name, scores in corpora.items()
        ),
    )


def _fold_table(scores: Mapping[str, Any]) -> str:
    rows = scores["per_fold"]
    folds = scores.get("folds", range(len(rows)))
    uars = [_number(row, "uar") if isinstance(row, Mapping) else f"{row:.3f}" for row in rows]
    return _table(("fold", *map(str, folds)), [("UAR", *uars)])


def _number(scores: Mapping[str, Any], key: str) -> str:
    return f"{scores[key]:.3f}" if isinstance(scores.get(key), int | float) else "-"


def _with_interval(scores: Mapping[str, Any], key: str) -> str:
    if not (interval := scores.get(f"{key}_interval")):
        return _number(scores, key)
    return f"{_number(scores, key)} [{interval[0]:.3f}, {interval[1]:.3f}]"


def model_facts(card: Card, size_bytes: int) -> str:
    """Return what the shipped model is, as a table of name and value."""
    return _table(
        (f"`{card.name}`", card.version),
        (
            ("what it is", card.description),
            ("emotions", ", ".join(card.labels)),
            ("parameters, file", f"{card.n_parameters:,}, {size_bytes / 1e6:.1f} MB"),
            ("trained on", ", ".join(f"{corpus.name} ({corpus.licence})" for corpus in card.corpora)),
            ("licence of the weights", card.licence),
            ("meant for", card.intended_use),
            ("not fit for", card.not_fit_for),
        ),
    )


def models_table() -> str:
    """Return the installed models, the default one first, as a table."""
    paths = installed_models()
    rows = []
    for name in sorted(paths, key=lambda name: (name != DEFAULT_MODEL, name)):
        card = read_card(paths[name])
        rows.append(
            (
                f"`{name}`",
                f"{paths[name].stat().st_size / 1e6:.1f} MB",
                f"{card.n_parameters:,}",
                len(card.labels),
                card.licence.partition(":")[0],
                "; ".join(_uar_words(protocol, scores) for protocol, scores in card.scores.items()),
            )
        )
    return _table(("model", "file", "parameters", "emotions", "weights", "UAR on new speakers"), rows)


def _uar_words(protocol: str, scores: Mapping[str, Any]) -> str:
    parts = scores.get("corpora") or {PROTOCOLS[protocol].corpora[0]: scores}
    return ", ".join(f"{CORPORA[corpus].folder} {_number(part, 'uar')}" for corpus, part in parts.items())


def protocol_table() -> str:
    """Return the protocols, their data and their splits, as a table."""
    return _table(
        ("name", "corpora", "classes", "folds", "splits", "leaks"),
        (
            (
                f"`{protocol.name}`",
                ", ".join(protocol.corpora),
                len(protocol.classes),
                protocol.n_folds,
                protocol.description,
                protocol.leaks or "no",
            )
            for protocol in PROTOCOLS.values()
        ),
    )


def corpus_table() -> str:
    """Return the corpora, their official counts and their licences, as a table."""
    return _table(
        ("corpus", "folder", "clips", "speakers", "emotions", "licence"),
        (
            (
                f"[{corpus.title}]({corpus.source_url})",
                f"`{corpus.folder}`",
                f"{sum(corpus.emotion_counts.values()):,}",
                corpus.n_speakers,
                ", ".join(corpus.emotion_counts),
                f"[{corpus.licence}]({corpus.licence_url})",
            )
            for corpus in CORPORA.values()
        ),
    )


def audio_outcome_table() -> str:
    """Return the outcome of every kind of audio input: the table in the docstring of ``undertone.audio``."""
    lines = (audio.__doc__ or "").splitlines()
    ruler, middle, end = (number for number, line in enumerate(lines) if line.startswith("==="))
    width = lines[ruler].index(" ")
    rows: list[list[str]] = []
    for line in lines[middle + 1 : end]:
        left, right = line[:width].strip(), line[width:].strip()
        if left:
            rows.append([left, right])
        else:  # a long outcome goes on
            rows[-1][1] += f" {right}"
    return _table(("input", "outcome"), [[cell.replace("``", "`") for cell in row] for row in rows])


def systems_table() -> str:
    """Return rows of the table of results: published systems that were measured both ways, and the default model."""
    rows = []
    for line in (ROOT / "docs" / "results.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| [") and ("–" not in cells[1:4] or cells[0].startswith(f"[{DEFAULT_MODEL}]")):
            rows.append([cells[0].replace("](", "](docs/"), *cells[1:4], cells[6]])
    return _table(("system", "accuracy published", "ours, the same way", "ours, new speakers", "these are of"), rows)


def demo_output() -> str:
    """Run the demo and return what it printed."""
    command = [sys.executable, "-m", "undertone", "predict", "demo"]
    environment = os.environ | {"COLUMNS": str(DEMO_WIDTH_COLUMNS), "NO_COLOR": "1"}
    result = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return f"```\n$ make demo\n{result.stdout.rstrip()}\n```"


def _table(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def generated_parts(model: str = DEFAULT_MODEL) -> dict[str, Callable[[], str]]:
    """Return the functions that write each part, by the part's name; ``model`` is whom scores and facts are about."""
    path = installed_models().get(model)
    return {
        "scores": lambda: score_tables(read_card(path)) if path else NO_MODEL,
        "model": lambda: model_facts(read_card(path), path.stat().st_size) if path else NO_MODEL,
        "demo-output": lambda: demo_output() if path else NO_MODEL,
        "models": models_table,
        "published-systems": systems_table,
        "protocols": protocol_table,
        "corpora": corpus_table,
        "audio-outcomes": audio_outcome_table,
    }


def fill(text: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """Return ``text`` with every generated part written anew; a part that is not in ``parts`` stays as it is.

    Examples
    --------
    >>> print(fill("<!-- n:begin -->old<!-- n:end -->", {"n": lambda: "new"}))
    <!-- n:begin -->
    <BLANKLINE>
    new
    <BLANKLINE>
    <!-- n:end -->
    """

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in parts:
            return match[0]
        return f"<!-- {name}:begin -->\n\n{parts[name]()}\n\n<!-- {name}:end -->"

    return re.sub(r"<!-- (?P<name>[a-z-]+):begin -->.*?<!-- (?P=name):end -->", replace, text, flags=re.DOTALL)


def pages() -> list[Path]:
    """Return the files that may have generated parts."""
    cards = (ROOT / "src" / "undertone" / "models").glob("*.md")
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(cards)]


def model_of(page: Path) -> str:
    """Whom a page is about: a card page's own model, elsewhere the default."""
    return page.stem if page.parent.name == "models" else DEFAULT_MODEL


def find_outdated() -> list[Path]:
    """Return the pages of which a generated part is out of date; the demo's output is not looked at."""
    outdated = []
    for page in pages():
        parts = generated_parts(model_of(page))
        del parts["demo-output"]
        text = page.read_text(encoding="utf-8")
        if fill(text, parts) != text:
            outdated.append(page)
    return outdated


def main() -> int:
    """Write the generated parts, or with ``--check`` name the pages that are out of date."""
    if sys.argv[1:] == ["--check"]:
        outdated = [str(page.relative_to(ROOT)) for page in find_outdated()]
        if outdated:
            print(f"out of date: {', '.join(outdated)}; run: make readme")
        return 1 if outdated else 0
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (filled := fill(text, generated_parts(model_of(page)))) != text:
            temporary = page.with_suffix(".md.new")
            temporary.write_text(filled, encoding="utf-8")
            temporary.replace(page)
            print(f"updated {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

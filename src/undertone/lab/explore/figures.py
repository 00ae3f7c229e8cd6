"""The figures of an exploration, each with the words that say what it shows.

Most share one grid: a column for each corpus, a row for each emotion, emotions in their fixed order. Widths are those
of a paper's columns. Emotions and corpora are told apart by name, place or marker, never by colour alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from undertone.audio import SAMPLE_RATE
from undertone.emotions import EMOTIONS
from undertone.lab.corpora import CORPORA
from undertone.lab.data import FULL_SCALE, pad_batch, to_float
from undertone.lab.drawing import CORPUS_COLOURS, EMOTION_COLOURS, EMOTION_MARKERS, PALETTE, calm, new_figure
from undertone.lab.explore.measure import Exploration
from undertone.lab.explore.summary import INTENSITIES, NEUTRAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ONE_COLUMN_IN, TWO_COLUMNS_IN = 3.4, 7.0
N_MFCC = 13
DYNAMIC_RANGE_DB = 70.0  # of a spectrogram's colours, below the loudest band
WAVEFORM_POINTS = 400  # columns of a drawn waveform: more cannot be seen
N_ENVELOPE = 80  # points of a violin
DIVERGING = ("#5fa8ff", "#2f5f9e", "#16181d", "#9c5a1e", "#ffb15c")  # both ends apart for every reader
LEVEL_SHADES = {"low": 0.3, "normal": 0.45, "medium": 0.55, "high": 1.0, "strong": 1.0, "not given": 0.2}

Drawn = tuple[str, "Figure", str]  # name, figure, words


def draw_all(exploration: Exploration, summary: Mapping[str, Any]) -> Iterator[Drawn]:
    """Yield (name, figure, words) of every figure there is something to draw for."""
    corpora = summary["corpora"]
    yield "emotions", _draw_emotions(summary), _emotions_in_words(corpora)
    if any(corpus["intensities"] for corpus in corpora.values()):
        yield "intensities", _draw_intensities(corpora), _intensities_in_words(corpora)
    if any(_ages(corpus) for corpus in corpora.values()):
        yield "ages", _draw_ages(corpora), _ages_in_words(corpora)
    if any(corpus["duration_s"]["all"]["n"] for corpus in corpora.values()):
        yield from _draw_durations_and_levels(exploration, corpora)
    for corpus in corpora:
        if any(own == corpus for own, _ in exploration.representatives):
            yield f"gallery-{corpus}", _draw_gallery(exploration, corpus), _gallery_in_words(corpora[corpus], corpus)
    if np.isfinite(exploration.pitch_hz).any():
        yield "pitch", _draw_pitch(exploration, corpora), _pitch_in_words(corpora)
    if summary["map"]:
        yield from _draw_maps(exploration, summary)
    if summary["votes"]:
        yield "votes", _draw_votes(summary["votes"]), _votes_in_words(summary["votes"])


def title_of(corpus: str) -> str:
    """Return the corpus as people write it."""
    return CORPORA[corpus].folder


# ---------------------------------------------------------------------------------------------- the grid


def _grid(names: Sequence[str], emotions: Sequence[str], *, sharex: bool = True) -> "tuple[Figure, list[Axes]]":
    """Return a column of axes for each name; the first emotion is the topmost row."""
    width = ONE_COLUMN_IN if len(names) == 1 else TWO_COLUMNS_IN
    figure = new_figure(width, 0.75 + 0.27 * len(emotions))
    columns = figure.subplots(1, len(names), sharey=True, sharex=sharex, squeeze=False)[0]
    for axes, name in zip(columns, names, strict=True):
        axes.set_title(name, loc="left", fontweight="bold")
        axes.set_ylim(len(emotions) - 0.45, -0.55)
        axes.set_yticks(range(len(emotions)), emotions)
        calm(axes, grid="x")
        axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
    return figure, list(columns)


def _emotions_of(corpora: Mapping[str, Any]) -> list[str]:
    return [emotion for emotion in EMOTIONS if any(emotion in corpus["emotions"] for corpus in corpora.values())]


def _per_emotion(corpora: Mapping[str, Any], x_label: str, draw: "Callable[[Axes, str, str, int], None]") -> "Figure":
    """Draw one thing into each cell of the grid: ``draw(axes, corpus, emotion, row)``."""
    emotions = _emotions_of(corpora)
    figure, columns = _grid([title_of(name) for name in corpora], emotions)
    for axes, (name, corpus) in zip(columns, corpora.items(), strict=True):
        for row, emotion in enumerate(emotions):
            if emotion in corpus["emotions"]:
                draw(axes, name, emotion, row)
    figure.supxlabel(x_label, fontsize=8.5, color=PALETTE["muted"])
    return figure


def _box(axes: "Axes", row: float, found: Mapping[str, Any], colour: str, *, height: float = 0.5) -> None:
    """Draw the middle half as a box, 5 % to 95 % as a line, the median as a notch of paper."""
    if not found["n"]:
        return
    axes.hlines(row, found["p5"], found["p95"], color=colour, linewidth=1.1)
    axes.barh(row, found["p75"] - found["p25"], height, left=found["p25"], color=colour, linewidth=0)
    axes.vlines(found["median"], row - height / 2, row + height / 2, color=PALETTE["paper"], linewidth=1.6)


def _violin(axes: "Axes", row: float, values: np.ndarray, colour: str, side: int, *, filled: bool) -> None:
    """Draw half a violin above (``side`` -1) or below (+1) its row, with a tick at the median."""
    values = values[np.isfinite(values)]
    if len(values) < 3 or np.ptp(values) == 0:
        axes.plot(values, np.full(len(values), row + 0.2 * side), ".", color=colour, ms=4)
        return
    width = 1.06 * values.std() * len(values) ** -0.2  # Scott's rule
    low, high = np.percentile(values, (0.5, 99.5))
    at = np.linspace(low - 2 * width, high + 2 * width, N_ENVELOPE)
    density = np.exp(-0.5 * ((at[:, None] - values[None]) / width) ** 2).sum(axis=1)
    edge = row + side * (0.03 + 0.4 * density / density.max())
    face = colour if filled else PALETTE["paper"]
    axes.fill_between(at, row + side * 0.03, edge, facecolor=face, edgecolor=colour, linewidth=0.9)
    mark = PALETTE["paper"] if filled else colour
    axes.vlines(np.median(values), row + side * 0.03, row + side * 0.3, color=mark, linewidth=1.4)


def _sex_legend(figure: "Figure", what: str) -> None:
    from matplotlib.patches import Patch

    solid = Patch(facecolor=PALETTE["muted"], edgecolor=PALETTE["muted"], label=f"women{what}")
    hollow = Patch(facecolor=PALETTE["paper"], edgecolor=PALETTE["muted"], label="men")
    figure.legend(handles=[solid, hollow], loc="outside upper left", ncols=2, frameon=False, fontsize=8)


# ---------------------------------------------------------------------------------------------- counts


def _draw_emotions(summary: Mapping[str, Any]) -> "Figure":
    """Clips by emotion: solid for women, hollow for men, all corpora together at the right."""
    corpora = dict(summary["corpora"])
    parts = {title_of(name): corpus for name, corpus in corpora.items()}
    if len(parts) > 1:
        parts["all"] = summary["pooled"]
    emotions = _emotions_of(corpora)
    figure, columns = _grid(list(parts), emotions, sharex=False)
    for axes, corpus in zip(columns, parts.values(), strict=True):
        largest = max(corpus["emotions"].values())
        for row, emotion in enumerate(emotions):
            if emotion not in corpus["emotions"]:
                continue
            colour, by_sex = EMOTION_COLOURS[emotion], corpus["emotions_by_sex"][emotion]
            women, men = by_sex.get("female", 0), by_sex.get("male", 0)
            edge: dict[str, Any] = {"edgecolor": colour, "linewidth": 0.9}
            axes.barh(row, women, 0.62, color=colour, **edge)
            axes.barh(row, men, 0.62, left=women, color=PALETTE["paper"], **edge)
            axes.text(women + men + 0.03 * largest, row, f"{women + men:,}", va="center", fontsize=7.5)
        axes.set_xlim(0, 1.36 * largest)
        axes.set_xticks([])
    _sex_legend(figure, "")
    return figure


def _draw_intensities(corpora: Mapping[str, Any]) -> "Figure":
    """Clips by emotion, split by how strongly it was to be played: the stronger, the deeper."""
    from matplotlib.patches import Patch

    graded = {name: corpus for name, corpus in corpora.items() if corpus["intensities"]}
    emotions = _emotions_of(graded)
    figure, columns = _grid([title_of(name) for name in graded], emotions, sharex=False)
    for axes, corpus in zip(columns, graded.values(), strict=True):
        largest = max(corpus["emotions"].values())
        used = [level for level in INTENSITIES if any(level in row for row in corpus["intensities"].values())]
        for row, emotion in enumerate(emotions):
            left, colour = 0, EMOTION_COLOURS[emotion]
            for level in used:
                n = corpus["intensities"].get(emotion, {}).get(level, 0)
                axes.barh(row, n, 0.62, left=left, color=colour, alpha=LEVEL_SHADES[level], linewidth=0)
                if n > 0.09 * largest:
                    axes.text(left + n / 2, row, str(n), ha="center", va="center", fontsize=6.5)
                left += n
        axes.set_xticks([])
        shades = [Patch(facecolor=PALETTE["muted"], alpha=LEVEL_SHADES[level], label=level) for level in used]
        axes.legend(handles=shades, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=len(used), frameon=False,
                    fontsize=7, handlelength=1.1, columnspacing=0.9, handletextpad=0.4)  # fmt: skip
    return figure


def _ages(corpus: Mapping[str, Any]) -> list[tuple[int, str]]:
    return sorted((row["age"], row["sex"]) for row in corpus["speakers"].values() if row["age"] is not None)


def _draw_ages(corpora: Mapping[str, Any]) -> "Figure":
    """Draw a dot for each speaker at their age: solid for women, hollow for men; equal ages are piled up."""
    known = {name: ages for name, corpus in corpora.items() if (ages := _ages(corpus))}
    heights = [max(map([age for age, _ in ages].count, {age for age, _ in ages})) for ages in known.values()]
    figure = new_figure(ONE_COLUMN_IN, 0.75 + sum(0.35 + 0.085 * height for height in heights))
    columns = figure.subplots(len(known), 1, sharex=True, squeeze=False, height_ratios=[2 + n for n in heights])[:, 0]
    for axes, (name, ages), height in zip(columns, known.items(), heights, strict=True):
        piled: dict[int, int] = {}
        for age, sex in ages:
            piled[age] = piled.get(age, 0) + 1
            face = CORPUS_COLOURS[name] if sex == "female" else PALETTE["paper"]
            axes.plot(age, piled[age], "o", ms=4.2, mfc=face, mec=CORPUS_COLOURS[name], mew=0.9, clip_on=False)
        axes.set(ylim=(0, height + 1), yticks=[])
        axes.set_title(title_of(name), loc="left", fontweight="bold")
        calm(axes, grid="x")
    columns[-1].set_xlabel("age in years")
    _sex_legend(figure, "")
    return figure


# ---------------------------------------------------------------------------------------------- durations, levels


def _draw_durations_and_levels(exploration: Exploration, corpora: Mapping[str, Any]) -> Iterator[Drawn]:
    durations = {name: exploration.duration_s[exploration.rows(corpus=name)] for name in corpora}
    yield (
        "durations",
        _draw_spread(durations, "duration of the clip in s"),
        _spread_in_words(corpora, "duration_s", "s"),
    )
    yield "silence", _draw_silence(corpora), _silence_in_words(corpora)
    yield (
        "durations-emotion",
        _draw_boxes(corpora, "duration_s", "duration of the clip in s"),
        _boxes_in_words(corpora, "duration_s", "Median duration in s"),
    )
    levels = {name: exploration.level_db[exploration.rows(corpus=name)] for name in corpora}
    yield (
        "levels",
        _draw_spread(levels, "level of the speech in dB re full scale"),
        _spread_in_words(corpora, "level_db", "dB"),
    )
    yield (
        "energy",
        _draw_energy(exploration, corpora),
        _relative_in_words(corpora, "level_from_neutral_db", "Level", "dB"),
    )


def _draw_spread(values: Mapping[str, np.ndarray], x_label: str) -> "Figure":
    """Share of a corpus's clips by value, a row for each corpus on common bins."""
    found = {name: own[np.isfinite(own)] for name, own in values.items()}
    pooled = np.concatenate(list(found.values()))
    low, high = np.percentile(pooled, (0.2, 99.8))
    edges = np.linspace(low - 0.02 * (high - low) - 1e-6, high + 0.02 * (high - low) + 1e-6, 41)
    figure = new_figure(ONE_COLUMN_IN, 0.6 + 0.62 * len(found))
    rows = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, own) in zip(rows, found.items(), strict=True):
        share = np.histogram(np.clip(own, edges[0], edges[-1]), edges)[0] / max(len(own), 1)
        axes.stairs(share, edges, fill=True, color=CORPUS_COLOURS[name], alpha=0.3)
        axes.stairs(share, edges, color=CORPUS_COLOURS[name], linewidth=1.2)
        if len(own):
            axes.axvline(float(np.median(own)), color=CORPUS_COLOURS[name], linewidth=1, dashes=(2, 2))
        axes.set(yticks=[], ylim=(0, 1.15 * max(share.max(), 1e-3)))
        axes.set_title(title_of(name), loc="left", fontweight="bold", pad=2)
        calm(axes, grid="x")
    rows[-1].set_xlabel(x_label)
    return figure


def _draw_silence(corpora: Mapping[str, Any]) -> "Figure":
    """Silence before (solid) and after (lighter) the speech, a pair of boxes for each corpus."""
    figure = new_figure(ONE_COLUMN_IN, 0.7 + 0.55 * len(corpora))
    axes = figure.add_subplot()
    for row, (name, corpus) in enumerate(corpora.items()):
        for offset, key, word in ((-0.2, "lead_s", "before"), (0.2, "tail_s", "after")):
            found = corpus[key]["all"]
            _box(axes, row + offset, found, CORPUS_COLOURS[name], height=0.28)
            if found["n"]:
                axes.annotate(word, (found["p95"], row + offset), (4, 0), textcoords="offset points", va="center",
                              fontsize=7, color=PALETTE["muted"])  # fmt: skip
    axes.set_yticks(range(len(corpora)), [title_of(name) for name in corpora])
    axes.set(xlabel="silence before and after the speech in s", ylim=(len(corpora) - 0.5, -0.5))
    axes.set_xlim(left=-0.02, right=1.12 * axes.get_xlim()[1])
    calm(axes, grid="x")
    axes.tick_params(axis="y", labelcolor=PALETTE["ink"])
    return figure


def _draw_boxes(corpora: Mapping[str, Any], key: str, x_label: str) -> "Figure":
    def draw(axes: "Axes", name: str, emotion: str, row: int) -> None:
        _box(axes, row, corpora[name][key][emotion], EMOTION_COLOURS[emotion])

    return _per_emotion(corpora, x_label, draw)


def _draw_energy(exploration: Exploration, corpora: Mapping[str, Any]) -> "Figure":
    """Level against the same speaker's neutral, by emotion and sex."""
    relative = _relative_to_own_neutral(exploration, exploration.level_db)
    figure = _draw_violins(
        exploration, corpora, relative, "level in dB, against the same speaker's median neutral clip"
    )
    for axes in figure.axes:
        axes.axvline(0, color=PALETTE["muted"], linewidth=0.8, dashes=(2, 2), zorder=0)
    return figure


def _relative_to_own_neutral(exploration: Exploration, values: np.ndarray) -> np.ndarray:
    relative = np.full_like(values, np.nan)
    for speaker in dict.fromkeys(utterance.speaker_id for utterance in exploration.utterances):
        neutral = values[exploration.rows(speaker_id=speaker, emotion=NEUTRAL)]
        if np.isfinite(neutral).any():
            rows = exploration.rows(speaker_id=speaker)
            relative[rows] = values[rows] - np.nanmedian(neutral)
    return relative


def _draw_violins(exploration: Exploration, corpora: Mapping[str, Any], values: np.ndarray, x_label: str) -> "Figure":
    def draw(axes: "Axes", name: str, emotion: str, row: int) -> None:
        for sex, side, filled in (("female", -1, True), ("male", 1, False)):
            own = values[exploration.rows(corpus=name, emotion=emotion, sex=sex)]
            if np.isfinite(own).any():
                _violin(axes, row, own, EMOTION_COLOURS[emotion], side, filled=filled)

    figure = _per_emotion(corpora, x_label, draw)
    _sex_legend(figure, " (upper half)")
    return figure


def _draw_pitch(exploration: Exploration, corpora: Mapping[str, Any]) -> "Figure":
    """Median pitch of a clip by emotion and sex, octaves equally wide."""
    octaves = np.log2(exploration.pitch_hz)
    figure = _draw_violins(exploration, corpora, octaves, "median pitch of the clip in Hz")
    marks_hz = [hz for hz in (100, 200, 400) if _inside(np.log2(hz), octaves)]
    for axes in figure.axes:
        axes.set_xticks(np.log2(marks_hz), [str(hz) for hz in marks_hz])
        axes.tick_params(axis="x", labelsize=7.5)
    return figure


def _inside(value: float, values: np.ndarray) -> bool:
    return bool(np.nanmin(values) - 0.2 <= value <= np.nanmax(values) + 0.2)


# ---------------------------------------------------------------------------------------------- galleries


def _draw_gallery(exploration: Exploration, corpus: str) -> "Figure":
    """Give each emotion a row: waveform, log-mel spectrum and MFCC of its representative, on one time axis."""
    rows = {emotion: row for (own, emotion), row in exploration.representatives.items() if own == corpus}
    clips = {emotion: exploration.clips[row] for emotion, row in rows.items()}
    log_mel, mfcc = _spectra(list(clips.values()))
    longest_s = max(len(clip) for clip in clips.values()) / SAMPLE_RATE
    loudest = max(int(np.abs(clip.astype(np.int32)).max()) for clip in clips.values()) / FULL_SCALE
    top_db = max(float(spectrum.max()) for spectrum in log_mel)
    figure = new_figure(TWO_COLUMNS_IN, 0.7 + 0.62 * len(clips))
    grid = figure.subplots(len(clips), 3, sharex=True, squeeze=False)
    for line, (emotion, clip) in zip(range(len(clips)), clips.items(), strict=True):
        wave, mel, cepstrum = grid[line]
        _draw_waveform(wave, clip, EMOTION_COLOURS[emotion])
        wave.set_ylim(-loudest, loudest)
        wave.set_ylabel(emotion, rotation=0, ha="right", va="center", color=PALETTE["ink"])
        duration_s = len(clip) / SAMPLE_RATE
        _draw_image(mel, log_mel[line], duration_s, "magma", top_db - DYNAMIC_RANGE_DB, top_db)
        _draw_image(cepstrum, mfcc[line], duration_s, _diverging(), -2.5, 2.5)
        for axes in (wave, mel, cepstrum):
            axes.set(xlim=(0, longest_s), yticks=[])
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
    for axes, name in zip(grid[0], ("waveform", "log-mel spectrum", f"MFCC 1-{N_MFCC - 1}"), strict=True):
        axes.set_title(name, loc="left")
    for axes in grid[-1]:
        axes.set_xlabel("s")
    figure.align_ylabels(grid[:, 0])
    return figure


def _spectra(clips: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Log-mel (80, T) and MFCC without the first (12, T), the latter standardised over all these clips."""
    import torch

    from undertone.lab.features import build_features

    waveform, lengths = (torch.from_numpy(array) for array in pad_batch([to_float(clip) for clip in clips]))
    found = []
    for section in ({"kind": "log-mel", "top_db": None}, {"kind": "mfcc", "n_mfcc": N_MFCC, "n_mels": 40}):
        with torch.inference_mode():
            features, n_valid = build_features(section)(waveform, lengths)
        found.append([row[:, :n].numpy() for row, n in zip(features, n_valid.tolist(), strict=True)])
    log_mel, mfcc = found
    frames = np.concatenate([row[1:] for row in mfcc], axis=1)
    mean, deviation = frames.mean(axis=1, keepdims=True), np.maximum(frames.std(axis=1, keepdims=True), 1e-6)
    return log_mel, [(row[1:] - mean) / deviation for row in mfcc]


def _draw_waveform(axes: "Axes", clip: np.ndarray, colour: str) -> None:
    size = max(1, -(-len(clip) // WAVEFORM_POINTS))
    parts = np.pad(clip, (0, -len(clip) % size)).reshape(-1, size) / FULL_SCALE
    at = (np.arange(len(parts)) + 0.5) * size / SAMPLE_RATE
    axes.fill_between(at, parts.min(axis=1), parts.max(axis=1), color=colour, linewidth=0.4)


def _draw_image(axes: "Axes", image: np.ndarray, duration_s: float, colours: Any, low: float, high: float) -> None:
    axes.imshow(image, origin="lower", aspect="auto", extent=(0, duration_s, 0, len(image)), cmap=colours, vmin=low,
                vmax=high, interpolation="none")  # fmt: skip


def _diverging() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("diverging", DIVERGING)


# ---------------------------------------------------------------------------------------------- map


def _draw_maps(exploration: Exploration, summary: Mapping[str, Any]) -> Iterator[Drawn]:
    assert exploration.embedded is not None
    shown = [exploration.utterances[row] for row in exploration.embedded.rows]
    positions = exploration.embedded.positions
    kinds = {
        "emotion": [utterance.emotion for utterance in shown],
        "corpus": [utterance.corpus for utterance in shown],
        "speaker": [utterance.speaker_id for utterance in shown],
    }
    for kind, labels in kinds.items():
        yield f"map-{kind}", _draw_map(kind, labels, positions), _map_in_words(kind, summary["map"])


def _draw_map(kind: str, labels: Sequence[str], positions: np.ndarray) -> "Figure":
    figure = new_figure(ONE_COLUMN_IN, ONE_COLUMN_IN + 0.6)
    figure.set_layout_engine("none")  # the maps stand side by side: each has its axes at the same place
    axes = figure.add_axes((0.01, 0.16, 0.98, 0.78))
    size = float(np.clip(7_000 / len(labels), 4, 40))
    order = np.random.default_rng(0).permutation(len(labels))  # no group covers another by coming last
    styles = {label: _map_style(kind, label, rank) for rank, label in enumerate(dict.fromkeys(sorted(labels)))}
    for stretch in np.array_split(order, min(12, len(order))):
        for label, (colour, marker) in styles.items():
            own = [row for row in stretch if labels[row] == label]
            axes.scatter(
                *positions[own].T, s=size, color=colour, marker=marker, alpha=0.8, linewidths=0, rasterized=True
            )
    axes.set(xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set_visible(True)
    axes.set_title(f"by {kind}", loc="left", fontweight="bold")
    _map_legend(axes, kind, styles)
    return figure


def _map_style(kind: str, label: str, rank: int) -> tuple[Any, str]:
    from matplotlib.colors import hsv_to_rgb

    if kind == "emotion":
        return EMOTION_COLOURS[label], EMOTION_MARKERS[label]
    if kind == "corpus":
        return CORPUS_COLOURS[label], "osD^P"[list(CORPORA).index(label)]
    return tuple(hsv_to_rgb((rank * 0.618 % 1, 0.6, 0.78))), "osD^v"[
        rank % 5
    ]  # golden ratio: neighbours in rank differ


def _map_legend(axes: "Axes", kind: str, styles: Mapping[str, tuple[Any, str]]) -> None:
    from matplotlib.lines import Line2D

    if kind == "speaker":
        axes.set_xlabel(f"{len(styles)} speakers, each with a colour and a marker", fontsize=8)
        return
    names = [name for name in (*EMOTIONS, *CORPORA) if name in styles]
    marks = []
    for name in names:
        colour, marker = styles[name]
        label = title_of(name) if kind == "corpus" else name
        marks.append(Line2D([], [], linestyle="", color=colour, marker=marker, ms=5, mew=0, label=label))
    axes.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=min(4, len(marks)), frameon=False,
                fontsize=7.5, handletextpad=0.1, columnspacing=1)  # fmt: skip


# ---------------------------------------------------------------------------------------------- votes


def _draw_votes(votes: Mapping[str, Any]) -> "Figure":
    """Rows are what was meant; a cell's depth is its share of the row's votes, its small number the votes."""
    from matplotlib.patches import Rectangle

    counts = np.array(votes["counts"])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = new_figure(max(ONE_COLUMN_IN, 1.2 + 0.62 * counts.shape[1]), 0.9 + 0.5 * counts.shape[0])
    axes = figure.add_subplot()
    axes.set(xlim=(-0.5, counts.shape[1] - 0.5), ylim=(counts.shape[0] - 0.5, -0.5), ylabel="meant")
    axes.set_xlabel("heard", labelpad=6)
    axes.xaxis.set_label_position("top")
    for (row, column), value in np.ndenumerate(share):
        place = (column - 0.48, row - 0.48)
        axes.add_patch(Rectangle(place, 0.96, 0.96, facecolor=PALETTE["line"], alpha=0.35, linewidth=0))
        axes.add_patch(Rectangle(place, 0.96, 0.96, facecolor=PALETTE["accent"], alpha=value, linewidth=0))
        text: dict[str, Any] = {"ha": "center", "va": "center", "color": PALETTE["on-accent" if value > 0.7 else "ink"]}
        axes.text(
            column,
            row - 0.08,
            f"{100 * value:.0f}",
            fontsize=9.5,
            fontweight="bold" if _same(votes, row, column) else "normal",
            **text,
        )
        axes.text(column, row + 0.27, f"{counts[row, column]:,.0f}", fontsize=6.8, alpha=0.8, **text)
    axes.set_xticks(range(counts.shape[1]), votes["heard"], fontsize=7.5)
    axes.set_yticks(range(counts.shape[0]), votes["meant"])
    axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False, labelcolor=PALETTE["ink"])
    axes.spines[:].set_visible(False)
    return figure


def _same(votes: Mapping[str, Any], row: int, column: int) -> bool:
    return votes["meant"][row] == votes["heard"][column]


# ---------------------------------------------------------------------------------------------- figures in words


def _emotions_in_words(corpora: Mapping[str, Any]) -> str:
    told = [
        f"{title_of(name)}: " + ", ".join(f"{emotion} {n}" for emotion, n in corpus["emotions"].items())
        for name, corpus in corpora.items()
    ]
    return f"Bars: clips by emotion, split by the speaker's sex. {'; '.join(told)}."


def _intensities_in_words(corpora: Mapping[str, Any]) -> str:
    told = []
    for name, corpus in corpora.items():
        levels: dict[str, int] = {}
        for row in (corpus["intensities"] or {}).values():
            for level, n in row.items():
                levels[level] = levels.get(level, 0) + n
        if levels:
            told.append(
                f"{title_of(name)}: "
                + ", ".join(f"{level} {levels[level]}" for level in INTENSITIES if level in levels)
            )
    return f"Bars: clips by emotion, split by intensity. {'; '.join(told)}."


def _ages_in_words(corpora: Mapping[str, Any]) -> str:
    told = []
    for name, corpus in corpora.items():
        if ages := [age for age, _ in _ages(corpus)]:
            told.append(
                f"{title_of(name)}: {len(ages)} speakers, {min(ages)} to {max(ages)}, median {np.median(ages):.0f}"
            )
    return f"Dots: speakers by age, in years. {'; '.join(told)}."


def _spread_in_words(corpora: Mapping[str, Any], key: str, unit: str) -> str:
    told = [
        f"{title_of(name)} {found['median']:.1f} ({found['p5']:.1f} to {found['p95']:.1f})"
        for name, corpus in corpora.items()
        if (found := corpus[key]["all"])["n"]
    ]
    what = {"duration_s": "durations", "level_db": "levels of the speech"}[key]
    return f"Histograms of {what} by corpus; median in {unit} (5 % to 95 %): {', '.join(told)}."


def _silence_in_words(corpora: Mapping[str, Any]) -> str:
    told = [
        f"{title_of(name)} {corpus['lead_s']['all']['median']:.2f} and {corpus['tail_s']['all']['median']:.2f}"
        for name, corpus in corpora.items()
        if corpus["lead_s"]["all"]["n"]
    ]
    return f"Boxes: silence before and after the speech, medians in s: {', '.join(told)}."


def _boxes_in_words(corpora: Mapping[str, Any], key: str, what: str) -> str:
    told = []
    for name, corpus in corpora.items():
        known = [(emotion, corpus[key][emotion]["median"]) for emotion in corpus["emotions"]]
        told.append(
            f"{title_of(name)}: " + ", ".join(f"{word} {value:.1f}" for word, value in known if value is not None)
        )
    return f"Boxes by emotion. {what}. {'; '.join(told)}."


def _relative_in_words(corpora: Mapping[str, Any], key: str, what: str, unit: str) -> str:
    told = []
    for name, corpus in corpora.items():
        known = [(emotion, value) for emotion, value in corpus[key].items() if value is not None]
        if known:
            told.append(f"{title_of(name)}: " + ", ".join(f"{word} {value:+.1f}" for word, value in known))
    return f"Violins: {what} by emotion and sex, against the same speaker's neutral, in {unit}. {'; '.join(told)}."


def _pitch_in_words(corpora: Mapping[str, Any]) -> str:
    told = []
    for name, corpus in corpora.items():
        known = [
            f"{emotion} {by_sex[sex]['median']:.0f} ({word})"
            for emotion, by_sex in corpus["pitch_hz"].items()
            for sex, word in (("female", "women"), ("male", "men"))
            if by_sex[sex]["n"]
        ]
        told.append(f"{title_of(name)}: {', '.join(known)}")
    return f"Violins: median pitch of a clip by emotion and sex, in Hz. {'; '.join(told)}."


def _gallery_in_words(corpus: Mapping[str, Any], name: str) -> str:
    clips = ", ".join(f"{emotion} {clip}" for emotion, clip in corpus["representatives"].items())
    return f"Waveform, log-mel spectrum and MFCC of one clip of {title_of(name)} for each emotion: {clips}."


def _map_in_words(kind: str, found: Mapping[str, Any]) -> str:
    own = found["neighbours"][kind]
    share = (
        "" if own["share"] is None else f" {100 * own['share']:.0f} % of a clip's nearest neighbours share its {kind}."
    )
    return f"Map of {found['n']} clips by {found['method']}, coloured by {kind}.{share}"


def _votes_in_words(votes: Mapping[str, Any]) -> str:
    counts = np.array(votes["counts"])
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    told = [
        f"{meant}: "
        + ", ".join(f"{heard} {100 * share[row, column]:.0f} %" for column, heard in enumerate(votes["heard"]))
        for row, meant in enumerate(votes["meant"])
    ]
    return f"Matrix of meant against heard emotions. {'; '.join(told)}."

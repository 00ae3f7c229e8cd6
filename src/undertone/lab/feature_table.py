"""Feature tables: a row per clip or per frame, a named column per value, as CSV or Parquet.

For people who want numbers and no network. Columns are ``path``, ``corpus``, ``speaker``, ``emotion`` (empty where
they are not known), ``time_s`` (tables of frames only: the frame's centre), the features by their names, and ``error``.
A clip that cannot be read gets one row that says why and has no values. Clips are read and computed a few at a time, so
that memory does not grow with their number.
"""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undertone.audio import SAMPLE_RATE, AudioError, load_waveform
from undertone.files import replacing
from undertone.formats import open_output
from undertone.lab.corpora import Utterance
from undertone.lab.data import pad_batch
from undertone.lab.features import Feature, FrontEnd, Functionals, InputConfig, Stack, build_features
from undertone.lab.features.compose import Composite

STATISTICS = ("mean", "std", "p05", "p50", "p95", "mean_abs_delta")
CHUNK_S = 240.0  # seconds of sound read ahead
BATCH_S = 60.0  # seconds of padded sound computed together
SUFFIXES = (".csv", ".parquet")
PER_FRAME = {"frame_length": 400, "hop_length": 160}
ALL: dict[str, Any] = {
    "kind": "stack",
    "parts": [
        {"kind": "prosody-functionals"},
        {
            "kind": "functionals",
            "statistics": list(STATISTICS),
            "parts": [
                {"kind": "mfcc", "n_mfcc": 20, "n_mels": 40, "n_deltas": 2},
                {"kind": "log-mel", "n_mels": 24},
                {"kind": "chroma"},
                {"kind": "spectral-contrast"},
                {"kind": "tonnetz"},
                *({"kind": kind} for kind in ("centroid", "bandwidth", "rolloff", "flatness", "poly")),
                {"kind": "zcr", **PER_FRAME},
                {"kind": "rms", **PER_FRAME},
            ],
        },
    ],
}


class FeatureTableError(ValueError):
    """Features that make no table, or a table that cannot be written; the message says what to do."""


@dataclass(frozen=True)
class TableSummary:
    """What was written: the number of rows, the columns' names, and each clip that has an error instead of values."""

    n_rows: int
    columns: tuple[str, ...]
    errors: dict[str, str]


def feature_sets() -> dict[str, dict[str, Any]]:
    """Named sets of features, each a recipe's ``[features]``: those of the classic estimators, and ``all``."""
    from undertone.lab.zoo import FEATURE_SETS

    return {**FEATURE_SETS, "all": ALL}


def load_table_features(name: str | Path, *, frames: bool = False, statistics: Sequence[str] | None = None) -> FrontEnd:
    """Build what computes a table's values.

    Parameters
    ----------
    name
        A set of :func:`feature_sets`, a recipe, or a TOML file of one: its ``[features]``, of the part of the clip and
        at the rate that its ``[input]`` says.
    frames
        A row per frame: what stands inside functionals and images is taken as it comes.
    statistics
        Over time, of what stands inside functionals and images, see :class:`~undertone.lab.features.Functionals`. None
        is what the features themselves say, and ``STATISTICS`` where they are no vector.

    Raises
    ------
    FeatureTableError
        If there are no frames, the features have to be trained, or a library is missing.
    RecipeError
        If there is no such set and no such recipe.
    """
    from undertone.lab.recipes import load_recipe

    sets = feature_sets()
    if str(name) in sets:
        section, config = sets[str(name)], InputConfig()
    else:
        recipe = load_recipe(name)
        if recipe.members:
            names = ", ".join(member.name for member in recipe.members)
            raise FeatureTableError(f"{name} is an ensemble; name one of its members: {names}")
        section, config = recipe.features, recipe.input
    try:
        features = build_features(section, sample_rate=config.sample_rate)
    except ImportError as error:
        raise FeatureTableError(str(error)) from error
    if any(hasattr(module, "fit_to") for module in features.modules()):
        raise FeatureTableError(
            f"the features of {name} are trained together with it, so that there is no table of them"
        )
    try:
        features = _by_frame(features) if frames else _by_clip(features, statistics)
    except ValueError as error:
        raise FeatureTableError(f"{name}: {error}") from error
    return FrontEnd(features, normalise="none", scale=1.0, config=config).eval()


def _by_clip(features: Feature, statistics: Sequence[str] | None) -> Feature:
    if features.n_frames == 1 and statistics is None:
        return features
    return Functionals(_frames_in(features), statistics or STATISTICS)


def _by_frame(features: Feature) -> Feature:
    parts = _frames_in(features)
    return parts[0] if len(parts) == 1 else Stack(parts)


def _frames_in(features: Feature) -> list[Feature]:
    parts = list(_frame_features(features))
    if not parts:
        raise ValueError("these features have no frames: each clip gives one vector")
    return parts


def _frame_features(feature: Feature) -> Iterator[Feature]:
    if feature.n_frames is None:
        yield feature
    elif isinstance(feature, Composite):
        for part in feature.members:
            yield from _frame_features(part)


def write_feature_table(
    clips: Sequence[Path | Utterance],
    front_end: FrontEnd,
    out: Path | None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> TableSummary:
    """Compute and write a table, which appears under its name only when all of it is written.

    Parameters
    ----------
    clips
        Sound files, or utterances of a corpus, whose labels then are in the table.
    front_end
        From :func:`load_table_features`.
    out
        ``.csv`` or ``.parquet``; None writes CSV to standard output.
    progress
        Called with (clips done, clips in all).

    Raises
    ------
    FeatureTableError
        If the suffix is another, or Parquet's library is missing.
    """
    if out is not None and out.suffix.lower() not in SUFFIXES:
        raise FeatureTableError(f"cannot tell the format of {out}: name it {' or '.join(SUFFIXES)}")
    names = front_end.features.names
    per_frame = front_end.n_frames is None
    columns = ("path", "corpus", "speaker", "emotion", *(["time_s"] if per_frame else []), *names, "error")
    n_rows, n_done, errors = 0, 0, {}
    is_parquet = out is not None and out.suffix.lower() == ".parquet"
    with _parquet(out, columns, per_frame) if is_parquet else _csv(out, columns) as write:
        for chunk in _chunks(clips):
            for clip, values, error in _compute(chunk, front_end):
                labels = _labels(clip)
                if error:
                    errors[labels[0]] = error
                write(labels, values, error)
                n_rows += 1 if error else len(values)
            n_done += len(chunk)
            if progress is not None:
                progress(n_done, len(clips))
    return TableSummary(n_rows, columns, errors)


def _labels(clip: Path | Utterance) -> tuple[str, str | None, str | None, str | None]:
    """Path, corpus, speaker and emotion."""
    if isinstance(clip, Utterance):
        return str(clip.path), clip.corpus, clip.speaker_id, clip.emotion
    return str(clip), None, None, None


# ---- computing ----

Clip = tuple[Path | Utterance, np.ndarray, str]  # clip; its waveform, empty if it has none; what is wrong
Computed = tuple[Path | Utterance, np.ndarray, str]  # clip; values (n_rows, n_values), none if something is wrong; what


def _chunks(clips: Sequence[Path | Utterance]) -> Iterator[list[Clip]]:
    """Yield decoded clips, a few minutes of them at a time."""
    chunk, seconds = [], 0.0
    n_threads = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(n_threads) as pool:
        for start in range(0, len(clips), n_threads):  # not all at once: decoded clips would pile up
            for clip in pool.map(_decode, clips[start : start + n_threads]):
                chunk.append(clip)
                seconds += len(clip[1]) / SAMPLE_RATE
            if seconds > CHUNK_S:
                yield chunk
                chunk, seconds = [], 0.0
    if chunk:
        yield chunk


def _decode(clip: Path | Utterance) -> Clip:
    try:
        return clip, load_waveform(clip.path if isinstance(clip, Utterance) else clip), ""
    except (AudioError, OSError) as error:
        return clip, np.zeros(0, np.float32), str(error)


@torch.inference_mode()
def _compute(chunk: Sequence[Clip], front_end: FrontEnd) -> Iterator[Computed]:
    """Values of each clip of a chunk, in its order; clips of like length are computed together."""
    computed: dict[int, np.ndarray] = {}
    for rows in _batches([len(waveform) for _, waveform, _ in chunk]):
        waveform, lengths = pad_batch([chunk[row][1] for row in rows])
        features, n_valid = front_end.extract(torch.from_numpy(waveform), torch.from_numpy(lengths))
        for row, values, n in zip(rows, features.numpy(), n_valid.tolist(), strict=True):
            computed[row] = values[:, :n].T
    for row, (clip, waveform, error) in enumerate(chunk):
        if not error and not np.isfinite(computed[row]).all():
            error = "the features of this clip are not finite"
        yield clip, np.zeros((0, 0)) if error else _with_time(computed[row], len(waveform), front_end), error


def _with_time(values: np.ndarray, n_samples: int, front_end: FrontEnd) -> np.ndarray:
    """Values (n_rows, n_values), in tables of frames behind the time of each frame in the clip."""
    if front_end.frames_per_second is None:
        return values
    start_s = min(front_end.config.offset_s, max(0.0, n_samples / SAMPLE_RATE - 0.1))  # as InputConfig says
    return np.column_stack([start_s + np.arange(len(values)) / front_end.frames_per_second, values])


def _batches(n_samples: Sequence[int]) -> Iterator[list[int]]:
    """Rows of similar length, as many as fit into ``BATCH_S`` when padded; empty ones are left out."""
    batch: list[int] = []
    for row in sorted((row for row, n in enumerate(n_samples) if n), key=lambda row: n_samples[row]):
        if batch and (len(batch) + 1) * n_samples[row] > BATCH_S * SAMPLE_RATE:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


# ---- writing ----

Write = Callable[[Sequence[str | None], np.ndarray, str], None]  # labels, values (n_rows, n_values), error


@contextmanager
def _csv(out: Path | None, columns: Sequence[str]) -> Iterator[Write]:
    n_values = len(columns) - 5
    with open_output(out) as file:
        writer = csv.writer(file)
        writer.writerow(columns)

        def write(labels: Sequence[str | None], values: np.ndarray, error: str) -> None:
            if error:
                writer.writerow([*labels, *[None] * n_values, error])
            writer.writerows([*labels, *(f"{value:.7g}" for value in row), None] for row in values.tolist())

        yield write


@contextmanager
def _parquet(out: Path | None, columns: Sequence[str], per_frame: bool) -> Iterator[Write]:
    assert out is not None
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise FeatureTableError(
            "Parquet needs pyarrow: pip install 'undertone[parquet]', or name the table .csv"
        ) from None
    first = 5 if per_frame else 4  # of the features; a time is kept in double precision
    kinds = [pyarrow.string()] * 4 + [pyarrow.float64()] * (first - 4)
    kinds += [pyarrow.float32()] * (len(columns) - first - 1) + [pyarrow.string()]
    schema = pyarrow.schema(list(zip(columns, kinds, strict=True)))
    waiting: list[list[Any]] = []

    def flush(writer: Any) -> None:
        if waiting:
            arrays = [
                pyarrow.array(column, kind) for column, kind in zip(zip(*waiting, strict=True), kinds, strict=True)
            ]
            writer.write_table(pyarrow.table(arrays, schema=schema))
            waiting.clear()

    with replacing(out) as temporary, parquet.ParquetWriter(str(temporary), schema) as writer:

        def write(labels: Sequence[str | None], values: np.ndarray, error: str) -> None:
            if error:
                waiting.append([*labels, *[None] * (len(columns) - 5), error])
            waiting.extend([*labels, *row, None] for row in values.tolist())
            if len(waiting) >= 4_096:  # a row group
                flush(writer)

        yield write
        flush(writer)

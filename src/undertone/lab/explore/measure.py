"""Numbers for each clip: duration, silence around the speech, level, pitch, and where the model puts it.

Conventions: one row per utterance, float64, NaN where there is nothing to measure (an unreadable or silent clip, or
one outside the sample). Levels are dB relative to full scale: 0 is a square wave from -1 to 1.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from undertone.audio import SAMPLE_RATE
from undertone.emotions import EMOTIONS
from undertone.lab.corpora import Problem, Utterance, find_problems, load
from undertone.lab.data import FULL_SCALE, Waveforms, bucket_batches, decode_utterances, pad_batch, to_float
from undertone.model_file import DEFAULT_MODEL, Card

if TYPE_CHECKING:
    from undertone.recognizer import Recognizer

Progress = Callable[[str, int, int], None]  # stage, done, total

FRAME_S = 0.02
SILENCE_DB = 30.0  # a frame this much below the clip's loudest one is no speech
MAX_CLIPS = 500  # per corpus, for what is costly
PITCH_BATCH = 16
PITCH_HOP = 320  # samples: for a clip's median every second frame is enough (0.5 semitones off in 5 % of clips)
MAP_STEPS = 500  # of t-SNE: half of scikit-learn's, for a divergence that is 5 % larger
PERPLEXITY = 30.0  # of t-SNE: about how many neighbours each clip keeps near
MIN_MAP_CLIPS = 10  # fewer are drawn by principal components: t-SNE has nothing to arrange
N_NEIGHBOURS = 10


@dataclass(frozen=True)
class Embedded:
    """Clips as the model sees them.

    Attributes
    ----------
    rows
        (m,) int64, which utterances.
    vectors
        (m, dim) float64, the model's embeddings.
    positions
        (m, 2) float64, a plane in which neighbours stay neighbours.
    method
        ``"t-SNE"`` or ``"PCA"``.
    card
        Of the model.
    """

    rows: np.ndarray
    vectors: np.ndarray
    positions: np.ndarray
    method: str
    card: Card


@dataclass(frozen=True)
class Exploration:
    """Utterances and what was measured on each; rows in the order of ``utterances``, NaN where there is nothing.

    Attributes
    ----------
    duration_s, lead_s, tail_s
        (n,) seconds: the clip, and the silence before and after its speech.
    level_db, peak_db
        (n,) dB re full scale: mean power of the frames that hold speech, and the largest sample.
    n_full_scale
        (n,) int64, samples at full scale: several in a clip mean that it was clipped.
    pitch_hz, pitch_range_st
        (n,) median of the voiced frames, and the semitones between their 10th and 90th percentile; sampled clips only.
    sampled
        (n,) bool, the clips of the costly measures.
    representatives
        (corpus, emotion) -> row of the clip nearest to the median duration and level.
    clips
        Samples of the representatives, row -> (n_samples,) int16.
    """

    utterances: tuple[Utterance, ...]
    duration_s: np.ndarray
    lead_s: np.ndarray
    tail_s: np.ndarray
    level_db: np.ndarray
    peak_db: np.ndarray
    n_full_scale: np.ndarray
    pitch_hz: np.ndarray
    pitch_range_st: np.ndarray
    sampled: np.ndarray
    representatives: dict[tuple[str, str], int]
    clips: dict[int, np.ndarray]
    embedded: Embedded | None
    problems: tuple[Problem, ...]
    unreadable: dict[str, str]  # utterance_id -> reason
    max_clips: int
    seed: int

    @cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        keys = ("corpus", "speaker_id", "sex", "emotion")
        return {key: np.array([getattr(utterance, key) for utterance in self.utterances], dtype=str) for key in keys}

    def rows(self, **values: str) -> np.ndarray:
        """Rows of the utterances of this ``corpus``, ``speaker_id``, ``sex`` or ``emotion``, (m,) int64."""
        chosen = np.ones(len(self.utterances), dtype=bool)
        for key, value in values.items():
            chosen &= self._columns[key] == value
        return np.flatnonzero(chosen)

    @property
    def corpora(self) -> tuple[str, ...]:
        """Corpora, in the order of the utterances."""
        return tuple(dict.fromkeys(utterance.corpus for utterance in self.utterances))


def explore(
    root: Path | str,
    corpora: Sequence[str] | None = None,
    *,
    model: str | Path = DEFAULT_MODEL,
    max_clips: int = MAX_CLIPS,
    seed: int = 0,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Exploration:
    """Measure the corpora below ``root``.

    Parameters
    ----------
    corpora
        Names; None takes those that are there.
    model
        Name or path of the model file whose embeddings are mapped.
    max_clips
        Of each corpus, for pitch and embeddings; durations and levels are measured on every clip. 0 leaves both out.
    seed
        Decides the sample and the map.
    cache_dir
        Where decoded clips are kept; see :func:`undertone.lab.data.decode_utterances`.
    progress
        Called with (stage, done, total).

    Raises
    ------
    CorpusError
        If a corpus that was asked for is missing, or there is none.
    ModelFileError
        If the model file cannot be used.
    """
    if max_clips < 0:
        raise ValueError(f"max_clips must be 0 or more, got {max_clips}")
    tell = progress or (lambda _stage, _done, _total: None)
    utterances = load(root, corpora)
    recognizer = _open(model) if max_clips else None
    waveforms = decode_utterances(utterances, cache_dir, progress=lambda done, total: tell("decoding", done, total))
    basics = np.array([measure_clip(clip) for clip in _counted(waveforms.clips, "levels", tell)]).T  # (6, n)
    duration_s, lead_s, tail_s, level_db, peak_db, n_full_scale = basics
    problems = tuple(find_problems(utterances, waveforms.digests, waveforms.is_silent.tolist()))
    representatives = choose_representatives(utterances, duration_s, level_db)
    sampled = draw_sample(utterances, np.isfinite(level_db), max_clips, seed)
    pitch_hz, pitch_range_st = _measure_pitch(waveforms, np.flatnonzero(sampled), tell)
    unreadable = {utterances[row].utterance_id: reason for row, reason in waveforms.errors.items()}
    return Exploration(
        utterances=tuple(utterances),
        duration_s=duration_s,
        lead_s=lead_s,
        tail_s=tail_s,
        level_db=level_db,
        peak_db=peak_db,
        n_full_scale=np.nan_to_num(n_full_scale).astype(np.int64),
        pitch_hz=pitch_hz,
        pitch_range_st=pitch_range_st,
        sampled=sampled,
        representatives=representatives,
        clips={row: waveforms.clips[row] for row in representatives.values()},
        embedded=_embed(recognizer, waveforms, np.flatnonzero(sampled), seed, tell) if recognizer else None,
        problems=problems,
        unreadable=unreadable,
        max_clips=max_clips,
        seed=seed,
    )


def measure_clip(clip: np.ndarray) -> tuple[float, ...]:
    """Duration, silence before and after the speech (s), speech level, peak (dB re full scale), full-scale samples.

    Speech are the frames of 20 ms that lie less than 30 dB below the loudest one. A clip without samples is NaN
    throughout; of a silent one only the duration is known.

    Parameters
    ----------
    clip : (n_samples,) int16
        At 16 kHz.

    Examples
    --------
    >>> clip = np.zeros(16_000, np.int16)
    >>> clip[3_200:9_600] = 16_384  # half of full scale
    >>> [round(value, 2) for value in measure_clip(clip)]
    [1.0, 0.2, 0.4, -6.02, -6.02, 0.0]
    """
    if not len(clip):
        return (np.nan,) * 6
    duration_s = len(clip) / SAMPLE_RATE
    power = _frame_power(clip)  # (T,)
    loudest = power.max()
    if loudest == 0:
        return (duration_s, *(np.nan,) * 5)
    speech = np.flatnonzero(power > loudest * 10 ** (-SILENCE_DB / 10))
    peak = int(np.abs(clip.astype(np.int32)).max())
    return (
        duration_s,
        float(speech[0]) * FRAME_S,
        max(0.0, duration_s - float(speech[-1] + 1) * FRAME_S),
        float(10 * np.log10(power[speech].mean())),
        float(20 * np.log10(peak / FULL_SCALE)),
        float(np.count_nonzero(np.abs(clip.astype(np.int32)) >= FULL_SCALE - 1)),
    )


def _frame_power(clip: np.ndarray) -> np.ndarray:
    """Mean power of consecutive frames, (T,); a last part of less than a frame counts only if it is all there is."""
    size = round(FRAME_S * SAMPLE_RATE)
    size = min(size, len(clip))
    frames = clip[: len(clip) // size * size].reshape(-1, size).astype(np.float32) / FULL_SCALE
    return np.einsum("ts,ts->t", frames, frames, dtype=np.float64) / size


def draw_sample(utterances: Sequence[Utterance], usable: np.ndarray, max_clips: int, seed: int) -> np.ndarray:
    """At most ``max_clips`` usable clips of each corpus, evenly over speakers and emotions, (n,) bool.

    Every speaker's first clip of each emotion (in a random order) comes before any second one. A corpus's draw does
    not depend on which others are there.
    """
    chosen = np.zeros(len(utterances), dtype=bool)
    for corpus in dict.fromkeys(utterance.corpus for utterance in utterances):
        rows = [row for row, utterance in enumerate(utterances) if utterance.corpus == corpus and usable[row]]
        shuffled = [rows[index] for index in np.random.default_rng(seed).permutation(len(rows))]
        taken: dict[tuple[str, str], int] = {}
        turn = []
        for row in shuffled:
            group = (utterances[row].speaker_id, utterances[row].emotion)
            turn.append(taken.get(group, 0))
            taken[group] = turn[-1] + 1
        order = np.argsort(turn, kind="stable")[:max_clips]
        chosen[[shuffled[index] for index in order]] = True
    return chosen


def choose_representatives(
    utterances: Sequence[Utterance], duration_s: np.ndarray, level_db: np.ndarray
) -> dict[tuple[str, str], int]:
    """One typical clip for each corpus and emotion, by rule: (corpus, emotion) -> row.

    The clip whose duration and level lie nearest to the medians of its corpus and emotion: the sum of both distances,
    each in units of the median distance. The first by name of equals.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for row, utterance in enumerate(utterances):
        if np.isfinite(level_db[row]):
            groups.setdefault((utterance.corpus, utterance.emotion), []).append(row)
    ordered = sorted(groups, key=lambda group: EMOTIONS.index(group[1]))
    chosen = {}
    for group in ordered:
        rows = np.array(groups[group])
        distance = _distance_from_median(duration_s[rows]) + _distance_from_median(level_db[rows])
        chosen[group] = int(rows[int(distance.argmin())])
    return chosen


def _distance_from_median(values: np.ndarray) -> np.ndarray:
    distance = np.abs(values - np.median(values))
    return distance / max(float(np.median(distance)), 1e-9)


# ---------------------------------------------------------------------------------------------- pitch


def _measure_pitch(waveforms: Waveforms, rows: np.ndarray, tell: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Median pitch (Hz) and its range (semitones) of the clips at ``rows``; NaN elsewhere, and without voice."""
    median_hz, range_st = np.full((2, len(waveforms)), np.nan)
    if not len(rows):
        return median_hz, range_st
    for row, track_hz in _track_pitch(waveforms, rows, tell):
        if len(track_hz):
            low, median_hz[row], high = np.percentile(track_hz, (10, 50, 90))
            range_st[row] = 12 * np.log2(high / low)
    return median_hz, range_st


def _track_pitch(waveforms: Waveforms, rows: np.ndarray, tell: Progress) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (row, pitch of its voiced frames in Hz)."""
    import torch

    from undertone.lab.features import build_features

    tracker = build_features({"kind": "pitch", "hop_length": PITCH_HOP})
    done = 0
    for batch in bucket_batches(waveforms.n_samples[rows], PITCH_BATCH):
        waveform, lengths = pad_batch([to_float(waveforms.clips[row]) for row in rows[batch]])
        with torch.inference_mode():
            features, n_valid = tracker(torch.from_numpy(waveform), torch.from_numpy(lengths))
        for row, track, n in zip(rows[batch], features.double().numpy(), n_valid.tolist(), strict=True):
            pitch_hz = track[0, :n]
            yield int(row), pitch_hz[pitch_hz > 0]
        done += len(batch)
        tell("pitch", done, len(rows))


# ---------------------------------------------------------------------------------------------- embeddings


def _open(model: str | Path) -> "Recognizer":
    from undertone.recognizer import load_model

    return load_model(model)


def _embed(
    recognizer: "Recognizer", waveforms: Waveforms, rows: np.ndarray, seed: int, tell: Progress
) -> Embedded | None:
    if "embedding" not in recognizer.model.outputs or not len(rows):
        return None
    sounds = (to_float(waveforms.clips[row]) for row in rows)
    predictions = recognizer.predict_iter(sounds, sample_rate=SAMPLE_RATE, embedding=True)
    found = []
    for done, (row, prediction) in enumerate(zip(rows, predictions, strict=True), start=1):
        if prediction.embedding is not None and np.isfinite(prediction.embedding).all():
            found.append((int(row), prediction.embedding.astype(np.float64)))
        tell("embeddings", done, len(rows))
    if not found:
        return None
    vectors = np.stack([vector for _, vector in found])
    tell("map", 0, 1)
    positions, method = arrange(vectors, seed)
    tell("map", 1, 1)
    return Embedded(np.array([row for row, _ in found]), vectors, positions, method, recognizer.card)


def arrange(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    """Put vectors on a plane, (m, 2): by t-SNE from their principal components, or by these alone when there are few.

    References
    ----------
    van der Maaten & Hinton (2008), Visualizing Data using t-SNE, JMLR 9. scikit-learn's ``TSNE``.
    """
    centred = vectors - vectors.mean(axis=0)
    components = np.linalg.svd(centred, full_matrices=False)[2][:50]  # (<= 50, dim)
    reduced = centred @ components.T  # (m, <= 50)
    if len(vectors) < MIN_MAP_CLIPS:
        return np.pad(reduced, ((0, 0), (0, 2)))[:, :2], "PCA"
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", max_iter=MAP_STEPS, random_state=seed)
    return tsne.fit_transform(reduced.astype(np.float32)).astype(np.float64), "t-SNE"


def neighbour_shares(
    vectors: np.ndarray, labels: Sequence[str], n_neighbours: int = N_NEIGHBOURS
) -> tuple[float, float]:
    """How many of a clip's nearest neighbours share its label, and how many would by chance; both shares in [0, 1].

    Parameters
    ----------
    vectors : (m, dim)
        Compared by Euclidean distance; a clip is no neighbour of its own.

    Examples
    --------
    >>> neighbour_shares(np.array([[0.0], [0.1], [5.0], [5.1]]), ["a", "a", "b", "b"], n_neighbours=1)
    (1.0, 0.3333333333333333)
    """
    codes = np.unique(np.asarray(labels), return_inverse=True)[1]
    m = len(vectors)
    if m < 2:
        return float("nan"), float("nan")
    square = (vectors**2).sum(axis=1)
    shares = []
    for start in range(0, m, 1_000):  # a stretch of the matrix of distances at a time
        rows = slice(start, start + 1_000)
        distance = square[rows, None] + square[None] - 2 * vectors[rows] @ vectors.T
        distance[np.arange(len(distance)), np.arange(m)[rows]] = np.inf
        k = min(n_neighbours, m - 1)
        nearest = np.argpartition(distance, k - 1, axis=1)[:, :k]
        shares.append((codes[nearest] == codes[rows, None]).mean(axis=1))
    counts = np.bincount(codes)
    chance = float((counts * (counts - 1)).sum() / (m * (m - 1)))
    return float(np.concatenate(shares).mean()), chance


def _counted(items: Sequence, stage: str, tell: Progress) -> Iterator:
    for done, item in enumerate(items, start=1):
        yield item
        if done % 100 == 0 or done == len(items):
            tell(stage, done, len(items))

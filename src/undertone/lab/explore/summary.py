"""The numbers of an exploration as plain dicts: what the page says, what ``--json`` prints."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from undertone.emotions import EMOTIONS
from undertone.lab.corpora import CORPORA, Utterance
from undertone.lab.explore.measure import FRAME_S, N_NEIGHBOURS, SILENCE_DB, Exploration, neighbour_shares

INTENSITIES = ("low", "normal", "medium", "high", "strong", "not given")  # weaker first
SEXES = ("female", "male")
NEUTRAL = "neutral"


def summarise(exploration: Exploration) -> dict[str, Any]:
    """Return counts and statistics, ready for JSON.

    Statistics are dicts of ``n, mean, min, p5, p25, median, p75, p95, max`` over the clips that could be measured.

    Returns
    -------
    Dict with ``corpora`` (name -> numbers), ``pooled`` (counts over all), ``votes`` (what listeners heard; None where
    no corpus says), ``map`` (None without embeddings), ``problems``, ``unreadable`` and ``settings``.
    """
    every = np.arange(len(exploration.utterances))
    return {
        "corpora": {name: _corpus(exploration, name) for name in exploration.corpora},
        "pooled": _counts([exploration.utterances[row] for row in every])
        | {"hours": _hours(exploration.duration_s), "duration_s": statistics(exploration.duration_s)},
        "votes": count_votes(exploration.utterances),
        "map": _map(exploration),
        "problems": [problem.to_json() for problem in exploration.problems],
        "unreadable": dict(exploration.unreadable),
        "settings": {
            "max_clips": exploration.max_clips,
            "seed": exploration.seed,
            "frame_s": FRAME_S,
            "silence_db": SILENCE_DB,
        },
    }


def statistics(values: np.ndarray) -> dict[str, Any]:
    """Return number, mean and percentiles of the finite values; None where there are none.

    Examples
    --------
    >>> statistics(np.array([1.0, 3.0, np.nan]))["median"], statistics(np.array([]))["median"]
    (2.0, None)
    """
    values = values[np.isfinite(values)]
    names = ("min", "p5", "p25", "median", "p75", "p95", "max")
    if not len(values):
        return {"n": 0, "mean": None, **dict.fromkeys(names)}
    found = np.percentile(values, (0, 5, 25, 50, 75, 95, 100))
    return {"n": len(values), "mean": float(values.mean()), **dict(zip(names, found.tolist(), strict=True))}


def count_votes(utterances: Iterable[Utterance]) -> dict[str, Any] | None:
    """Count what listeners heard against what was meant; a tie between emotions counts in equal parts.

    Returns
    -------
    Dict with ``corpora``, ``meant`` and ``heard`` (emotions), ``counts`` (rows meant, columns heard), ``n``,
    ``n_ties``, ``agreement`` (share of votes for what was meant) and ``by_intensity``; None where no clip has votes.
    """
    voted = [utterance for utterance in utterances if utterance.voted_emotion and utterance.source_id is None]
    if not voted:
        return None
    meant = _in_order({utterance.emotion for utterance in voted})
    heard = _in_order({emotion for utterance in voted for emotion in utterance.voted_emotion} | set(meant))
    counts = np.zeros((len(meant), len(heard)))
    right: dict[str, list[float]] = {}
    for utterance in voted:
        share = 1 / len(utterance.voted_emotion)
        for emotion in utterance.voted_emotion:
            counts[meant.index(utterance.emotion), heard.index(emotion)] += share
        right.setdefault(_intensity(utterance), []).append(share * (utterance.emotion in utterance.voted_emotion))
    return {
        "corpora": sorted({utterance.corpus for utterance in voted}),
        "meant": meant,
        "heard": heard,
        "counts": counts.tolist(),
        "n": len(voted),
        "n_ties": sum(len(utterance.voted_emotion) > 1 for utterance in voted),
        "agreement": float(np.mean([value for values in right.values() for value in values])),
        "by_intensity": {
            level: {"n": len(right[level]), "agreement": float(np.mean(right[level]))}
            for level in INTENSITIES
            if level in right
        },
    }


def relative_to_neutral(
    exploration: Exploration, values: np.ndarray, corpus: str, *, ratio: float | None = None
) -> dict[str, float | None]:
    """How an emotion differs from the same speaker's neutral: median over the speakers of the difference of medians.

    Parameters
    ----------
    values : (n,)
        One per utterance.
    ratio
        None subtracts; a number takes that many steps per octave (12: semitones).
    """
    scaled = values if ratio is None else ratio * np.log2(values)
    medians: dict[tuple[str, str], list[float]] = {}
    for row in exploration.rows(corpus=corpus):
        if np.isfinite(scaled[row]):
            utterance = exploration.utterances[row]
            medians.setdefault((utterance.speaker_id, utterance.emotion), []).append(float(scaled[row]))
    differences: dict[str, list[float]] = {}
    for (speaker, emotion), own in medians.items():
        if (speaker, NEUTRAL) in medians:
            neutral = float(np.median(medians[speaker, NEUTRAL]))
            differences.setdefault(emotion, []).append(float(np.median(own)) - neutral)
    return {
        emotion: float(np.median(differences[emotion])) if emotion in differences else None
        for emotion in _in_order({exploration.utterances[row].emotion for row in exploration.rows(corpus=corpus)})
    }


def _corpus(exploration: Exploration, name: str) -> dict[str, Any]:
    rows = exploration.rows(corpus=name)
    own = [exploration.utterances[row] for row in rows]
    published = CORPORA[name]
    emotions = _in_order({utterance.emotion for utterance in own})
    where = {emotion: exploration.rows(corpus=name, emotion=emotion) for emotion in emotions}

    def by_emotion(values: np.ndarray) -> dict[str, Any]:
        return {"all": statistics(values[rows])} | {key: statistics(values[where[key]]) for key in emotions}

    return {
        "title": published.title,
        "folder": published.folder,
        "licence": published.licence,
        "n_official": published.n_utterances,
        "n_official_speakers": published.n_speakers,
        **_counts(own),
        "hours": _hours(exploration.duration_s[rows]),
        "sentences": _sentences(own),
        "duration_s": by_emotion(exploration.duration_s),
        "lead_s": by_emotion(exploration.lead_s),
        "tail_s": by_emotion(exploration.tail_s),
        "level_db": by_emotion(exploration.level_db),
        "peak_db": statistics(exploration.peak_db[rows]),
        "n_clipped": int((exploration.n_full_scale[rows] > 1).sum()),
        "n_sampled": int(exploration.sampled[rows].sum()),
        "pitch_hz": {
            emotion: {
                sex: statistics(exploration.pitch_hz[exploration.rows(corpus=name, emotion=emotion, sex=sex)])
                for sex in SEXES
            }
            for emotion in emotions
        },
        "pitch_range_st": by_emotion(exploration.pitch_range_st),
        "pitch_from_neutral_st": relative_to_neutral(exploration, exploration.pitch_hz, name, ratio=12),
        "level_from_neutral_db": relative_to_neutral(exploration, exploration.level_db, name),
        "representatives": {
            emotion: exploration.utterances[row].utterance_id
            for (corpus, emotion), row in exploration.representatives.items()
            if corpus == name
        },
    }


def _counts(utterances: Sequence[Utterance]) -> dict[str, Any]:
    emotions = _in_order({utterance.emotion for utterance in utterances})
    speakers: dict[str, dict[str, Any]] = {}
    for utterance in utterances:
        row = speakers.setdefault(utterance.speaker_id, {"n": 0, "sex": utterance.sex, "age": utterance.age})
        row["n"] += 1
    levels = _table(utterances, _intensity)
    any_level = any(utterance.intensity for utterance in utterances)
    return {
        "n_utterances": len(utterances),
        "n_speakers": len(speakers),
        "emotions": {key: sum(utterance.emotion == key for utterance in utterances) for key in emotions},
        "emotions_by_sex": _table(utterances, lambda utterance: utterance.sex),
        "speakers_by_sex": dict(Counter(row["sex"] for row in speakers.values())),
        "clips_by_sex": dict(Counter(utterance.sex for utterance in utterances)),
        "intensities": levels if any_level else None,
        "speakers": speakers,
    }


def _table(utterances: Sequence[Utterance], key: Any) -> dict[str, dict[str, int]]:
    counted = Counter((utterance.emotion, key(utterance)) for utterance in utterances)
    return {
        emotion: {value: n for (own, value), n in sorted(counted.items()) if own == emotion}
        for emotion in _in_order({emotion for emotion, _ in counted})
    }


def _sentences(utterances: Sequence[Utterance]) -> dict[str, Any]:
    clips = Counter(utterance.sentence_id for utterance in utterances)
    emotions = {utterance.emotion for utterance in utterances}
    pairs = {(utterance.sentence_id, utterance.emotion) for utterance in utterances}
    in_all = Counter(sentence for sentence, _ in pairs)
    return {
        "n": len(clips),
        "n_in_every_emotion": sum(n == len(emotions) for n in in_all.values()),
        "n_in_one_emotion": sum(n == 1 for n in in_all.values()) if len(emotions) > 1 else 0,
        "fewest_clips": min(clips.values()),
        "most_clips": max(clips.values()),
        "clips": dict(sorted(clips.items(), key=lambda item: (-item[1], item[0]))),
    }


def _map(exploration: Exploration) -> dict[str, Any] | None:
    embedded = exploration.embedded
    if embedded is None:
        return None
    shown = [exploration.utterances[row] for row in embedded.rows]
    heard = {speaker for corpus in embedded.card.corpora for speaker in corpus.speakers}
    speakers = {utterance.speaker_id for utterance in shown}
    shares = {}
    for key, attribute in (("emotion", "emotion"), ("corpus", "corpus"), ("speaker", "speaker_id")):
        own, chance = neighbour_shares(embedded.vectors, [getattr(utterance, attribute) for utterance in shown])
        shares[key] = {"share": _finite(own), "chance": _finite(chance)}
    return {
        "model": embedded.card.name,
        "method": embedded.method,
        "n": len(shown),
        "dim": int(embedded.vectors.shape[1]),
        "n_neighbours": min(N_NEIGHBOURS, len(shown) - 1),
        "neighbours": shares,
        "n_speakers": len(speakers),
        "n_speakers_heard_in_training": len(speakers & heard),
    }


def _intensity(utterance: Utterance) -> str:
    return utterance.intensity or "not given"


def _in_order(emotions: Iterable[str]) -> list[str]:
    return sorted(emotions, key=EMOTIONS.index)


def _hours(duration_s: np.ndarray) -> float:
    return float(np.nansum(duration_s)) / 3600


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

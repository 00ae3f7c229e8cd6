"""Clips that must not be trained or tested on, found by rule from the decoded samples.

- ``silent``: a clip of nothing but zeros says nothing about its label: it goes.
- ``duplicate``: the same audio more than once under one label: the first by name stays, the others go. Two
  copies could land on both sides of a split.
- ``conflict``: the same audio under different labels: all go, since nothing says which label is right.

No list of known clips is kept. On the published corpora these rules find CREMA-D's ``1076_MTI_SAD_XX``
(silent), its pairs 1006_TIE HAP/NEU, 1013_WSI DIS/SAD and 1017_IWW ANG/FEA (conflict), and two identical
takes of RAVDESS actor 07 (duplicate). Equal audio means equal samples: two lossy codings of a clip differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from undertone.lab.corpora.utterance import Utterance


@dataclass(frozen=True, slots=True)
class Problem:
    """One clip, or several of the same audio, and which of them are to be left out."""

    kind: str  # "silent" | "duplicate" | "conflict"
    utterance_ids: tuple[str, ...]  # all that are concerned
    excluded: tuple[str, ...]  # those that go
    emotions: tuple[str, ...]  # the label of each utterance

    def __str__(self) -> str:
        labelled = zip(self.utterance_ids, self.emotions, strict=True)
        names = " = ".join(f"{name} ({emotion})" for name, emotion in labelled)
        verdict = "excluded" if self.excluded == self.utterance_ids else f"excluded {', '.join(self.excluded)}"
        return f"{self.kind}: {names}; {verdict}"

    def to_json(self) -> dict[str, object]:
        """Return everything as plain lists and strings."""
        return {
            "kind": self.kind,
            "utterance_ids": list(self.utterance_ids),
            "excluded": list(self.excluded),
            "emotions": list(self.emotions),
        }


def find_problems(utterances: Sequence[Utterance], digests: Sequence[str], is_silent: Sequence[bool]) -> list[Problem]:
    """Silent clips, duplicates and label conflicts, by the rules above; silent clips first, then by name.

    Parameters
    ----------
    digests
        One per utterance: a hash of its decoded samples. An empty one (undecodable) equals no other.
    is_silent
        One per utterance: whether all its samples are zero.
    """
    if not len(utterances) == len(digests) == len(is_silent):
        raise ValueError(
            f"expected one digest and one is_silent per utterance, got {len(utterances)} utterances, "
            f"{len(digests)} digests, {len(is_silent)} is_silent"
        )
    silent, same_audio = [], {}
    for utterance, digest, silence in zip(utterances, digests, is_silent, strict=True):
        if silence:
            silent.append(_problem("silent", [utterance], 0))
        elif digest:
            same_audio.setdefault(digest, []).append(utterance)
    shared = [_judge(group) for group in same_audio.values() if len(group) > 1]
    return sorted(silent, key=_first) + sorted(shared, key=_first)


def exclude(utterances: Sequence[Utterance], problems: Sequence[Problem]) -> list[Utterance]:
    """Return the utterances, in order, without the excluded ones and without augmented copies of these."""
    gone = {name for problem in problems for name in problem.excluded}
    return [
        utterance for utterance in utterances if utterance.utterance_id not in gone and utterance.source_id not in gone
    ]


def _judge(group: Sequence[Utterance]) -> Problem:
    if len({utterance.emotion for utterance in group}) > 1:
        return _problem("conflict", group, 0)
    return _problem("duplicate", group, 1)


def _problem(kind: str, group: Sequence[Utterance], n_kept: int) -> Problem:
    # An original sorts before its augmented copies: it is the one that stays.
    ordered = sorted(group, key=lambda clip: (clip.source_id is not None, clip.utterance_id))
    names = tuple(utterance.utterance_id for utterance in ordered)
    return Problem(kind, names, names[n_kept:], tuple(utterance.emotion for utterance in ordered))


def _first(problem: Problem) -> str:
    return problem.utterance_ids[0]

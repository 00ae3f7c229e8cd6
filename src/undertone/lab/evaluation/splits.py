"""Splits: which utterance is for training, which for development, which for the test.

``build_split`` is a pure function of protocol, fold and utterances: there is no seed to try out, and the
order of the list does not matter. Random protocols shuffle with one fixed seed.

What a speaker-disjoint protocol promises
-----------------------------------------
For each two of train, dev and test: no speaker, no clip with equal audio (where ``digests`` are given), and
no clip and augmented copy of it on both sides. Where two parts would share a recording, test keeps it, then
dev; the other part loses it, and ``Split.notes`` says how many. Augmented copies are for training: dev and
test hold original clips only. A speaker whom no fold of the list names stops the split, because nobody can
say on which side the clips belong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Protocol as Interface

import numpy as np

from undertone.lab.evaluation.protocols import (
    CORPUS_CLASSES,
    FOLDS,
    SHIPPED,
    Protocol,
    ProtocolError,
    get_protocol,
    list_test_speakers,
)

SHUFFLE_SEED = 0  # random protocols: one fixed shuffle, so that two systems meet the same test rows


class UtteranceLike(Interface):
    """What a split reads of an utterance (``undertone.lab.corpora.Utterance`` has it all)."""

    @property
    def utterance_id(self) -> str: ...  # noqa: D102
    @property
    def corpus(self) -> str: ...  # noqa: D102
    @property
    def speaker_id(self) -> str: ...  # noqa: D102
    @property
    def sex(self) -> str: ...  # noqa: D102
    @property
    def emotion(self) -> str: ...  # noqa: D102
    @property
    def sentence_id(self) -> str: ...  # noqa: D102
    @property
    def source_id(self) -> str | None: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Split:
    """Indices into a list of utterances: ``train``, ``dev``, ``test``, each sorted int64, none in two parts.

    ``notes`` are sentences for the report: what was left out and why.
    """

    protocol: str
    fold: int
    classes: tuple[str, ...]
    train: np.ndarray
    dev: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...] = field(default=())

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """The three parts by name, in the order train, dev, test."""
        return {"train": self.train, "dev": self.dev, "test": self.test}


def build_split(
    protocol: str,
    utterances: Sequence[UtteranceLike],
    fold: int,
    *,
    extra_train: Sequence[str] = (),
    digests: Sequence[str] | None = None,
    joins_dev: bool = False,
) -> Split:
    """One fold of a protocol as indices into ``utterances``.

    Utterances of other corpora, or whose emotion is not among the protocol's classes, are in no part.

    Parameters
    ----------
    protocol
        Name of a protocol (``PROTOCOLS``).
    utterances
        All that is on disk, problems already excluded, in any order. Rows with a ``source_id`` are augmented
        copies.
    fold
        0 to ``n_folds - 1``.
    extra_train
        Further corpora whose utterances are added to train; never to dev or test.
    digests
        Hash of each utterance's audio, in the order of ``utterances``. With it, a speaker-disjoint split also
        keeps equal audio under different names apart.
    joins_dev
        Leave no dev part: train on everything that is not tested, for a recipe with nothing left to choose.

    Raises
    ------
    ProtocolError
        If the protocol or fold does not exist, a corpus is missing, a speaker is unknown, a part would be
        empty, or a class would have no training clip. The message says what to do.
    """
    return _build(get_protocol(protocol), utterances, fold, extra_train, digests, joins_dev)


def _build(
    found: Protocol,
    utterances: Sequence[UtteranceLike],
    fold: int,
    extra_train: Sequence[str],
    digests: Sequence[str] | None,
    joins_dev: bool,
) -> Split:
    why_no_dev = "the recipe has nothing to choose" if joins_dev else "no speaker could be spared"
    if joins_dev:
        found = replace(found, dev={}, dev_fraction=0.0)
    tested = list_test_speakers(found, fold)
    if found.optional_corpora:  # dev is of those that are there and not tested
        held = {speaker for speakers in tested.values() for speaker in speakers}
        free = {utterance.corpus for utterance in utterances if utterance.speaker_id not in held}
        found = replace(found, dev={corpus: numbers for corpus, numbers in found.dev.items() if corpus in free})
    _check_arguments(found, utterances, tested, extra_train, digests)
    own = _select(utterances, found.corpora, found.classes)
    extra = _select(utterances, tuple(extra_train), found.classes)
    if found.speaker_disjoint:
        (train, dev, test), notes = _divide_by_speaker(found, fold, utterances, own, extra, tested, digests)
    else:
        (train, dev, test), notes = _divide_by_chance(found, utterances, own, extra)
    if not _wants_dev(found):
        notes = (*notes, f"there is no dev part: {why_no_dev}; the last epoch and temperature 1 stand")
    split = Split(found.name, fold, found.classes, _rows(train), _rows(dev), _rows(test), notes)
    _check_parts(found, split, utterances)
    return split


def build_final_split(
    utterances: Sequence[UtteranceLike], *, digests: Sequence[str] | None = None, joins_dev: bool = False
) -> Split:
    """Build the split of a model to be shipped: all is train but two RAVDESS and six CREMA-D dev speakers, if there.

    With ``joins_dev`` these are trained on, too. ``test`` is empty: such a model is measured by the folds of
    ``pooled-speaker``, not on its own data. Its classes are the emotions that the corpora among ``utterances`` have.

    Raises
    ------
    ProtocolError
        As ``build_split``.
    """
    heard = {emotion for corpus in {clip.corpus for clip in utterances} for emotion in CORPUS_CLASSES.get(corpus, ())}
    classes = tuple(emotion for emotion in SHIPPED.classes if emotion in heard)
    return _build(replace(SHIPPED, classes=classes or SHIPPED.classes), utterances, 0, (), digests, joins_dev)


def list_folds(protocol: str, utterances: Sequence[UtteranceLike]) -> list[int]:
    """List the folds of which at least one tested speaker is on disk.

    ``leave-one-corpus-out`` has one fold for each of five corpora: those not loaded are not in the list.
    """
    found = get_protocol(protocol)
    if not found.speaker_disjoint:
        return list(range(found.n_folds))
    present = {utterance.speaker_id for utterance in utterances}
    tested = [sum(list_test_speakers(found, fold).values(), ()) for fold in range(found.n_folds)]
    return [fold for fold, speakers in enumerate(tested) if present.intersection(speakers)]


def group_recordings(utterances: Sequence[UtteranceLike], digests: Sequence[str] | None = None) -> np.ndarray:
    """Which rows hold one and the same recording.

    Rows belong together when they have one ``utterance_id``, when one is an augmented copy of the other or
    both are copies of a third clip, or when their audio is equal; and so on through any chain of these.

    Parameters
    ----------
    utterances
        (n,) clips and augmented copies.
    digests
        (n,) hash of each row's audio; without it names alone decide.

    Returns
    -------
    np.ndarray
        (n,) int64, equal for rows of one recording. The numbers mean nothing else.
    """
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def find(name: tuple[str, str]) -> tuple[str, str]:
        while (above := parent.setdefault(name, name)) != name:
            parent[name] = parent[above]  # halve the path on the way up
            name = above
        return name

    for i, utterance in enumerate(utterances):
        own = find(("clip", utterance.utterance_id))
        if utterance.source_id is not None:
            parent[find(("clip", utterance.source_id))] = own
        if digests is not None:
            parent[find(("audio", digests[i]))] = find(own)
    numbers: dict[tuple[str, str], int] = {}
    groups = (find(("clip", utterance.utterance_id)) for utterance in utterances)
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.int64)


def _rows(indices: list[int]) -> np.ndarray:
    return np.array(indices, dtype=np.int64)


def _select(utterances: Sequence[UtteranceLike], corpora: tuple[str, ...], classes: tuple[str, ...]) -> list[int]:
    return [i for i, u in enumerate(utterances) if u.corpus in corpora and u.emotion in classes]


def _check_arguments(
    protocol: Protocol,
    utterances: Sequence[UtteranceLike],
    tested: dict[str, tuple[str, ...]],
    extra_train: Sequence[str],
    digests: Sequence[str] | None,
) -> None:
    present = {utterance.corpus for utterance in utterances}
    if already := sorted(set(extra_train) & set(protocol.corpora)):
        raise ProtocolError(
            f"{protocol.name} already uses {', '.join(already)}; leave it out of the extra training data"
        )
    needed = tested if protocol.optional_corpora else protocol.corpora
    if missing := [corpus for corpus in (*needed, *extra_train) if corpus not in present]:
        raise ProtocolError(f"{protocol.name} needs {', '.join(missing)}, which is not among the loaded corpora")
    if digests is not None and len(digests) != len(utterances):
        raise ProtocolError(f"expected one digest per utterance, got {len(digests)} for {len(utterances)}")
    if protocol.speaker_disjoint:
        _check_speakers(protocol, utterances)


def _check_speakers(protocol: Protocol, utterances: Sequence[UtteranceLike]) -> None:
    listed = {speaker for corpus in protocol.corpora for fold in FOLDS[corpus] for speaker in fold}
    on_disk = {utterance.speaker_id for utterance in utterances if utterance.corpus in protocol.corpora}
    if unknown := sorted(on_disk - listed):
        raise ProtocolError(
            f"{protocol.name} has no fold for {', '.join(unknown[:5])}{' ...' if len(unknown) > 5 else ''}; "
            "are these clips of another corpus? Remove them, or correct their speaker"
        )


def _divide_by_speaker(
    protocol: Protocol,
    fold: int,
    utterances: Sequence[UtteranceLike],
    own: list[int],
    extra: list[int],
    tested: dict[str, tuple[str, ...]],
    digests: Sequence[str] | None,
) -> tuple[tuple[list[int], list[int], list[int]], tuple[str, ...]]:
    test_speakers = {speaker for speakers in tested.values() for speaker in speakers}
    dev_speakers = _choose_dev_speakers(protocol, fold, [utterances[i] for i in own], test_speakers)
    test = [i for i in own if utterances[i].speaker_id in test_speakers and utterances[i].source_id is None]
    dev = [i for i in own if utterances[i].speaker_id in dev_speakers and utterances[i].source_id is None]
    held_out = test_speakers | dev_speakers
    train = [i for i in sorted(own + extra) if utterances[i].speaker_id not in held_out]

    recordings = group_recordings(utterances, digests)
    clean_dev = _without_recordings_of(dev, test, recordings)
    clean_train = _without_recordings_of(train, test + dev, recordings)
    notes = [
        f"left out of {part}: {n} {'row' if n == 1 else 'rows'} whose recording is held out in another part"
        for part, n in (("dev", len(dev) - len(clean_dev)), ("train", len(train) - len(clean_train)))
        if n
    ]
    return (clean_train, clean_dev, test), tuple(notes)


def _choose_dev_speakers(protocol: Protocol, fold: int, own: list[UtteranceLike], test_speakers: set[str]) -> set[str]:
    sex_of = {utterance.speaker_id: utterance.sex for utterance in own}
    chosen: set[str] = set()
    for corpus, (n_women, n_men) in protocol.dev.items():
        folds = FOLDS[corpus]
        walk = [speaker for step in range(1, len(folds) + 1) for speaker in folds[(fold + step) % len(folds)]]
        free = [speaker for speaker in walk if speaker in sex_of and speaker not in test_speakers]
        chosen.update([speaker for speaker in free if sex_of[speaker] == "female"][:n_women])
        chosen.update([speaker for speaker in free if sex_of[speaker] == "male"][:n_men])
    return chosen


def _without_recordings_of(rows: list[int], kept: list[int], recordings: np.ndarray) -> list[int]:
    taken = set(recordings[kept].tolist())
    return [i for i in rows if recordings[i] not in taken]


def _divide_by_chance(
    protocol: Protocol, utterances: Sequence[UtteranceLike], own: list[int], extra: list[int]
) -> tuple[tuple[list[int], list[int], list[int]], tuple[str, ...]]:
    dealt = [i for i in own if protocol.tests_copies or utterances[i].source_id is None]
    dealt.sort(key=lambda i: (utterances[i].utterance_id, i))
    shuffled = [dealt[i] for i in np.random.default_rng(SHUFFLE_SEED).permutation(len(dealt))]
    n_test = ceil(len(shuffled) * protocol.test_fraction)  # rounded up, as scikit-learn does
    n_dev = ceil((len(shuffled) - n_test) * protocol.dev_fraction)
    test, dev, train = shuffled[:n_test], shuffled[n_test : n_test + n_dev], shuffled[n_test + n_dev :]
    if not protocol.tests_copies:  # copies follow their clip into train, and are not used elsewhere
        recordings = group_recordings(utterances)
        copies = [i for i in own if utterances[i].source_id is not None]
        train = train + _without_recordings_of(copies, test + dev, recordings)
    return (sorted(train + extra), sorted(dev), sorted(test)), ()


def _wants_dev(protocol: Protocol) -> bool:
    return bool(protocol.dev or protocol.dev_fraction)


def _check_parts(protocol: Protocol, split: Split, utterances: Sequence[UtteranceLike]) -> None:
    wanted = {
        "train": True,
        "dev": _wants_dev(protocol),
        "test": protocol.name != SHIPPED.name,
    }
    for name, part in split.parts.items():
        if wanted[name] and not part.size:
            raise ProtocolError(
                f"the {name} part of {protocol.name}, fold {split.fold}, would be empty: "
                "none of its speakers' clips is on disk; complete the corpus or choose another fold"
            )
    trained = {utterances[i].emotion for i in split.train}
    if untrained := [emotion for emotion in protocol.classes if emotion not in trained]:
        raise ProtocolError(
            f"{protocol.name}, fold {split.fold}, has no training clip of {', '.join(untrained)}; complete the corpus"
        )

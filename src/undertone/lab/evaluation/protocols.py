"""The protocols: named ways to divide speech between training, development and test.

A protocol is data: corpora, classes, number of folds, and whether speakers are kept apart. The test speakers
of every fold stand in ``folds.toml``. ``build_split`` turns a protocol and a list of utterances into indices.

Conventions
-----------
Folds count from 0. Speakers are ``"corpus/number"`` (``"ravdess/07"``). Classes keep the order of
``undertone.emotions.EMOTIONS``, so a class index means the same in every table of one protocol.

How dev speakers are chosen
---------------------------
By rule, never by chance, and never from the tested speakers: walk through the folds that follow the tested
one (k + 1, k + 2, ..., round to the start) and take the first women and men that are on disk, in the order of
the list, until there are as many of each as ``Protocol.dev`` says. The walk matters: EmoBox's second RAVDESS
fold has no man in it. SAVEE and TESS give no dev speaker to pooled training; they have too few.
"""

import tomllib
from dataclasses import dataclass, field
from importlib import resources

from undertone.emotions import EMOTIONS


class ProtocolError(ValueError):
    """A protocol that does not exist, or that these utterances cannot serve; the message says what to do."""


def _load_folds() -> dict[str, tuple[tuple[str, ...], ...]]:
    text = resources.files("undertone.lab.evaluation").joinpath("folds.toml").read_text(encoding="utf-8")
    return {
        corpus: tuple(tuple(f"{corpus}/{number}" for number in fold) for fold in folds)
        for corpus, folds in tomllib.loads(text).items()
    }


def _without(*emotions: str) -> tuple[str, ...]:
    return tuple(emotion for emotion in EMOTIONS if emotion not in emotions)


FOLDS = _load_folds()  # corpus -> test speakers of each fold
CORPUS_CLASSES = {
    "ravdess": _without("boredom"),
    "crema-d": _without("surprise", "calm", "boredom"),
    "tess": _without("calm", "boredom"),
    "savee": _without("calm", "boredom"),
    "emo-db": _without("surprise", "calm"),
}
FOUR_CORPORA = ("ravdess", "crema-d", "tess", "savee")
COMMON_CLASSES = _without("surprise", "calm", "boredom")  # the emotions all five corpora have


@dataclass(frozen=True)
class Protocol:
    """One named protocol.

    ``dev`` says how many (women, men) each corpus gives to dev. ``optional_corpora`` means that the protocol
    is still itself when a corpus of its list is not loaded. ``leaks`` says in words what crosses, for the
    banner of a protocol that is known to leak; it is empty for those that keep speakers apart.
    """

    name: str
    corpora: tuple[str, ...]
    classes: tuple[str, ...]
    n_folds: int
    speaker_disjoint: bool
    description: str
    dev: dict[str, tuple[int, int]] = field(default_factory=dict)
    test_fraction: float = 0.0  # random protocols only: share of the rows that is tested
    dev_fraction: float = 0.0  # random protocols only: share of the remaining rows that is dev
    optional_corpora: bool = False
    tests_copies: bool = False  # random protocols only: augmented copies are dealt out like clips
    leaks: str = ""


def _speaker(corpus: str, *, dev: tuple[int, int], description: str) -> Protocol:
    return Protocol(
        name=f"{corpus.replace('emo-db', 'emodb')}-speaker",
        corpora=(corpus,),
        classes=CORPUS_CLASSES[corpus],
        n_folds=len(FOLDS[corpus]),
        speaker_disjoint=True,
        description=description,
        dev={corpus: dev} if any(dev) else {},
    )


def _random(
    name: str,
    corpora: tuple[str, ...],
    classes: tuple[str, ...],
    *,
    test_fraction: float,
    description: str,
    leaks: str,
    tests_copies: bool = False,
) -> Protocol:
    return Protocol(
        name,
        corpora,
        classes,
        n_folds=1,
        speaker_disjoint=False,
        description=description,
        test_fraction=test_fraction,
        dev_fraction=0.1,
        tests_copies=tests_copies,
        leaks=leaks,
    )


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        _speaker(
            "ravdess",
            dev=(1, 1),
            description="EmoBox's six folds of four actors; dev: a woman and a man of the rest",
        ),
        _speaker(
            "savee",
            dev=(0, 1),
            description="leave one speaker out; dev: the next speaker, two are left to train",
        ),
        _speaker(
            "crema-d",
            dev=(4, 4),
            description="six folds by speaker, balanced by sex and age; dev: 8 speakers, half of them women",
        ),
        _speaker(
            "tess",
            dev=(0, 0),
            description="leave one speaker out; the other is all there is to train on, so there is no dev: "
            "the last epoch and temperature 1 stand",
        ),
        _speaker("emo-db", dev=(1, 1), description="leave one speaker out; dev: the next woman and the next man"),
        Protocol(
            name="pooled-speaker",
            corpora=FOUR_CORPORA,
            classes=_without("boredom"),
            n_folds=6,
            speaker_disjoint=True,
            description="six joint folds over four corpora, every speaker tested once: RAVDESS and CREMA-D "
            "fold k, one SAVEE speaker in folds 0-3, one TESS speaker in folds 4-5; "
            "dev: two RAVDESS and six CREMA-D speakers",
            dev={"ravdess": (1, 1), "crema-d": (3, 3)},
        ),
        Protocol(
            name="leave-one-corpus-out",
            corpora=tuple(CORPUS_CLASSES),
            classes=COMMON_CLASSES,
            n_folds=len(CORPUS_CLASSES),
            speaker_disjoint=True,
            description="train on all loaded corpora but one, test on it; the six emotions all five share",
            dev={"ravdess": (1, 1), "crema-d": (3, 3), "savee": (0, 1), "emo-db": (1, 1)},
            optional_corpora=True,
        ),
        _random(
            "pooled-random",
            FOUR_CORPORA,
            _without("calm", "boredom"),
            test_fraction=0.2,
            description="random 80/20 over four corpora's clips, calm dropped: the usual student protocol",
            leaks="Every speaker, and most sentences, are in train and in test: "
            "the score says how well voices are remembered, not how well a new voice is understood.",
        ),
        _random(
            "pooled-random-augmented",
            FOUR_CORPORA,
            _without("boredom"),
            test_fraction=0.25,
            tests_copies=True,
            description="random 75/25 over augmented rows: the protocol behind the published 81 %",
            leaks="Altered copies of the tested clips are in train, and so is every speaker: "
            "the score says how well clips are remembered.",
        ),
        _random(
            "pooled-random-augmented-7",
            FOUR_CORPORA,
            _without("calm", "boredom"),
            test_fraction=0.2,
            tests_copies=True,
            description="random 80/20 over augmented rows, calm dropped: the protocol behind published 74 to 97 %",
            leaks="Altered copies of the tested clips are in train, and so is every speaker: "
            "the score says how well clips are remembered.",
        ),
        _random(
            "crema-d-random",
            ("crema-d",),
            CORPUS_CLASSES["crema-d"],
            test_fraction=0.2,
            description="random 80/20 over the clips of CREMA-D, as in several published systems",
            leaks="Every speaker is in train and in test: the score does not hold for a new voice.",
        ),
    )
}

# Not a protocol (nothing is tested), but what the shipped model is trained on goes through the same checks.
SHIPPED = Protocol(
    name="shipped",
    corpora=tuple(CORPUS_CLASSES),
    classes=_without("boredom"),
    n_folds=1,
    speaker_disjoint=True,
    description="train on everything but two RAVDESS and six CREMA-D dev speakers; nothing is tested",
    dev={"ravdess": (1, 1), "crema-d": (3, 3)},
    optional_corpora=True,
)


def get_protocol(name: str) -> Protocol:
    """Find the protocol called ``name``.

    Raises
    ------
    ProtocolError
        If there is none; the message lists those there are.
    """
    if name == SHIPPED.name:
        return SHIPPED
    if name not in PROTOCOLS:
        raise ProtocolError(f"there is no protocol {name!r}; choose one of: {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def list_test_speakers(protocol: Protocol, fold: int) -> dict[str, tuple[str, ...]]:
    """Speakers whose clips ``fold`` tests, by corpus, on disk or not (empty for random protocols).

    Raises
    ------
    ProtocolError
        If the protocol has no such fold.

    Examples
    --------
    >>> list_test_speakers(PROTOCOLS["ravdess-speaker"], 0)
    {'ravdess': ('ravdess/01', 'ravdess/11', 'ravdess/20', 'ravdess/21')}
    """
    if not 0 <= fold < protocol.n_folds:
        raise ProtocolError(f"{protocol.name} has folds 0 to {protocol.n_folds - 1}, not {fold}")
    if not protocol.speaker_disjoint or protocol.name == SHIPPED.name:
        return {}
    if protocol.name == "leave-one-corpus-out":
        corpus = protocol.corpora[fold]
        return {corpus: tuple(speaker for speakers in FOLDS[corpus] for speaker in speakers)}
    if protocol.name == "pooled-speaker":
        lone = {"savee": FOLDS["savee"][fold]} if fold < 4 else {"tess": FOLDS["tess"][fold - 4]}
        return {"ravdess": FOLDS["ravdess"][fold], "crema-d": FOLDS["crema-d"][fold], **lone}
    (corpus,) = protocol.corpora
    return {corpus: FOLDS[corpus][fold]}

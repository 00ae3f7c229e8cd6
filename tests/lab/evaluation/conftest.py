"""A made-up world: every listed speaker of the five corpora says every emotion of the corpus twice."""

from dataclasses import replace
from pathlib import Path

import pytest

from undertone.lab.corpora.utterance import Utterance
from undertone.lab.evaluation import CORPUS_CLASSES, FOLDS

EMODB_WOMEN = ("08", "09", "13", "14", "16")


def _sex(corpus, number):
    if corpus == "emo-db":
        is_female = number in EMODB_WOMEN
    elif corpus == "tess":
        is_female = True
    elif corpus == "savee":
        is_female = False
    else:  # RAVDESS: even is female; for CREMA-D a made-up rule that gives every fold both sexes
        is_female = int(number) % 2 == 0
    return "female" if is_female else "male"


def _utterance(speaker, emotion, take):
    corpus, number = speaker.split("/")
    return Utterance(
        path=Path(f"{number}-{emotion}-{take}.wav"),
        corpus=corpus,
        speaker_id=speaker,
        sex=_sex(corpus, number),
        emotion=emotion,
        sentence_id=f"{corpus}/{take}",
    )


@pytest.fixture(scope="session")
def world():
    return [
        _utterance(speaker, emotion, take)
        for corpus, folds in FOLDS.items()
        for fold in folds
        for speaker in fold
        for emotion in CORPUS_CLASSES[corpus]
        for take in (1, 2)
    ]


@pytest.fixture(scope="session")
def make_copies():
    """Function (utterances, names) -> one augmented copy of each utterance per name."""

    def make(utterances, names=("noise", "slow")):
        return [
            replace(u, path=u.path.with_stem(f"{u.path.stem}+{name}"), source_id=u.utterance_id)
            for u in utterances
            for name in names
        ]

    return make

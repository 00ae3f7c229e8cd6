from collections import Counter

import pytest

from undertone.lab.corpora import CORPORA
from undertone.lab.evaluation import (
    CORPUS_CLASSES,
    FOLDS,
    PROTOCOLS,
    ProtocolError,
    build_split,
    get_protocol,
    list_test_speakers,
    make_folds,
)

EMOBOX = "01 11 20 21 / 04 10 12 14 / 08 09 19 23 / 03 05 07 24 / 02 15 16 18 / 06 13 17 22"
ALL_NAMES = [
    "ravdess-speaker",
    "savee-speaker",
    "crema-d-speaker",
    "tess-speaker",
    "emodb-speaker",
    "pooled-speaker",
    "leave-one-corpus-out",
    "pooled-random",
    "pooled-random-augmented",
    "pooled-random-augmented-7",
    "crema-d-random",
]


def test_all_protocols_are_there():
    assert list(PROTOCOLS) == ALL_NAMES
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())


def test_a_protocol_leaks_or_is_speaker_disjoint_and_says_which():
    for protocol in PROTOCOLS.values():
        assert protocol.speaker_disjoint == ("random" not in protocol.name)
        assert bool(protocol.leaks) != protocol.speaker_disjoint


def test_ravdess_folds_are_emobox():
    folds = [[f"ravdess/{number}" for number in fold.split()] for fold in EMOBOX.split(" / ")]
    assert [list(fold) for fold in FOLDS["ravdess"]] == folds


@pytest.mark.parametrize(("corpus", "n_speakers"), [(name, corpus.n_speakers) for name, corpus in CORPORA.items()])
def test_folds_hold_every_speaker_of_a_corpus_once(corpus, n_speakers):
    speakers = [speaker for fold in FOLDS[corpus] for speaker in fold]
    assert len(speakers) == len(set(speakers)) == n_speakers
    assert set(speakers) == set(CORPORA[corpus].speaker_counts)


def test_classes_are_those_of_the_corpora():
    assert {name: corpus.emotions for name, corpus in CORPORA.items()} == CORPUS_CLASSES


def test_lone_speakers_come_in_the_published_order():
    assert [fold[0] for fold in FOLDS["savee"]] == ["savee/DC", "savee/JE", "savee/JK", "savee/KL"]
    assert [fold[0] for fold in FOLDS["tess"]] == ["tess/OAF", "tess/YAF"]
    assert all(len(fold) == 1 for fold in FOLDS["emo-db"])


@pytest.mark.parametrize("name", [name for name in ALL_NAMES if "random" not in name])
def test_every_speaker_is_tested_exactly_once(name):
    protocol = PROTOCOLS[name]
    tested = Counter(
        speaker
        for fold in range(protocol.n_folds)
        for speakers in list_test_speakers(protocol, fold).values()
        for speaker in speakers
    )
    everybody = {speaker for corpus in protocol.corpora for fold in FOLDS[corpus] for speaker in fold}
    assert set(tested) == everybody
    assert set(tested.values()) == {1}


def test_pooled_folds_are_joint():
    tested = [list_test_speakers(PROTOCOLS["pooled-speaker"], fold) for fold in range(6)]
    assert [set(fold) - {"ravdess", "crema-d"} for fold in tested] == [{"savee"}] * 4 + [{"tess"}] * 2
    assert [fold["ravdess"] for fold in tested] == list(FOLDS["ravdess"])
    assert [fold["crema-d"] for fold in tested] == list(FOLDS["crema-d"])


@pytest.mark.parametrize("fold", [-1, 6])
def test_unknown_fold_is_refused(world, fold):
    with pytest.raises(ProtocolError, match="folds 0 to 5"):
        build_split("ravdess-speaker", world, fold)


def test_unknown_protocol_lists_those_there_are():
    with pytest.raises(ProtocolError, match="pooled-speaker"):
        get_protocol("ravdess")


def test_dealt_folds_are_alike_in_sex_and_age():
    people = [(str(number), 20 + number % 37, "female" if number % 2 else "male") for number in range(96)]
    folds = make_folds.deal_speakers(people, n_folds=6)
    age, sex = {n: a for n, a, _ in people}, {n: s for n, _, s in people}
    assert sorted(n for fold in folds for n in fold) == sorted(age)
    assert [Counter(sex[n] for n in fold) for fold in folds] == [Counter(female=8, male=8)] * 6
    means = [sum(age[n] for n in fold) / len(fold) for fold in folds]
    assert max(means) - min(means) < 1.5


def test_make_folds_without_a_file_says_how(capsys):
    assert make_folds.main([]) == 2
    assert "VideoDemographics.csv" in capsys.readouterr().err


@pytest.mark.corpus
def test_crema_d_list_is_what_the_script_makes(corpora_root):
    table = make_folds.load_demographics(corpora_root / "CREMA-D" / "VideoDemographics.csv")
    folds = make_folds.deal_speakers(table)
    assert [[f"crema-d/{n}" for n in fold] for fold in folds] == [list(fold) for fold in FOLDS["crema-d"]]
    sex, age = {n: s for n, _, s in table}, {n: a for n, a, _ in table}
    assert [Counter(sex[n] for n in fold)["male"] for fold in folds] == [8] * 6
    assert {Counter(sex[n] for n in fold)["female"] for fold in folds} == {7, 8}
    means = [sum(age[n] for n in fold) / len(fold) for fold in folds]
    assert max(means) - min(means) < 2  # years

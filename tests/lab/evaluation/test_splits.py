from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from undertone.lab.evaluation import (
    CORPUS_CLASSES,
    FOLDS,
    PROTOCOLS,
    ProtocolError,
    audit_split,
    build_final_split,
    build_split,
    get_protocol,
    group_recordings,
    list_folds,
)

DISJOINT = [name for name, protocol in PROTOCOLS.items() if protocol.speaker_disjoint]
FOLDS_OF_DISJOINT = [(name, fold) for name in DISJOINT for fold in range(PROTOCOLS[name].n_folds)]


def speakers_of(utterances, rows):
    return {utterances[i].speaker_id for i in rows}


def recordings_by_scipy(utterances, digests):
    """Independent of group_recordings: rows and names as a graph, whose components are the recordings."""
    names = [(f"id {u.utterance_id}", f"id {u.source_id or u.utterance_id}") for u in utterances]
    if digests is not None:
        names = [(*pair, f"audio {digest}") for pair, digest in zip(names, digests, strict=True)]
    number = {name: n for n, name in enumerate(sorted({name for row in names for name in row}))}
    edges = [(i, len(names) + number[name]) for i, row in enumerate(names) for name in row]
    size = len(names) + len(number)
    graph = coo_array((np.ones(len(edges)), tuple(zip(*edges, strict=True))), shape=(size, size))
    return connected_components(graph, directed=False)[1][: len(names)]


def assert_nothing_crosses(split, utterances, digests):
    recordings = recordings_by_scipy(utterances, digests)
    for a, b in combinations(split.parts.values(), 2):
        assert not set(a.tolist()) & set(b.tolist())
        assert not speakers_of(utterances, a) & speakers_of(utterances, b)
        assert not set(recordings[a].tolist()) & set(recordings[b].tolist())
        if digests is not None:
            assert not {digests[i] for i in a} & {digests[i] for i in b}
    audit = audit_split(split, utterances, digests)
    assert not audit.leaks
    audit.check()


# ---- what cannot happen ----


def what_is_on_disk(world, make_copies, corpora, seed, *, n_lost, share_kept, share_wrong):
    """Any part of some corpora in any order, with copies, copies of copies, wrong sources, duplicate audio."""
    rng = np.random.default_rng(seed)
    rows = [u for u in world if u.corpus in corpora]
    lost = set(rng.permutation(sorted({u.speaker_id for u in rows}))[:n_lost].tolist())
    rows = [u for u in rows if u.speaker_id not in lost and rng.random() < share_kept]
    copies = make_copies([u for u in rows if rng.random() < 0.2], ("noise",))
    rows += copies + make_copies([u for u in copies if rng.random() < 0.3], ("slow",))
    rows = [rows[i] for i in rng.permutation(len(rows))]
    digests = [str(n) for n in range(len(rows))]
    for i in np.flatnonzero(rng.random(len(rows)) < share_wrong):
        rows[i] = replace(rows[i], source_id=rows[rng.integers(len(rows))].utterance_id)
    for i in np.flatnonzero(rng.random(len(rows)) < share_wrong):
        digests[i] = digests[rng.integers(len(rows))]
    return rows, digests


# The cases are seeds, which do not get simpler by shrinking.
@settings(max_examples=120, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    place=st.sampled_from([*FOLDS_OF_DISJOINT, ("shipped", 0)]),
    extra=st.sets(st.sampled_from(["tess", "savee", "emo-db"])),
    seed=st.integers(0, 2**32 - 1),
    n_lost=st.integers(0, 12),
    share_kept=st.sampled_from([1.0, 0.9, 0.5]),
    share_wrong=st.sampled_from([0.0, 0.02, 0.1]),
    with_digests=st.booleans(),
)
def test_no_speaker_protocol_can_leak(
    world, make_copies, place, extra, seed, n_lost, share_kept, share_wrong, with_digests
):
    name, fold = place
    extra -= set(get_protocol(name).corpora)
    corpora = extra | set(get_protocol(name).corpora)
    options = {"n_lost": n_lost, "share_kept": share_kept, "share_wrong": share_wrong}
    rows, digests = what_is_on_disk(world, make_copies, corpora, seed, **options)
    digests = digests if with_digests else None
    try:
        split = build_split(name, rows, fold, extra_train=sorted(extra), digests=digests)
    except ProtocolError:
        return
    assert_nothing_crosses(split, rows, digests)
    assert {rows[i].emotion for i in split.train} == set(split.classes)
    assert split.test.size or name == "shipped"
    assert all(rows[i].source_id is None for part in (split.dev, split.test) for i in part)
    assert not {rows[i].corpus for part in (split.dev, split.test) for i in part} & extra


@pytest.mark.parametrize(("name", "fold"), FOLDS_OF_DISJOINT)
def test_no_leak_when_everything_is_there(world, make_copies, name, fold):
    """The property above passes ProtocolErrors over; this one shows that splits are built, copies and all."""
    rows = world + make_copies(world, ("noise",))
    digests = [str(n) for n in range(len(rows))]
    for n in range(0, len(world) - 12, 5):  # every fifth sounds like a later clip, often of another speaker
        digests[n] = digests[n + 12]
    split = build_split(name, rows, fold, digests=digests)
    assert any("left out of train" in note for note in split.notes)
    assert_nothing_crosses(split, rows, digests)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), with_digests=st.booleans())
def test_recordings_are_the_components_of_the_graph(world, make_copies, seed, with_digests):
    rng = np.random.default_rng(seed)
    rows = world[:20] + make_copies(world[:10])
    for i in rng.integers(0, len(rows), size=8):
        rows[i] = replace(rows[i], source_id=rows[rng.integers(len(rows))].utterance_id)
    digests = [str(n) for n in rng.integers(0, 30, size=len(rows))] if with_digests else None
    ours, theirs = group_recordings(rows, digests), recordings_by_scipy(rows, digests)
    assert ((ours[:, None] == ours) == (theirs[:, None] == theirs)).all()


# ---- what a split holds ----


@pytest.mark.parametrize(("name", "fold"), FOLDS_OF_DISJOINT)
def test_every_clip_is_somewhere(world, name, fold):
    """Clean data: the parts hold all clips of the protocol's corpora and classes, none is lost."""
    protocol = PROTOCOLS[name]
    split = build_split(name, world, fold)
    whole = [i for i, u in enumerate(world) if u.corpus in protocol.corpora and u.emotion in protocol.classes]
    assert sorted(np.concatenate(list(split.parts.values())).tolist()) == whole
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in split.parts.values())


@pytest.mark.parametrize("name", [*PROTOCOLS, "shipped"])
def test_order_of_the_list_does_not_matter(world, make_copies, rng, name):
    rows = world + make_copies(world[::7], ("noise",))
    order = rng.permutation(len(rows))
    shuffled = [rows[i] for i in order]
    here, there = build_split(name, rows, 0), build_split(name, shuffled, 0)
    for part, indices in here.parts.items():
        assert [rows[i].utterance_id for i in indices] == sorted(
            (shuffled[i].utterance_id for i in there.parts[part]), key=[u.utterance_id for u in rows].index
        )


@pytest.mark.parametrize("fold", range(6))
def test_ravdess_gives_a_woman_and_a_man_to_dev(world, fold):
    split = build_split("ravdess-speaker", world, fold)
    counts = [len(speakers_of(world, part)) for part in split.parts.values()]
    assert counts == [18, 2, 4]
    assert {world[i].sex for i in split.dev} == {"female", "male"}
    assert speakers_of(world, split.test) == set(FOLDS["ravdess"][fold])


def test_dev_speakers_are_the_first_of_the_following_folds(world):
    assert speakers_of(world, build_split("ravdess-speaker", world, 2).dev) == {"ravdess/24", "ravdess/03"}
    # fold 1 has no man: the first man of fold 2 steps in
    assert speakers_of(world, build_split("ravdess-speaker", world, 0).dev) == {"ravdess/04", "ravdess/09"}
    assert speakers_of(world, build_split("savee-speaker", world, 3).dev) == {"savee/DC"}
    assert speakers_of(world, build_split("emodb-speaker", world, 0).dev) == {"emo-db/08", "emo-db/10"}


def test_dev_steps_over_speakers_who_are_not_on_disk(world):
    rows = [u for u in world if u.speaker_id not in ("ravdess/24", "ravdess/03")]
    assert speakers_of(rows, build_split("ravdess-speaker", rows, 2).dev) == {"ravdess/02", "ravdess/05"}


def test_pooled_dev_spares_savee_and_tess(world):
    for fold in range(6):
        split = build_split("pooled-speaker", world, fold)
        assert len(speakers_of(world, split.dev)) == 8
        assert {world[i].corpus for i in split.dev} == {"ravdess", "crema-d"}
        lone = {"savee", "tess"} - {world[i].corpus for i in split.test}
        trained = speakers_of(world, split.train)
        assert all(speaker in trained for corpus in lone for tested in FOLDS[corpus] for speaker in tested)


def test_tess_has_no_dev_and_says_so(world):
    split = build_split("tess-speaker", world, 0)
    assert not split.dev.size
    assert any("no dev" in note for note in split.notes)


@pytest.mark.parametrize("name", ["pooled-speaker", "ravdess-speaker", "pooled-random"])
def test_dev_can_join_train_and_the_test_stays(world, name):
    usual, joined = build_split(name, world, 0), build_split(name, world, 0, joins_dev=True)
    assert usual.dev.size and not joined.dev.size
    np.testing.assert_array_equal(joined.test, usual.test)
    np.testing.assert_array_equal(joined.train, np.sort(np.concatenate([usual.train, usual.dev])))
    assert any("nothing to choose" in note for note in joined.notes)
    assert not any("no dev" in note for note in usual.notes)


def test_dev_joins_train_of_a_final_split(world):
    joined = build_final_split(world, joins_dev=True)
    usual = build_final_split(world)
    assert not joined.dev.size
    np.testing.assert_array_equal(joined.train, np.sort(np.concatenate([usual.train, usual.dev])))


def test_leave_one_corpus_out_tests_what_is_loaded(world):
    rows = [u for u in world if u.corpus != "emo-db"]
    assert list_folds("leave-one-corpus-out", rows) == [0, 1, 2, 3]
    for fold in range(4):
        split = build_split("leave-one-corpus-out", rows, fold)
        (tested,) = {rows[i].corpus for i in split.test}
        assert tested not in {rows[i].corpus for i in split.train} | {rows[i].corpus for i in split.dev}
    with pytest.raises(ProtocolError, match="emo-db"):
        build_split("leave-one-corpus-out", rows, 4)


def test_final_split_trains_on_all_but_eight_speakers(world):
    split = build_final_split(world)
    assert (split.protocol, split.test.size) == ("shipped", 0)
    assert len(speakers_of(world, split.dev)) == 8
    n_speakers = sum(len(fold) for folds in FOLDS.values() for fold in folds)
    assert len(speakers_of(world, split.train)) == n_speakers - 8
    assert "boredom" not in {world[i].emotion for i in split.train}


def test_the_final_split_of_some_corpora_has_their_classes_alone(world):
    own = [clip for clip in world if clip.corpus == "crema-d"]
    split = build_final_split(own)
    assert split.classes == CORPUS_CLASSES["crema-d"]
    assert len(split.train) + len(split.dev) == len(own) and not len(split.test)
    assert len({own[row].speaker_id for row in split.dev}) == 6


def test_what_can_spare_no_dev_has_none_and_says_so(world):
    own = [clip for clip in world if clip.corpus in ("savee", "tess")]
    split = build_final_split(own)
    assert len(split.train) == len(own) and not split.dev.size
    assert "there is no dev part: no speaker could be spared" in split.notes[-1]
    two = [clip for clip in world if clip.corpus in ("ravdess", "tess")]
    folds = list(CORPUS_CLASSES)
    tests_ravdess = build_split("leave-one-corpus-out", two, folds.index("ravdess"))  # whose speakers would be dev
    assert {two[row].corpus for row in tests_ravdess.train} == {"tess"} and not tests_ravdess.dev.size
    assert len(speakers_of(two, build_split("leave-one-corpus-out", two, folds.index("tess")).dev)) == 2


@pytest.mark.parametrize(("name", "share", "classes"), [("pooled-random", 0.2, 7), ("crema-d-random", 0.2, 6)])
def test_random_protocols_deal_out_clips(world, name, share, classes):
    split = build_split(name, world, 0)
    n = sum(part.size for part in split.parts.values())
    assert split.test.size == np.ceil(share * n)
    assert split.dev.size == np.ceil(0.1 * (n - split.test.size))
    assert len({world[i].emotion for part in split.parts.values() for i in part}) == classes


def test_pooled_random_tests_as_many_clips_as_published(world):
    """11,970 clips without calm, of which scikit-learn's test_size=.2 gives 2,394 to the test."""
    proto = next(u for u in world if u.corpus == "tess")
    rows = [u for u in world if u.emotion not in ("calm", "boredom") and u.corpus != "emo-db"]
    rows += [replace(proto, path=proto.path.with_stem(str(n))) for n in range(11_970 - len(rows))]
    assert build_split("pooled-random", rows, 0).test.size == 2_394


def test_copies_are_tested_only_where_the_protocol_says_so(world, make_copies):
    rows = world + make_copies(world)
    augmented = build_split("pooled-random-augmented", rows, 0)
    assert any(rows[i].source_id for i in augmented.test)
    plain = build_split("pooled-random", rows, 0)
    assert not any(rows[i].source_id for i in np.concatenate([plain.dev, plain.test]))
    assert any(rows[i].source_id for i in plain.train)
    held_out = {rows[i].utterance_id for i in np.concatenate([plain.dev, plain.test])}
    assert not {rows[i].source_id for i in plain.train} & held_out


def test_extra_corpora_are_only_trained_on(world):
    alone = build_split("ravdess-speaker", world, 0)
    more = build_split("ravdess-speaker", world, 0, extra_train=["tess", "emo-db"])
    assert (alone.test == more.test).all() and (alone.dev == more.dev).all()
    added = set(more.train.tolist()) - set(alone.train.tolist())
    assert {world[i].corpus for i in added} == {"tess", "emo-db"}
    assert "boredom" not in {world[i].emotion for i in added}


def test_duplicate_audio_leaves_train_and_is_noted(world):
    digests = [str(n) for n in range(len(world))]
    clean = build_split("ravdess-speaker", world, 0, digests=digests)
    digests[clean.train[0]] = digests[clean.train[1]] = digests[clean.test[0]]
    digests[clean.dev[0]] = digests[clean.test[1]]
    split = build_split("ravdess-speaker", world, 0, digests=digests)
    assert split.train.tolist() == clean.train[2:].tolist()
    assert split.dev.tolist() == clean.dev[1:].tolist()
    assert split.test.tolist() == clean.test.tolist()
    assert [note.split(":")[0] for note in split.notes] == ["left out of dev", "left out of train"]


def test_a_copy_of_a_clip_that_sounds_like_a_test_clip_leaves_train(world, make_copies):
    """The chain: train holds a copy of A; A is not in the split's parts, but its audio equals test clip B."""
    split = build_split("ravdess-speaker", world, 0)
    trained, tested = world[split.train[0]], world[split.test[0]]
    (copy,) = make_copies([trained], ("noise",))
    rows = [*world, copy]
    digests = [str(n) for n in range(len(rows))]
    digests[split.train[0]] = digests[world.index(tested)]
    cleaned = build_split("ravdess-speaker", rows, 0, digests=digests)
    assert len(rows) - 1 not in cleaned.train.tolist()


# ---- what is refused ----


def test_missing_corpus_is_named(world):
    with pytest.raises(ProtocolError, match="savee"):
        build_split("pooled-speaker", [u for u in world if u.corpus != "savee"], 0)
    with pytest.raises(ProtocolError, match="tess"):
        build_split("ravdess-speaker", [u for u in world if u.corpus != "tess"], 0, extra_train=["tess"])


def test_own_corpus_is_no_extra(world):
    with pytest.raises(ProtocolError, match="already uses ravdess"):
        build_split("ravdess-speaker", world, 0, extra_train=["ravdess"])


def test_unknown_speaker_stops_a_speaker_protocol(world):
    stranger = replace(world[0], speaker_id="ravdess/25")  # how some repositories file TESS
    with pytest.raises(ProtocolError, match="ravdess/25"):
        build_split("ravdess-speaker", [*world, stranger], 0)


@pytest.mark.parametrize(
    ("kept", "part"),
    [
        (FOLDS["ravdess"][0], "train"),
        (FOLDS["ravdess"][0] + ("ravdess/04", "ravdess/09"), "train"),
        (FOLDS["ravdess"][1] + FOLDS["ravdess"][2] + FOLDS["ravdess"][3], "test"),
    ],
)
def test_empty_part_is_named(world, kept, part):
    with pytest.raises(ProtocolError, match=f"the {part} part"):
        build_split("ravdess-speaker", [u for u in world if u.speaker_id in kept], 0)


def test_class_without_training_clip_is_named(world):
    tested = set(FOLDS["ravdess"][0])
    rows = [u for u in world if u.emotion != "calm" or u.speaker_id in tested]
    with pytest.raises(ProtocolError, match="no training clip of calm"):
        build_split("ravdess-speaker", rows, 0)


def test_digests_fit_the_list(world):
    with pytest.raises(ProtocolError, match="one digest per utterance"):
        build_split("ravdess-speaker", world, 0, digests=["0"])


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_nothing_on_disk_is_an_error_not_a_split(name):
    assert list_folds(name, []) == ([] if PROTOCOLS[name].speaker_disjoint else [0])
    with pytest.raises(ProtocolError):
        build_split(name, [], 0)


# ---- the real corpora ----


@pytest.mark.corpus
def test_real_corpora_are_split_without_leak(corpora_root):
    from undertone.lab.corpora import load

    utterances = load(corpora_root)
    present = {u.speaker_id for u in utterances}
    tested = []
    for fold in range(6):
        split = build_split("pooled-speaker", utterances, fold)
        assert_nothing_crosses(split, utterances, None)
        assert {utterances[i].emotion for i in split.dev} == set(split.classes) - {"boredom"}
        tested += speakers_of(utterances, split.test)
    assert sorted(tested) == sorted(s for s in present if not s.startswith("emo-db/"))
    n_clips = {u.corpus: sum(v.corpus == u.corpus for v in utterances) for u in utterances[::400]}
    ravdess = [build_split("ravdess-speaker", utterances, fold) for fold in range(6)]
    assert sum(split.test.size for split in ravdess) == n_clips["ravdess"]
    if n_clips["ravdess"] == 1_440:
        assert all((s.train.size, s.dev.size, s.test.size) == (1_080, 120, 240) for s in ravdess)


@pytest.mark.corpus
@pytest.mark.parametrize("corpus", list(CORPUS_CLASSES))
def test_every_fold_of_the_real_corpora_can_be_built(corpora_root, corpus):
    from undertone.lab.corpora import load

    utterances = [u for u in load(corpora_root) if u.corpus == corpus]
    name = f"{corpus.replace('emo-db', 'emodb')}-speaker"
    if not utterances:
        pytest.skip(f"{corpus} is not among the corpora")
    for fold in list_folds(name, utterances):
        assert_nothing_crosses(build_split(name, utterances, fold), utterances, None)

import json
from dataclasses import replace

import numpy as np
import pytest

from undertone.lab.evaluation import LeakError, audit_parts, audit_split, build_split

CLIPS = ["a1", "a2", "b1", "b2", "c1", "c2"]
SPEAKERS = ["a", "a", "b", "b", "c", "c"]
PARTS = {"train": np.array([0, 1]), "dev": np.array([2, 3]), "test": np.array([4, 5])}


def audit(parts=PARTS, **changes):
    return audit_parts(parts, **{"name": "table", "clips": CLIPS, "speakers": SPEAKERS, **changes})


def kinds(found):
    return [(finding.kind, finding.first, finding.second, finding.n_rows) for finding in found.findings]


def test_clean_split_is_clean():
    found = audit(digests=list("123456"))
    assert not found.leaks
    assert found.findings == ()
    assert found.banner == ""
    found.check()
    assert found.summary().splitlines() == [
        "Audit of table: nothing leaks",
        "  train 2 rows, 1 speaker",
        "  dev   2 rows, 1 speaker",
        "  test  2 rows, 1 speaker",
        "  ok    no speaker is in two parts",
        "  ok    no audio is in two parts (compared by hash)",
        "  ok    no copy of a clip is in another part",
    ]


def test_shared_speaker_is_counted_and_named():
    found = audit(speakers=["a", "a", "b", "b", "a", "c"])
    assert kinds(found) == [("speaker", "train", "test", 1)]
    assert found.findings[0].shared == ("a",)
    assert str(found.findings[0]) == "50.0 % of the test rows are by a speaker who is in train too (1 of 2)"
    with pytest.raises(LeakError, match=r"50\.0 % of the test rows"):
        found.check()


def test_equal_audio_is_a_leak_and_no_copy():
    found = audit(digests=["1", "2", "3", "2", "5", "2"])
    assert kinds(found) == [
        ("audio", "train", "test", 1),
        ("audio", "dev", "test", 1),
        ("audio", "train", "dev", 1),
    ]
    assert found.findings[0].shared == ("c2",)


def test_copy_of_a_clip_is_a_leak():
    found = audit(recordings=np.array([0, 1, 2, 3, 0, 4]))
    assert kinds(found) == [("copy", "train", "test", 1)]
    assert "50.0 % of the test rows have a copy of the same clip in train (1 of 2)" in found.summary()


def test_shared_sentence_is_a_note():
    found = audit(sentences=["dogs", "kids", "dogs", "kids", "dogs", "tea"])
    assert kinds(found) == [("sentence", "train", "test", 1)]
    assert not found.leaks
    found.check()
    assert "note  50.0 % of the test rows say a sentence that train has too" in found.summary()


def test_one_row_in_two_parts_is_a_leak():
    assert audit({**PARTS, "dev": np.array([0])}).leaks


def test_audit_says_when_audio_was_not_compared():
    assert "audio was not compared" in audit().summary()
    assert "audio was not compared" not in audit(digests=list("123456")).summary()


@pytest.mark.parametrize(
    ("parts", "changes", "message"),
    [
        (PARTS, {"speakers": ["a"]}, "differ in length"),
        ({"train": np.array([6])}, {}, "outside the 6 rows"),
        ({"training": np.array([0])}, {}, "train, dev and test"),
    ],
)
def test_wrong_tables_are_refused(parts, changes, message):
    with pytest.raises(ValueError, match=message):
        audit(parts, **changes)


# ---- of splits ----


def test_audit_finds_a_leak_put_into_a_good_split(world):
    good = build_split("pooled-speaker", world, 0)
    audit_split(good, world).check()
    bad = replace(good, train=np.append(good.train, good.test[:3]))
    with pytest.raises(LeakError, match="pooled-speaker, fold 0: IT LEAKS"):
        audit_split(bad, world).check()


def test_augmented_protocol_leaks_with_a_banner_and_is_let_through(world, make_copies):
    rows = world + make_copies(world)
    found = audit_split(build_split("pooled-random-augmented", rows, 0), rows)
    assert found.leaks
    found.check()
    (copies,) = [f for f in found.findings if (f.kind, f.first, f.second) == ("copy", "train", "test")]
    # three rows a clip, of which 67.5 % are trained on: 1 - 0.325 ** 2 = 89.4 % have another one there
    assert copies.n_rows / copies.n_total == pytest.approx(0.894, abs=0.02)
    assert str(copies) in found.banner
    assert found.banner.startswith("This split leaks (pooled-random-augmented, fold 0). Altered copies")


@pytest.mark.parametrize("name", ["pooled-random", "crema-d-random"])
def test_random_protocols_leak_speakers_only(world, make_copies, name):
    rows = world + make_copies(world)
    digests = [str(n) for n in range(len(rows))]
    found = audit_split(build_split(name, rows, 0), rows, digests)
    assert found.leaks
    assert {finding.kind for finding in found.findings if finding.leaks} == {"speaker"}


def test_json_is_plain(world):
    found = audit_split(build_split("tess-speaker", world, 0), world)
    content = json.loads(json.dumps(found.to_json()))
    assert content["leaks"] is False
    assert content["counts"]["test"] == {"rows": 14, "speakers": 1}
    assert any("no dev" in note for note in content["notes"])

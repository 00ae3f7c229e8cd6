"""The exclusion rules, on made-up clips and on the real corpora."""

import hashlib
from pathlib import Path

import pytest

from undertone.lab.corpora import Utterance, exclude, find_problems, load


def clip(name, emotion, source_id=None):
    path = Path(f"{name}.wav")
    return Utterance(path, "ravdess", "ravdess/01", "male", emotion, "ravdess/01", source_id=source_id)


CLIPS = [clip("c", "anger"), clip("a", "anger"), clip("b", "fear"), clip("d", "fear"), clip("e", "calm")]
NO_SILENCE = [False] * 5


def test_no_problem_no_exclusion():
    assert find_problems(CLIPS, list("12345"), NO_SILENCE) == []
    assert exclude(CLIPS, []) == CLIPS


def test_of_a_duplicate_the_first_by_name_stays():
    [problem] = find_problems(CLIPS, list("11345"), NO_SILENCE)
    assert (problem.kind, problem.utterance_ids) == ("duplicate", ("ravdess/a", "ravdess/c"))
    assert problem.excluded == ("ravdess/c",)
    assert exclude(CLIPS, [problem]) == CLIPS[1:]


def test_of_a_conflict_none_stays():
    [problem] = find_problems(CLIPS, list("11145"), NO_SILENCE)
    assert (problem.kind, len(problem.excluded)) == ("conflict", 3)
    assert problem.emotions == ("anger", "fear", "anger")
    assert exclude(CLIPS, [problem]) == CLIPS[3:]
    assert "ravdess/b (fear)" in str(problem)


def test_silent_clips_go_and_are_no_duplicates_of_each_other():
    problems = find_problems(CLIPS, list("11145"), [True, True, False, False, True])
    assert [(problem.kind, *problem.excluded) for problem in problems] == [
        ("silent", "ravdess/a"), ("silent", "ravdess/c"), ("silent", "ravdess/e"),
    ]  # fmt: skip
    assert exclude(CLIPS, problems) == CLIPS[2:4]


def test_undecodable_clips_are_not_equal():
    assert find_problems(CLIPS, [""] * 5, NO_SILENCE) == []


def test_augmented_copies_go_with_their_source():
    copies = [clip("a-noise", "anger", source_id="ravdess/a"), clip("b-noise", "fear", source_id="ravdess/b")]
    problems = find_problems(CLIPS + copies, list("1234567"), [False, True, *[False] * 5])
    assert exclude(CLIPS + copies, problems) == [CLIPS[0], *CLIPS[2:], copies[1]]


def test_an_augmented_copy_that_changed_nothing_goes_before_its_source():
    copy = clip("a-gain", "anger", source_id="ravdess/z")
    source = clip("z", "anger")
    [problem] = find_problems([copy, source], ["1", "1"], [False, False])
    assert problem.excluded == ("ravdess/a-gain",)


def test_rows_must_match():
    with pytest.raises(ValueError, match="5 utterances, 4 digests"):
        find_problems(CLIPS, list("1234"), NO_SILENCE)


def test_order_of_utterances_does_not_matter():
    digests = list("11233")
    expected = find_problems(CLIPS, digests, NO_SILENCE)
    assert len(expected) == 2
    assert find_problems(CLIPS[::-1], digests[::-1], NO_SILENCE) == expected


SUSPECTS = {  # one speaker, sentence or pair around each known defect, so that the test stays quick
    "ravdess/03-01-03-01-02-01-07": "ravdess/07",
    "crema-d/1076_MTI_SAD_XX": "crema-d/1076",
    "crema-d/1006_TIE_HAP_XX": "crema-d/1006",
    "crema-d/1013_WSI_DIS_XX": "crema-d/1013",
    "crema-d/1017_IWW_ANG_XX": "crema-d/1017",
}


def problems_of(utterances):
    import soundfile

    waveforms = [soundfile.read(utterance.path, dtype="int16")[0] for utterance in utterances]
    digests = [hashlib.sha256(waveform.tobytes()).hexdigest() for waveform in waveforms]
    problems = find_problems(utterances, digests, [not waveform.any() for waveform in waveforms])
    return [(problem.kind, *(name.split("/")[1] for name in problem.utterance_ids)) for problem in problems]


KNOWN = [
    ("silent", "1076_MTI_SAD_XX"),
    ("conflict", "1006_TIE_HAP_XX", "1006_TIE_NEU_XX"),
    ("conflict", "1013_WSI_DIS_XX", "1013_WSI_SAD_XX"),
    ("conflict", "1017_IWW_ANG_XX", "1017_IWW_FEA_XX"),
    ("duplicate", "03-01-03-01-02-01-07", "03-01-03-01-02-02-07"),
]


@pytest.mark.corpus
def test_the_known_defects_are_found_among_their_speakers(corpora_root):
    utterances = load(corpora_root, ["ravdess", "crema-d"])
    assert problems_of([u for u in utterances if u.speaker_id in SUSPECTS.values()]) == KNOWN


@pytest.mark.corpus
@pytest.mark.slow
def test_there_are_no_other_defects_in_the_four_corpora(corpora_root):
    assert problems_of(load(corpora_root)) == KNOWN

"""Made-up empty files with the corpora's real names, in the official layouts and those of common mirrors."""

import dataclasses
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from undertone.audio import AUDIO_SUFFIXES
from undertone.emotions import EMOTIONS
from undertone.lab.corpora import CORPORA, CorpusError, check_counts, get_corpus, load
from undertone.lab.corpora.utterance import CLIP_SUFFIXES

EMO_DB_NAMES = ["03a01Fa", "08b02Tb", "16a05Lc", "11b10Wd", "09a07Ea", "13b03Aa", "15a02Nb"]


def make_clips(folder: Path, paths) -> Path:
    paths = [folder / path for path in paths]
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    for path in paths:
        path.touch()
    return folder


def parse(name: str, folder: Path):
    return CORPORA[name].parse(folder)


def names(utterances) -> set[str]:
    return {utterance.utterance_id.split("/", 1)[1] for utterance in utterances}


# ---- what is published ----


@pytest.mark.parametrize(
    ("name", "n_utterances", "n_speakers", "n_emotions"),
    [
        ("ravdess", 1440, 24, 8),
        ("crema-d", 7442, 91, 6),
        ("tess", 2800, 2, 7),
        ("savee", 480, 4, 7),
        ("emo-db", 535, 10, 7),
    ],
)
def test_official_counts_agree_with_each_other(name, n_utterances, n_speakers, n_emotions):
    corpus = CORPORA[name]
    assert corpus.n_utterances == sum(corpus.speaker_counts.values()) == n_utterances
    assert corpus.n_speakers == len(corpus.speaker_counts) == n_speakers
    assert len(corpus.emotions) == n_emotions
    assert list(corpus.emotions) == sorted(corpus.emotions, key=EMOTIONS.index)
    assert corpus.licence_url.startswith("http") and corpus.source_url.startswith("http")


@pytest.mark.parametrize("name", ["ravdess", "crema-d", "tess", "savee"])
def test_official_names_parse_to_the_official_counts(name, tmp_path):
    utterances = parse(name, make_clips(tmp_path, [f"{clip}.wav" for clip in CORPORA[name].official_names()]))
    assert check_counts(utterances).is_complete
    assert [u.utterance_id for u in utterances] == sorted(u.utterance_id for u in utterances)
    assert {u.speaker_id for u in utterances} == set(CORPORA[name].speaker_counts)
    assert all(u.sentence_id.startswith(f"{name}/") for u in utterances)


# ---- RAVDESS ----


def test_ravdess_fields(tmp_path):
    folder = make_clips(tmp_path, ["Actor_12/03-01-06-02-01-02-12.flac"])
    [utterance] = parse("ravdess", folder)
    assert dataclasses.asdict(utterance) == {
        "path": folder / "Actor_12/03-01-06-02-01-02-12.flac",
        "corpus": "ravdess",
        "speaker_id": "ravdess/12",
        "sex": "female",
        "emotion": "fear",
        "sentence_id": "ravdess/01",
        "intensity": "strong",
        "repetition": 2,
        "age": None,
        "voted_emotion": (),
        "voted_level": None,
        "source_id": None,
        "name": None,
    }
    assert utterance.utterance_id == "ravdess/03-01-06-02-01-02-12"


@pytest.mark.parametrize(
    ("code", "emotion"),
    [
        ("01", "neutral"),
        ("02", "calm"),
        ("03", "happiness"),
        ("04", "sadness"),
        ("05", "anger"),
        ("07", "disgust"),
        ("08", "surprise"),
    ],
)
def test_ravdess_emotions(code, emotion, tmp_path):
    [utterance] = parse("ravdess", make_clips(tmp_path, [f"Actor_07/03-01-{code}-01-02-01-07.wav"]))
    assert (utterance.emotion, utterance.sex, utterance.intensity) == (emotion, "male", "normal")


@pytest.mark.parametrize("prefix", ["", "audio_speech_actors_01-24/", "Audio_Speech_Actors_01-24/"])
def test_ravdess_reads_each_clip_of_a_mirror_once(prefix, tmp_path):
    clips = ["Actor_01/03-01-05-01-01-01-01.wav", "Actor_02/03-01-05-01-01-01-02.wav"]
    again = ["Angry/03-01-05-01-01-01-01.wav", f"{prefix}by emotion/angry/03-01-05-01-01-01-02.wav"]
    utterances = parse("ravdess", make_clips(tmp_path, [prefix + clip for clip in clips] + again))
    assert [utterance.path for utterance in utterances] == [tmp_path / prefix / clip for clip in clips]


def test_ravdess_leaves_out_song_video_and_litter(tmp_path):
    clips = [
        "Audio_Song_Actors_01-24/Actor_01/03-02-05-01-01-01-01.wav",
        "Audio_Speech_Actors_01-24/Actor_01/03-01-05-01-01-01-01.wav",
        "Video_Speech_Actor_01/Actor_01/01-01-05-01-01-01-01.wav",
        "Audio_Speech_Actors_01-24/Actor_01/._03-01-03-01-01-01-01.wav",
        "__MACOSX/Actor_01/03-01-04-01-01-01-01.wav",
        "Audio_Speech_Actors_01-24/Actor_01/03-01-06-01-01-01-01.wav.txt",
        "Audio_Speech_Actors_01-24/Actor_01/03-01-06-01-01-01-99.wav",
    ]
    assert names(parse("ravdess", make_clips(tmp_path, clips))) == {"03-01-05-01-01-01-01"}


def test_ravdess_flat(tmp_path):
    folder = make_clips(tmp_path, ["03-01-05-01-01-01-01.mp3", "03-01-08-01-01-01-24.OGG"])
    utterances = parse("ravdess", folder)
    assert [utterance.speaker_id for utterance in utterances] == ["ravdess/01", "ravdess/24"]


# ---- CREMA-D ----


def test_crema_d_fields(tmp_path):
    folder = make_clips(tmp_path, ["AudioWAV/1001_IEO_HAP_HI.wav", "AudioWAV/1091_WSI_NEU_XX.wav"])
    first, last = parse("crema-d", folder)
    assert (first.speaker_id, first.sex, first.age) == ("crema-d/1001", "male", 51)
    assert (first.emotion, first.sentence_id, first.intensity) == ("happiness", "crema-d/IEO", "high")
    assert (first.voted_emotion, first.voted_level) == ((), None)
    assert (last.speaker_id, last.sex, last.age) == ("crema-d/1091", "female", 29)
    assert (last.emotion, last.intensity) == ("neutral", None)


def test_a_corpus_may_have_every_suffix_that_can_be_decoded(tmp_path):
    assert sorted(CLIP_SUFFIXES) == sorted(AUDIO_SUFFIXES)
    stem = "1001_IEO_ANG_HI"
    for suffix in reversed(CLIP_SUFFIXES):  # from the last choice to the first
        (clip,) = parse("crema-d", make_clips(tmp_path, [f"{stem}{suffix}"]))
        assert clip.path.suffix == suffix


def test_crema_d_takes_the_lossless_copy(tmp_path):
    clips = ["AudioMP3/1001_IEO_HAP_HI.mp3", "AudioWAV/1001_IEO_HAP_HI.wav", "AudioMP3/1002_IEO_HAP_HI.mp3"]
    utterances = parse("crema-d", make_clips(tmp_path, clips))
    assert [utterance.path.name for utterance in utterances] == ["1001_IEO_HAP_HI.wav", "1002_IEO_HAP_HI.mp3"]


def test_crema_d_votes(tmp_path):
    folder = make_clips(tmp_path, ["1001_IEO_ANG_MD.wav", "1001_IEO_NEU_XX.wav", "1001_ITH_SAD_XX.wav"])
    table = folder / "processedResults" / "summaryTable.csv"
    table.parent.mkdir()
    table.write_text(
        '"","FileName","VoiceVote","VoiceLevel"\n'
        '"1","1001_IEO_NEU_XX","N","69.1"\n"9","1001_IEO_ANG_MD","A:D","37.2:58.6"\n'
    )
    tied, heard, unheard = parse("crema-d", folder)
    assert (tied.voted_emotion, tied.voted_level) == (("anger", "disgust"), pytest.approx(47.9))
    assert (heard.voted_emotion, heard.voted_level) == (("neutral",), 69.1)
    assert unheard.voted_emotion == ()


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", '"FileName","VoiceVote","VoiceLevel"\nx,Q,1\n', "FileName,VoiceVote\nx\n"]
)
def test_crema_d_refuses_a_wrong_table(text, tmp_path):
    folder = make_clips(tmp_path, ["1001_IEO_ANG_MD.wav"])
    (folder / "summaryTable.csv").write_text(text)
    with pytest.raises(CorpusError, match=r"summaryTable\.csv"):
        parse("crema-d", folder)


# ---- TESS ----


def test_tess_fields_come_from_the_file_name(tmp_path):
    clips = [
        "OAF_Fear/OAF_back_fear.wav",
        "YAF_pleasant_surprised/YAF_back_ps.wav",
        "OAF_Pleasant_surprise/oaf_BAR_PS.wav",
        "OAF_neutral/OA_bite_neutral.wav",
        "OAF_angry/OAF_bar_sad.wav",  # in the wrong folder
    ]
    found = {
        u.utterance_id: (u.speaker_id, u.emotion, u.sentence_id, u.sex, u.age)
        for u in parse("tess", make_clips(tmp_path, clips))
    }
    assert found == {
        "tess/OAF_back_fear": ("tess/OAF", "fear", "tess/back", "female", 64),
        "tess/YAF_back_ps": ("tess/YAF", "surprise", "tess/back", "female", 26),
        "tess/OAF_bar_ps": ("tess/OAF", "surprise", "tess/bar", "female", 64),
        "tess/OAF_bite_neutral": ("tess/OAF", "neutral", "tess/bite", "female", 64),
        "tess/OAF_bar_sad": ("tess/OAF", "sadness", "tess/bar", "female", 64),
    }


def test_tess_reads_the_nested_mirror_once(tmp_path):
    nested = "TESS Toronto emotional speech set data/"
    clips = [nested + "OAF_angry/OAF_back_angry.wav", nested + nested + "OAF_angry/OAF_back_angry.wav"]
    [utterance] = parse("tess", make_clips(tmp_path, clips))
    assert utterance.path == tmp_path / clips[0]


def test_of_equal_copies_the_one_with_the_shorter_path_is_read(tmp_path):
    clips = ["a/b/OAF_back_sad.wav", "z/OAF_back_sad.wav", "z/OAF_back_sad.flac", "OAF_back_sad.mp3"]
    [utterance] = parse("tess", make_clips(tmp_path, clips))
    assert utterance.path == tmp_path / "z/OAF_back_sad.wav"


# ---- SAVEE ----


@pytest.mark.parametrize(
    ("path", "speaker", "emotion", "sentence"),
    [
        ("AudioData/DC/a01.wav", "DC", "anger", "common-1"),
        ("AudioData/JE/sa15.wav", "JE", "sadness", "sa15"),
        ("AudioData/JK/su15.wav", "JK", "surprise", "su15"),
        ("ALL/KL_n30.wav", "KL", "neutral", "h05"),
        ("ALL/KL_n15.wav", "KL", "neutral", "n15"),
        ("audiodata/dc/N16.WAV", "DC", "neutral", "common-1"),
        ("dc_h03.flac", "DC", "happiness", "common-3"),
        ("DC_f04.flac", "DC", "fear", "f04"),
        ("DC_d02.flac", "DC", "disgust", "common-2"),
    ],
)
def test_savee_fields(path, speaker, emotion, sentence, tmp_path):
    [utterance] = parse("savee", make_clips(tmp_path, [path]))
    assert utterance.speaker_id == f"savee/{speaker}"
    assert (utterance.emotion, utterance.sentence_id) == (emotion, f"savee/{sentence}")
    assert utterance.sex == "male"
    assert utterance.utterance_id.startswith(f"savee/{speaker}_")


def test_savee_sadness_is_never_filed_as_surprise(tmp_path):
    """A published system reads one letter of the code, so that 60 clips of sadness ("sa") become surprise ("su")."""
    codes = [f"{code}{number:02}" for code in ("sa", "su") for number in range(1, 16)]
    clips = [f"AudioData/{speaker}/{code}.wav" for speaker in ("DC", "JE", "JK", "KL") for code in codes]
    found = Counter((u.path.stem[:2], u.emotion) for u in parse("savee", make_clips(tmp_path, clips)))
    assert found == {("sa", "sadness"): 60, ("su", "surprise"): 60}


def test_savee_reads_folders_and_flat_copies_once(tmp_path):
    clips = ["AudioData/DC/sa01.wav", "ALL/DC_sa01.wav", "AudioData/JE/sa01.wav", "x/a01.wav"]
    folder = make_clips(tmp_path, clips)
    assert names(parse("savee", folder)) == {"DC_sa01", "JE_sa01"}


@pytest.mark.parametrize("name", ["DC_a16.wav", "DC_n31.wav", "DC_a00.wav", "DC_x01.wav", "ZZ_a01.wav"])
def test_savee_ignores_names_out_of_range(name, tmp_path):
    with pytest.raises(CorpusError):
        parse("savee", make_clips(tmp_path, [name]))


def test_savee_sentences_are_shared_as_published():
    """15 per emotion; neutral repeats the 3 common and the 12 specific ones beside its own 15 (3 common)."""
    from undertone.lab.corpora.savee import CODES, _sentence_id

    sentences = {code: _sentence_id(code) for code in CODES}
    assert len(set(sentences.values())) == 3 + 6 * 12 + 12
    neutral = {sentence for code, sentence in sentences.items() if code.startswith("n")}
    assert len(neutral) == 3 + 12 + 12


# ---- EMO-DB ----


def test_emo_db_fields(tmp_path):
    folder = make_clips(tmp_path, [f"wav/{name}.wav" for name in EMO_DB_NAMES])
    clips = {utterance.utterance_id: utterance for utterance in parse("emo-db", folder)}
    assert [u.emotion for _, u in sorted(clips.items())] == [
        "happiness", "sadness", "disgust", "anger", "fear", "neutral", "boredom",
    ]  # fmt: skip
    last = clips["emo-db/16a05Lc"]
    assert (last.speaker_id, last.sex, last.age) == ("emo-db/16", "female", 31)
    assert (last.sentence_id, last.repetition) == ("emo-db/a05", 3)


def test_emo_db_speakers_are_five_women_and_five_men(tmp_path):
    speakers = ["03", "08", "09", "10", "11", "12", "13", "14", "15", "16"]
    utterances = parse("emo-db", make_clips(tmp_path, [f"{speaker}a01Na.wav" for speaker in speakers]))
    assert [utterance.sex for utterance in utterances].count("female") == 5


# ---- any name ----


@given(
    st.sampled_from(list(CORPORA)),
    st.one_of(
        st.text(max_size=24),
        st.from_regex(r"(0\d-){6}\d\d|1\d{3}_[A-Z]{3}_[A-Z]{3}_[A-Z]{2}|[OY]AF_[a-z]{3}_[a-zſ]{2,5}", fullmatch=True),
        st.from_regex(r"(DC_|)[adfhnsu]{1,2}\d\d|\d\d[abAB]\d\d[A-Za-z][a-z]", fullmatch=True),
    ),
)
def test_any_name_is_understood_in_full_or_not_at_all(name, stem):
    module = import_module(f"undertone.lab.corpora.{name.replace('-', '_')}")
    keywords = {"votes": {}} if name == "crema-d" else {}
    corpus, utterance = CORPORA[name], module._parse_name(Path("DC") / f"{stem}.wav", **keywords)
    if utterance is not None:
        assert utterance.emotion in corpus.emotions
        assert utterance.speaker_id in corpus.speaker_counts
        if name in ("tess", "savee"):  # RAVDESS' and CREMA-D's names also have combinations never recorded
            assert utterance.utterance_id.removeprefix(f"{name}/") in corpus.official_names()


# ---- load ----


@pytest.fixture
def root(tmp_path):
    make_clips(tmp_path / "RAVDESS", ["Actor_01/03-01-05-01-01-01-01.wav"])
    make_clips(tmp_path / "cremad", ["AudioWAV/1001_IEO_HAP_HI.wav"])
    (tmp_path / "README.md").touch()
    return tmp_path


def test_load_reads_what_is_there(root):
    assert [utterance.corpus for utterance in load(root)] == ["ravdess", "crema-d"]
    assert [utterance.corpus for utterance in load(str(root), ["CREMA-D"])] == ["crema-d"]


def test_load_says_which_corpus_is_missing(root):
    with pytest.raises(CorpusError, match="no folder TESS, EMO-DB"):
        load(root, ["tess", "emo-db", "ravdess"])


def test_load_refuses_unknown_empty_and_missing(root):
    with pytest.raises(CorpusError, match="no corpus is called 'iemocap'"):
        load(root, ["iemocap"])
    with pytest.raises(CorpusError, match="is not a folder"):
        load(root / "nowhere")
    (root / "empty").mkdir()
    with pytest.raises(CorpusError, match="has no folder RAVDESS"):
        load(root / "empty")
    (root / "SAVEE").mkdir()
    with pytest.raises(CorpusError, match="no clip below"):
        load(root)


def test_linked_folders_are_read_and_loops_end(root):
    link = root / "links" / "RAVDESS"
    link.mkdir(parents=True)
    (link / "Actor_01").symlink_to(root / "RAVDESS" / "Actor_01")
    (link / "self").symlink_to(link)
    assert len(load(root / "links")) == 1


def test_get_corpus_ignores_case_and_punctuation():
    assert get_corpus("EMO-DB") is get_corpus("emodb") is CORPORA["emo-db"]


# ---- counts ----


def test_counts_say_what_is_missing(tmp_path):
    clips = [name for name in CORPORA["ravdess"].official_names() if not name.endswith(("-24", "-23"))]
    missing = [name for name in clips if name.startswith("03-01-08-02-02") and name.endswith("-01")]
    folder = make_clips(tmp_path, [f"{name}.wav" for name in clips if name not in missing])
    report = check_counts(parse("ravdess", folder))
    [counts] = report.corpora
    assert not report.is_complete
    assert (counts.n_utterances, counts.n_official) == (1440 - 120 - 2, 1440)
    assert counts.missing_speakers == ("ravdess/23", "ravdess/24")
    assert list(counts.missing_names) == sorted(missing)
    assert "1,318 of 1,440 clips, 22 of 24 speakers" in report.summary()
    assert "no clip of 23, 24" in report.summary()
    assert missing[0] in report.summary()
    assert report.to_json()["corpora"][0]["emotions"]["surprise"] == {"here": 192 - 16 - 2, "official": 192}


def test_counts_of_a_corpus_that_is_not_there():
    [counts] = check_counts([], ["emo-db"]).corpora
    assert (counts.n_utterances, counts.n_official, len(counts.missing_speakers)) == (0, 535, 10)


# ---- the real corpora ----


@pytest.mark.corpus
def test_real_corpora_have_the_official_names_and_counts(corpora_root):
    utterances = load(corpora_root)
    assert len({utterance.utterance_id for utterance in utterances}) == len(utterances)
    for counts in check_counts(utterances).corpora:
        official = CORPORA[counts.corpus].official_names()
        assert names(u for u in utterances if u.corpus == counts.corpus) <= official
        assert counts.missing_names == ()  # whole speakers may be missing, clips of present ones not
        if counts.corpus != "crema-d":
            assert counts.is_complete


@pytest.mark.corpus
def test_actor_table_is_the_official_one(corpora_root):
    import csv

    from undertone.lab.corpora.crema_d import ACTORS

    with (corpora_root / "CREMA-D" / "VideoDemographics.csv").open() as file:
        rows = {row["ActorID"]: (row["Sex"].lower(), int(row["Age"])) for row in csv.DictReader(file)}
    assert rows == ACTORS


@pytest.mark.corpus
def test_every_crema_d_clip_has_a_vote(corpora_root):
    utterances = load(corpora_root, ["crema-d"])
    assert all(utterance.voted_emotion and 0 <= utterance.voted_level <= 100 for utterance in utterances)


@pytest.mark.corpus
def test_real_savee_has_sixty_clips_of_sadness_and_sixty_of_surprise(corpora_root):
    clips = [(u.path.stem[:2], u.emotion) for u in load(corpora_root, ["savee"]) if u.path.stem[:2] in ("sa", "su")]
    assert Counter(clips) == {("sa", "sadness"): 60, ("su", "surprise"): 60}

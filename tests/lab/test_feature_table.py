"""Feature tables: the numbers in them, their columns, clips that cannot be used, and the command."""

# ruff: noqa: E402 - imports follow the check that torch is there
import csv
import json

import numpy as np
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

from undertone.audio import load_waveform
from undertone.cli.commands import app
from undertone.lab import feature_table
from undertone.lab.corpora import load
from undertone.lab.feature_table import FeatureTableError, feature_sets, load_table_features, write_feature_table
from undertone.lab.features import MFCC, Functionals, LogMel
from undertone.lab.recipes import RecipeError

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

LABELS = ["path", "corpus", "speaker", "emotion"]
RECIPE = """
name = "mine"
description = "a part of the clip at another rate"
[input]
sample_rate = 22_050
offset_s = 0.5
duration_s = 1.0
[features]
kind = "resize"
n_frames = 20
[[features.parts]]
kind = "stack"
[[features.parts.parts]]
kind = "rms"
[[features.parts.parts]]
kind = "mfcc"
n_mfcc = 3
n_fft = 2048
win_length = 2048
hop_length = 512
[network]
kind = "se-resnet"
"""


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        columns, *rows = csv.reader(file)
    return columns, [dict(zip(columns, row, strict=True)) for row in rows]


def values_of(row, columns):
    return np.array([float(row[column]) for column in columns])


@pytest.fixture
def clips(write_sound, make_speech):
    """Three clips, and behind the first one that is none."""
    paths = [write_sound(f"{number}.wav", make_speech(number, 0.4 + 0.3 * number)) for number in range(3)]
    broken = paths[0].with_name("broken.wav")
    broken.write_text("no sound")
    return [paths[0], broken, *paths[1:]]


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def undertone():
    """Function (*arguments) -> result of ``undertone lab features``."""

    def run(*arguments):
        environment = {"UNDERTONE_DATA": None, "COLUMNS": "80"}
        return CliRunner().invoke(
            app, ["lab", "features", *map(str, arguments)], prog_name="undertone", env=environment
        )

    return run


def test_a_row_per_clip_has_the_values_of_the_clip_alone(clips, tmp_path):
    front_end = load_table_features("mfcc")
    summary = write_feature_table(clips, front_end, tmp_path / "table.csv")
    columns, rows = read(tmp_path / "table.csv")
    assert columns == [*LABELS, *front_end.features.names, "error"] == list(summary.columns)
    assert [row["path"] for row in rows] == [str(path) for path in clips]
    for path, row in zip(clips, rows, strict=True):
        if path.stem == "broken":
            continue
        waveform = torch.from_numpy(load_waveform(path))[None]
        expected = front_end.features(waveform, torch.tensor([waveform.shape[1]]))[0][0, :, 0]
        np.testing.assert_allclose(values_of(row, front_end.features.names), expected, rtol=1e-4, atol=1e-4)
        assert row["error"] == row["corpus"] == row["speaker"] == row["emotion"] == ""


def test_a_clip_that_cannot_be_used_is_a_row_with_its_error(clips, tmp_path):
    done = []
    summary = write_feature_table([*clips, tmp_path / "missing.wav"], load_table_features("mfcc"),
                                  tmp_path / "table.csv", progress=lambda *n: done.append(n))  # fmt: skip
    columns, rows = read(tmp_path / "table.csv")
    assert [bool(row["error"]) for row in rows] == [False, True, False, False, True]
    assert all(rows[1][column] == "" for column in columns[1:-1])
    assert summary.n_rows == 5
    assert summary.errors == {row["path"]: row["error"] for row in (rows[1], rows[4])}
    assert done[-1] == (5, 5)


def test_values_that_are_not_finite_are_an_error(clips, tmp_path, monkeypatch):
    front_end = load_table_features("mfcc")
    forward = front_end.features.forward

    def break_one(waveform, lengths):
        features, n_valid = forward(waveform, lengths)
        features[lengths == lengths.max()] = torch.nan
        return features, n_valid

    monkeypatch.setattr(front_end.features, "forward", break_one)
    summary = write_feature_table(clips[2:], front_end, tmp_path / "table.csv")
    assert list(summary.errors.values()) == ["the features of this clip are not finite"]


def test_a_row_per_frame_says_its_time(clips, recipe_file, tmp_path):
    """What stands inside the recipe's image, of the part of the clip that the recipe looks at."""
    front_end = load_table_features(recipe_file, frames=True)
    write_feature_table([clips[3], clips[1]], front_end, tmp_path / "frames.csv")
    columns, rows = read(tmp_path / "frames.csv")
    assert columns == [*LABELS, "time_s", "rms", "mfcc_000", "mfcc_001", "mfcc_002", "error"]
    *frames, broken = rows
    assert broken["error"] and broken["time_s"] == ""
    times_s = values_of({str(k): row["time_s"] for k, row in enumerate(frames)}, map(str, range(len(frames))))
    np.testing.assert_allclose(times_s, 0.5 + np.arange(len(frames)) * 512 / 22_050, rtol=1e-5)
    assert len(frames) == 1 + int((1.0 - 0.5) * 22_050) // 512  # the clip is 1.0 s long
    waveform = load_waveform(clips[3])[8_000:]
    loudest = max(frames, key=lambda row: float(row["rms"]))
    assert float(loudest["rms"]) == pytest.approx(np.sqrt(np.mean(waveform**2)), rel=0.6)


def test_an_image_is_summarised_over_time(recipe_file):
    front_end = load_table_features(recipe_file, statistics=["mean", "p95"])
    assert isinstance(front_end.features, Functionals)
    assert front_end.features.names[:3] == ["rms_mean", "rms_p95", "mfcc_000_mean"]
    assert front_end.config.sample_rate == 22_050
    assert front_end.frames_per_second is None
    default = load_table_features(recipe_file).features
    assert default.statistics == feature_table.STATISTICS


@pytest.mark.parametrize("name", ["prosody", "spectral", "mfcc", "prosody+spectral", "all", "egemaps"])
def test_every_set_gives_finite_values_with_names(name, clips, tmp_path):
    if name == "egemaps":
        pytest.importorskip("opensmile")
    summary = write_feature_table(clips, load_table_features(name), tmp_path / "table.csv")
    assert name in feature_sets()
    assert len(summary.errors) == 1
    assert len(summary.columns) == len(set(summary.columns)) > 80


def test_parquet_holds_what_the_csv_holds(clips, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    for frames in (False, True):
        front_end = load_table_features("mfcc", frames=frames)
        write_feature_table(clips, front_end, tmp_path / "table.csv")
        write_feature_table(clips, front_end, tmp_path / "table.parquet")
        columns, rows = read(tmp_path / "table.csv")
        table = parquet.read_table(tmp_path / "table.parquet")
        assert table.column_names == columns
        assert table.schema.field(front_end.features.names[0]).type == "float"
        for row, expected in zip(table.to_pylist(), rows, strict=True):
            assert row["path"] == expected["path"]
            assert (row["error"] or "") == expected["error"]
            if not row["error"]:
                own = [row[column] for column in columns[4:-1]]
                np.testing.assert_allclose(own, values_of(expected, columns[4:-1]), rtol=1e-5, atol=1e-6)
    assert not list(tmp_path.glob(".table*"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_that_breaks_off_leaves_the_old_one(suffix, clips, tmp_path, monkeypatch):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    out = tmp_path / f"table.{suffix}"
    out.write_text("old")

    def fail(*_):
        raise RuntimeError("out of memory")

    front_end = load_table_features("mfcc")
    monkeypatch.setattr(front_end.features, "forward", fail)
    with pytest.raises(RuntimeError):
        write_feature_table(clips, front_end, out)
    assert out.read_text() == "old"
    assert not list(tmp_path.glob(".table*"))


def test_batches_are_bounded(monkeypatch):
    """Sorted by length, at most so many seconds when padded; a clip that is longer alone."""
    monkeypatch.setattr(feature_table, "BATCH_S", 1.0)
    n_samples = [4_000, 0, 8_000, 40_000, 4_000, 8_000, 5_000]
    batches = list(feature_table._batches(n_samples))
    assert sorted(row for batch in batches for row in batch) == [0, 2, 3, 4, 5, 6]
    assert [3] in batches
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(n_samples[row] for row in batch) <= 16_000


def test_chunks_do_not_change_the_table(clips, tmp_path, monkeypatch):
    front_end = load_table_features("spectral")
    write_feature_table(clips * 8, front_end, tmp_path / "whole.csv")
    monkeypatch.setattr(feature_table, "CHUNK_S", 0.1)
    write_feature_table(clips * 8, front_end, tmp_path / "chunks.csv")
    names = front_end.features.names
    for whole, chunk in zip(read(tmp_path / "whole.csv")[1], read(tmp_path / "chunks.csv")[1], strict=True):
        assert whole["path"] == chunk["path"]
        if not whole["error"]:
            np.testing.assert_allclose(values_of(whole, names), values_of(chunk, names), rtol=1e-3, atol=1e-4)


def test_errors_say_what_to_do(clips, tmp_path):
    with pytest.raises(FeatureTableError, match=r"name it \.csv or \.parquet"):
        write_feature_table(clips, load_table_features("mfcc"), tmp_path / "table.xlsx")
    with pytest.raises(FeatureTableError, match="have no frames: each clip gives one vector"):
        load_table_features("prosody", frames=True)
    with pytest.raises(FeatureTableError, match="have no frames: each clip gives one vector"):
        load_table_features("prosody", statistics=["mean"])
    with pytest.raises(FeatureTableError, match="no statistic 'average'"):
        load_table_features("undertone-street", statistics=["average"])
    with pytest.raises(FeatureTableError, match="trained together with it"):
        load_table_features("dhavan-cnnlstm")
    with pytest.raises(RecipeError, match="no recipe named 'loud'"):
        load_table_features("loud")


def test_frames_of_functionals_are_their_parts():
    assert load_table_features("mfcc", frames=True).n_frames is None
    names = load_table_features("spectral", frames=True).features.names
    assert names == MFCC(20, 40, n_deltas=2).names + LogMel(24).names


# ---- the command ----


def test_command_on_clips(undertone, clips, tmp_path):
    out = tmp_path / "table.csv"
    result = undertone(clips[0].parent, "--features", "mfcc", "--statistics", "mean", "-o", out)
    assert result.exit_code == 1  # one of them is no sound
    assert "4 rows, 60 values each" in result.stdout  # 20 MFCC and their deltas, twice
    assert "1 of 4 could not be used; see column 'error'" in result.stderr
    assert len(read(out)[1]) == 4
    assert undertone(clips[0], "-o", out, "--features", "mfcc", "--json").exit_code == 0
    told = json.loads(undertone(*clips, "-o", out, "--features", "mfcc", "--json").stdout)
    assert (told["n_rows"], list(told["errors"])) == (4, [str(clips[1])])
    assert undertone(clips[0], "--features", "mfcc").stdout.startswith("path,corpus,speaker,emotion,mfcc_000_mean")


def test_command_on_a_corpus_knows_who_speaks_how(undertone, ravdess_root, tmp_path):
    out = tmp_path / "table.csv"
    result = undertone("--data", ravdess_root, "--corpus", "ravdess", "--features", "mfcc", "-o", out)
    assert result.exit_code == 0, result.output
    told = {row["path"]: (row["corpus"], row["speaker"], row["emotion"]) for row in read(out)[1]}
    assert told == {str(u.path): (u.corpus, u.speaker_id, u.emotion) for u in load(ravdess_root)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "where are the corpora?"),
        (["clip.wav", "--features", "loud"], "no recipe named 'loud'"),
        (["clip.wav", "-o", "table.txt"], "name it .csv or .parquet"),
    ],
)
def test_command_says_what_to_do(arguments, message, undertone):
    result = undertone(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_command_on_an_empty_folder(undertone, tmp_path):
    result = undertone(tmp_path, "-o", tmp_path / "table.csv")
    assert result.exit_code == 2
    assert "nothing to do" in result.stderr

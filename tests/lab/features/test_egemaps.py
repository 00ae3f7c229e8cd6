"""openSMILE's sets: its own numbers where nothing clips, no wrapped samples where something would."""

import sys

import numpy as np
import pytest

from undertone.lab.features import egemaps as module
from undertone.lab.features.egemaps import (
    N_COMPARE_2016,
    N_EGEMAPS,
    below_full_scale,
    compare_2016,
    compare_2016_names,
    egemaps,
    egemaps_names,
)

pytestmark = pytest.mark.lab


@pytest.fixture
def opensmile():
    return pytest.importorskip("opensmile")


def test_is_what_opensmile_gives(opensmile, make_speech):
    waveform = make_speech(1)
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    expected = smile.process_signal(waveform, 16_000)
    assert egemaps_names() == list(expected.columns)
    np.testing.assert_array_equal(egemaps(waveform), expected.to_numpy()[0])


def test_sizes_and_names(opensmile, make_speech):
    functionals = compare_2016(make_speech(1))
    assert functionals.shape == (len(compare_2016_names()),) == (N_COMPARE_2016,)
    assert functionals.dtype == np.float32
    assert len(set(egemaps_names())) == N_EGEMAPS == len(egemaps(make_speech(2)))


def test_full_scale_does_not_wrap(opensmile, make_tone):
    """A peak of 1.0 is -32768 to openSMILE: a click in each period, as loud as the tone."""
    full = make_tone(200, amplitude=1.0)
    full /= np.abs(full).max()
    assert full.max() == 1.0
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    wrapped, expected = (smile.process_signal(gain * full, 16_000).to_numpy()[0] for gain in (1.0, 0.999))
    loudness = egemaps_names().index("loudness_sma3_amean")
    assert wrapped[loudness] > 3 * expected[loudness]  # so it does, when asked directly
    np.testing.assert_allclose(egemaps(full)[loudness], expected[loudness], rtol=0.01)
    np.testing.assert_allclose(egemaps(full * 4)[loudness], expected[loudness], rtol=0.01)


@pytest.mark.parametrize("peak", [0.3, 32_767 / 32_768, 1.0, -1.0, 7.5])
def test_below_full_scale(peak):
    waveform = np.array([0.0, peak / 2, peak], np.float32)
    scaled = below_full_scale(waveform)
    as_int16 = (scaled * 32_768).astype(np.int16)
    assert np.array_equal(np.sign(as_int16), np.sign(waveform))
    np.testing.assert_allclose(scaled[1], scaled[2] / 2)
    if abs(peak) < 1:
        assert scaled is waveform
    else:
        assert abs(as_int16[2]) in (32_766, 32_767)  # float32 may end a step lower


@pytest.mark.parametrize("waveform", [np.zeros(0, np.float32), np.zeros((2, 100), np.float32), np.full(100, np.nan)])
def test_what_is_no_clip_is_refused(waveform):
    with pytest.raises(ValueError, match="expected finite samples of shape"):
        egemaps(waveform)


@pytest.mark.parametrize("name", ["egemaps", "compare-2016"])
def test_a_batch_is_its_clips_one_by_one(name, opensmile, make_speech):
    torch = pytest.importorskip("torch")
    from undertone.lab.zoo import build_vector_features, feature_section

    clips = [make_speech(1, 0.8), make_speech(2, 0.5)]
    batch = torch.full((2, len(clips[0])), np.nan)  # behind the shorter clip stands what must not be heard
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = torch.from_numpy(clip)
    features = build_vector_features(feature_section(name))
    vectors, n_valid = features(batch, torch.tensor([len(clip) for clip in clips]))
    alone = [{"egemaps": egemaps, "compare-2016": compare_2016}[name](clip) for clip in clips]
    np.testing.assert_array_equal(vectors[:, :, 0], np.array(alone))
    assert n_valid.tolist() == [1, 1] and vectors.shape == (2, features.n_features, 1)
    assert len(features.names) == features.n_features


@pytest.mark.filterwarnings("ignore:Segment too short")
def test_in_a_batch_a_clip_that_is_too_short_has_no_values(opensmile, make_speech):
    torch = pytest.importorskip("torch")
    batch = torch.from_numpy(make_speech(1, 0.5)).repeat(2, 1)
    vectors, _ = module.OpenSmile()(batch, torch.tensor([batch.shape[1], 400]))
    assert vectors[0].isfinite().all() and vectors[1].isnan().all()


def test_it_is_no_part_of_a_model_file(opensmile):
    pytest.importorskip("torch")
    from undertone.lab.export import ExportError, to_onnx

    with pytest.raises(ExportError, match="cannot be part of a model file"):
        to_onnx(module.OpenSmile())


def test_a_set_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="one of eGeMAPSv02, ComParE_2016; got 'IS09'"):
        module.OpenSmile("IS09")


@pytest.mark.filterwarnings("ignore:Segment too short")
def test_too_short_a_clip_is_refused(opensmile):
    with pytest.raises(ValueError, match=r"a clip of 0.025 s is too short for eGeMAPSv02"):
        egemaps(np.zeros(400, np.float32))


def test_missing_library_says_what_to_install(monkeypatch, make_tone):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    module._extractor.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'undertone\[egemaps\]'"):
        egemaps(make_tone())
    pytest.importorskip("torch")
    from undertone.lab.feature_table import FeatureTableError, load_table_features
    from undertone.lab.zoo import ZooError, build_vector_features, feature_section

    with pytest.raises(FeatureTableError, match=r"pip install 'undertone\[egemaps\]'"):
        load_table_features("egemaps")
    from undertone.lab.recipes import RecipeError, load_recipe, parse_recipe

    values = load_recipe("x4nth055-mlp").to_json() | {"features": {"kind": "opensmile"}}
    with pytest.raises(RecipeError, match=r"pip install 'undertone\[egemaps\]'"):
        parse_recipe(values)
    with pytest.raises(ZooError, match=r"pip install 'undertone\[egemaps\]'"):
        build_vector_features(feature_section("compare-2016"))

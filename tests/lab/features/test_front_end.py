"""The part of a clip that a system looks at, and the normalisation of what it sees there."""

# ruff: noqa: E402 - imports follow the check that torch is there
import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
librosa = pytest.importorskip("librosa")

from undertone.lab.features import Feature, FixedFrames, FrontEnd, Functionals, InputConfig, LogMel

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

SAMPLE_RATE = 16_000
DURATIONS_S = [3.4, 2.5, 0.65, 0.6, 0.3, 0.05, 1 / SAMPLE_RATE]  # around the offset and the end of the part below


class Samples(Feature):
    """The waveform itself as one row: shows which samples a front end looks at."""

    n_features, label = 1, "sample"

    def __init__(self, sample_rate=SAMPLE_RATE):
        super().__init__()
        self.frames_per_second = float(sample_rate)

    def forward(self, waveform, lengths):
        behind = torch.arange(waveform.shape[1]) >= lengths[:, None]
        return waveform.masked_fill(behind, 0.0)[:, None], lengths


def look(clips, **config):
    """Samples of each clip that a front end with this input looks at; they come in one batch, padded with NaN."""
    lengths = torch.tensor([len(clip) for clip in clips])
    batch = np.full((len(clips), int(lengths.max())), np.nan, np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    front_end = FrontEnd(Samples(), normalise="none", config=InputConfig(**config))
    samples, n_valid = front_end.extract(torch.from_numpy(batch), lengths)
    return [row[0, :n].numpy() for row, n in zip(samples, n_valid, strict=True)]


@pytest.fixture(scope="module")
def clips(make_speech):
    return [make_speech(seed, duration_s) for seed, duration_s in enumerate(DURATIONS_S)]


@pytest.mark.parametrize("part", [{}, {"duration_s": 2.5}, {"offset_s": 0.5}, {"offset_s": 0.6, "duration_s": 2.5}])
def test_part_is_what_librosa_loads(part, clips, tmp_path):
    """Of clips that end before the offset librosa has nothing; here their last 0.1 s stay, or all of a shorter one."""
    offset_s, duration_s = part.get("offset_s", 0.0), part.get("duration_s")
    for number, (clip, ours) in enumerate(zip(clips, look(clips, **part), strict=True)):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, clip, SAMPLE_RATE, subtype="FLOAT")
        theirs, _ = librosa.load(path, sr=None, offset=min(offset_s, len(clip) / SAMPLE_RATE), duration=duration_s)
        least = min(1_600, len(clip))
        if offset_s and len(theirs) < least:
            theirs = clip[-least:]
        assert np.array_equal(ours, theirs)


def test_part_at_another_rate_is_what_librosa_loads(make_tone, tmp_path):
    """Cut first, then resampled, as librosa does; a tone, because filters differ near the end of the band."""
    clip = make_tone(440.0, 3.4)
    soundfile.write(tmp_path / "tone.wav", clip, SAMPLE_RATE, subtype="FLOAT")
    theirs, _ = librosa.load(tmp_path / "tone.wav", sr=22_050, offset=0.6, duration=2.5)
    (ours,) = look([clip], sample_rate=22_050, offset_s=0.6, duration_s=2.5)
    assert len(ours) == len(theirs) == 55_125
    np.testing.assert_allclose(ours[1_000:-1_000], theirs[1_000:-1_000], atol=1e-4)


@pytest.mark.parametrize("part", [{"pad_s": 3.0}, {"pad_s": 3.0, "offset_s": 0.6, "duration_s": 2.5}, {"pad_s": 0.5}])
def test_padding_fills_up_with_zeros_that_count(part, clips):
    size = round(part["pad_s"] * SAMPLE_RATE)
    unpadded = look(clips, **{**part, "pad_s": 0.0})
    for ours, alone in zip(look(clips, **part), unpadded, strict=True):
        assert np.array_equal(ours, np.pad(alone, (0, size))[:size])


def test_padded_batch_is_one_by_one(clips):
    together = look(clips, sample_rate=22_050, offset_s=0.5, duration_s=3.0)
    for clip, ours in zip(clips, together, strict=True):
        (alone,) = look([clip], sample_rate=22_050, offset_s=0.5, duration_s=3.0)
        np.testing.assert_allclose(ours, alone, atol=1e-6)


# ---- normalisation ----


@pytest.fixture(scope="module")
def batch():
    lengths = [16_000, 9_000, 4_000]
    noise = 0.1 * np.random.default_rng(3).standard_normal((3, 16_000))
    return torch.from_numpy(noise.astype(np.float32)), torch.tensor(lengths)


@pytest.mark.parametrize("kind", ["vector", "image"])
def test_fitted_normalisation_is_a_standard_scaler(kind, batch):
    """Every position of its own, padding included, as scikit-learn does it; frames that no clip fills stay 0."""
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    features = FixedFrames([LogMel(8)], 120) if kind == "image" else Functionals([LogMel(8)], ["mean", "std"])
    front_end = FrontEnd(features, normalise="fitted")
    extracted, n_valid = front_end.extract(*batch)
    flat = extracted.flatten(1).double().numpy()
    scaler = preprocessing.StandardScaler().fit(flat)
    shape = front_end.mean.shape
    front_end.fit(torch.from_numpy(scaler.mean_).reshape(shape), torch.from_numpy(flat.std(axis=0)).reshape(shape))
    expected = scaler.transform(flat)
    np.testing.assert_allclose(front_end.standardise(extracted, n_valid).flatten(1), expected, atol=1e-3)
    assert torch.equal(front_end(*batch)[0], front_end.standardise(extracted, n_valid))


def test_fitted_values_are_kept_with_the_weights(batch):
    fitted, fresh = (FrontEnd(Functionals([LogMel(4)]), normalise="fitted") for _ in range(2))
    fitted.fit(torch.arange(4.0)[:, None], torch.tensor([[1.0], [2.0], [0.0], [4.0]]))
    fresh.load_state_dict(fitted.state_dict())
    assert fresh.std.flatten().tolist() == [1, 2, 1, 4]
    assert torch.equal(fitted(*batch)[0], fresh(*batch)[0])


def test_fitted_needs_a_fixed_size():
    with pytest.raises(ValueError, match="fixed number of frames"):
        FrontEnd(LogMel(8), normalise="fitted")


def test_none_leaves_the_features_and_divides_by_the_scale(batch):
    front_end = FrontEnd(LogMel(8), normalise="none", scale=4.0)
    features, n_valid = LogMel(8)(*batch)
    assert torch.equal(front_end(*batch)[0], features / 4)
    assert torch.equal(front_end(*batch)[1], n_valid)


@pytest.mark.parametrize(
    ("features", "n_frames", "frames_per_second"),
    [(LogMel(8), None, 100.0), (FixedFrames([LogMel(8)], 30), 30, None), (Functionals([LogMel(8)]), 1, None)],
)
def test_frames_are_those_of_the_features(features, n_frames, frames_per_second):
    front_end = FrontEnd(features)
    assert (front_end.n_features, front_end.n_frames, front_end.frames_per_second) == (8, n_frames, frames_per_second)


# ---- exported ----


def test_exported_graph_agrees_with_torch(export_features, rng):
    """A part of the clip, padded, at another rate: all of it inside the graph."""
    geometry = {"n_fft": 1024, "win_length": 1024, "hop_length": 512, "sample_rate": 22_050}
    part = InputConfig(sample_rate=22_050, offset_s=0.6, duration_s=2.5)
    padded = InputConfig(offset_s=0.5, pad_s=3.0)
    modules = {
        "part": FrontEnd(LogMel(16, **geometry), normalise="band", config=part),
        "padded": FrontEnd(FixedFrames([LogMel(16)], 301), normalise="fitted", config=padded),
    }
    run_graph = export_features(modules)
    for lengths in ([56_000], [50_000, 9_700, 4_000], [9_600, 1]):
        waveform = (0.1 * rng.standard_normal((len(lengths), max(lengths)))).astype(np.float32)
        exported = run_graph(waveform, lengths)
        for name, module in modules.items():
            features, n_valid = module(torch.from_numpy(waveform), torch.tensor(lengths))
            theirs, theirs_valid = exported[name]
            assert theirs_valid.tolist() == n_valid.tolist()
            assert theirs.shape == features.shape
            assert np.abs(theirs - features.numpy()).max() <= 1e-4 * features.abs().max(), name

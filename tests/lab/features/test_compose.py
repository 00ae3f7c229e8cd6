"""Features made of features: shared spectra, fixed sizes and statistics, against numpy, scipy and OpenCV."""

# ruff: noqa: E402 - imports follow the check that torch is there
import numpy as np
import pytest

torch = pytest.importorskip("torch")
cv2 = pytest.importorskip("cv2")
stats = pytest.importorskip("scipy.stats")

from undertone.lab.features import (
    MFCC,
    RMS,
    Excerpt,
    Feature,
    FixedFrames,
    Functionals,
    GroupBands,
    LogMel,
    Mel,
    PowerSpectrum,
    Ravel,
    Resize,
    Stack,
    ZeroCrossingRate,
    build_features,
    frame_mask,
)
from undertone.lab.features.compose import STATISTICS

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

LENGTHS = [14_400, 9_999, 4_801, 160, 159, 1]
LIBROSA = {"n_fft": 2048, "win_length": 2048, "hop_length": 512}
ALL_STATISTICS = [*STATISTICS, "p05", "p20", "p50", "p80", "p95", "p00", "p99"]


class Given(Feature):
    """Frames made beforehand, whatever the sound."""

    def __init__(self, rows, *, frames_per_second=100.0):
        super().__init__()
        longest = max(row.shape[1] for row in rows)
        padded = [np.pad(row, ((0, 0), (0, longest - row.shape[1]))) for row in rows]
        self.frames = torch.tensor(np.array(padded, np.float32))
        self.n_valid = torch.tensor([row.shape[1] for row in rows])
        self.n_features, self.frames_per_second, self.label = len(rows[0]), frames_per_second, "given"

    def forward(self, waveform, lengths):
        return self.frames, self.n_valid


class LastFrameMissing(Feature):
    """Frames that must fit into the clip whole: at its end, one or more fewer than centred ones."""

    n_features, label = 2, "short"
    frames_per_second = 100.0

    def forward(self, waveform, lengths):
        valid = waveform.masked_fill(frame_mask(lengths, waveform.shape[1]) == 0, 0.0)
        level = torch.nn.functional.avg_pool1d(valid[:, None].abs(), 160, 160, ceil_mode=True)[:, 0]
        n_valid = (lengths + 159) // 160
        return torch.stack([level, 2 * level], 1) * frame_mask(n_valid, level.shape[1])[:, None], n_valid


def run(feature):
    """Output of a feature whose frames are given."""
    features, n_valid = feature(torch.zeros(1, 1), torch.tensor([1]))
    return features.numpy(), n_valid.tolist()


def sections():
    """One of each kind, on the field's geometry: name -> section."""
    mel, mfcc = {"kind": "mel", "n_mels": 16}, {"kind": "mfcc", "n_mfcc": 6, "n_mels": 32}
    image = {"kind": "stack", "parts": [{"kind": "group-bands", "size": 4, "n_groups": 3, "parts": [mel]}, mfcc]}
    zcr, rms = ({"kind": kind, "frame_length": 400, "hop_length": 160} for kind in ("zcr", "rms"))
    return {
        "stack": image,
        "resize": {"kind": "resize", "n_frames": 50, "parts": [image]},
        "fixed-frames": {"kind": "fixed-frames", "n_frames": 33, "pad_value": -3.0, "parts": [mfcc]},
        "ravel": {"kind": "ravel", "n_frames": 20, "parts": [zcr, rms, mfcc]},
        "ravel, closed up": {"kind": "ravel", "n_frames": 60, "close_up": True, "parts": [zcr, rms, mfcc]},
        "functionals": {"kind": "functionals", "statistics": ALL_STATISTICS, "parts": [mel, mfcc, rms]},
        "excerpt": {
            "kind": "excerpt",
            "offset_s": 0.3,
            "duration_s": 0.4,
            "parts": [{"kind": "functionals", "parts": [mfcc]}],
        },
        "of a resized image": {"kind": "functionals", "parts": [{"kind": "resize", "n_frames": 9, "parts": [image]}]},
    }


@pytest.fixture(scope="module")
def modules():
    return {name: build_features(section) for name, section in sections().items()}


@pytest.fixture(scope="module")
def batch():
    noise = 0.1 * np.random.default_rng(3).standard_normal((len(LENGTHS), max(LENGTHS)))
    return torch.from_numpy(noise.astype(np.float32)), torch.tensor(LENGTHS)


# ---- what holds for all ----


@pytest.mark.parametrize("name", sections())
def test_padded_batch_is_one_by_one(name, modules, batch):
    """Behind a row's length stands noise, or worse: it must not matter."""
    module, (waveform, lengths) = modules[name], batch
    features, n_valid = module(waveform, lengths)
    behind = torch.arange(waveform.shape[1]) >= lengths[:, None]
    assert torch.equal(features, module(waveform.masked_fill(behind, np.nan), lengths)[0])
    for row, length in enumerate(LENGTHS):
        alone, n_alone = module(waveform[row : row + 1, :length], lengths[row : row + 1])
        assert n_alone == n_valid[row] == alone.shape[2]
        np.testing.assert_allclose(features[row, :, : n_valid[row]], alone[0], rtol=1e-3, atol=1e-4 * alone.abs().max())
        assert not features[row, :, n_valid[row] :].any()


@pytest.mark.parametrize("name", sections())
def test_sizes_are_those_that_it_names(name, modules, batch):
    module = modules[name]
    features, _ = module(*batch)
    assert features.shape[1] == module.n_features == len(module.names) == len(set(module.names))
    assert module.n_frames in (None, features.shape[2])
    assert (module.frames_per_second is None) == (module.n_frames is not None)


@pytest.mark.parametrize("name", sections())
def test_gradients_are_finite_on_sound_and_on_silence(name, modules, batch):
    for waveform in (batch[0], torch.zeros_like(batch[0])):
        waveform = waveform.clone().requires_grad_()
        modules[name](waveform, batch[1])[0].square().sum().backward()
        assert waveform.grad.isfinite().all()
        assert not waveform.grad[1, LENGTHS[1] :].any()
    waveform = batch[0].clone().requires_grad_()
    modules[name](waveform, batch[1])[0].square().sum().backward()
    assert waveform.grad[0].any()


def test_exported_graph_agrees_with_torch(export_features, modules, rng):
    modules = {name: modules[name] for name in ("resize", "fixed-frames", "ravel", "ravel, closed up")}
    modules["uneven"] = Stack([LogMel(8), LastFrameMissing()])
    modules["functionals"] = Functionals([Mel(16)], [*STATISTICS, "p05"])
    run_graph = export_features(modules)
    for lengths in ([12_345], [24_000, 100, 7_777], [160_000], [320, 160]):
        waveform = (0.1 * rng.standard_normal((len(lengths), max(lengths)))).astype(np.float32)
        exported = run_graph(waveform, lengths)
        for name, module in modules.items():
            features, n_valid = module(torch.from_numpy(waveform), torch.tensor(lengths))
            theirs, theirs_valid = exported[name]
            assert theirs_valid.tolist() == n_valid.tolist()
            assert theirs.shape == features.shape
            assert np.abs(theirs - features.numpy()).max() <= 1e-4 * features.abs().max(), name


# ---- stack and groups ----


def test_stack_is_its_parts_below_each_other(batch):
    parts = [Mel(20), MFCC(13, n_deltas=2, only_delta=True), GroupBands([Mel(128)], 4, 31)]
    stacked, n_valid = Stack(parts)(*batch)
    alone = [part(*batch) for part in parts]
    np.testing.assert_allclose(stacked, torch.cat([features for features, _ in alone], dim=1), rtol=1e-5, atol=1e-5)
    assert all(torch.equal(n_valid, other) for _, other in alone)
    assert Stack(parts).names == [name for part in parts for name in part.names]


def test_stack_computes_one_spectrum_per_geometry(batch, monkeypatch):
    calls = []
    forward = PowerSpectrum.forward
    monkeypatch.setattr(PowerSpectrum, "forward", lambda self, *a: calls.append(self.n_fft) or forward(self, *a))
    inner = Stack([MFCC(13, **LIBROSA), GroupBands([Mel(128, **LIBROSA)], 4, 31)])
    Functionals([Mel(40), Resize([inner], 30), LogMel(**LIBROSA), LogMel(30)])(*batch)
    assert sorted(calls) == [512, 2048]


def test_stack_is_cut_to_its_shortest_part(batch):
    waveform, lengths = batch[0][:3], torch.tensor([14_400, 9_920, 4_801])  # 91, 63, 31 frames; 90, 62, 31
    stacked, n_valid = Stack([LogMel(8), LastFrameMissing()])(waveform, lengths)
    assert stacked.shape == (3, 10, 90)
    assert n_valid.tolist() == [90, 62, 31]
    centred = LogMel(8)(waveform, lengths)[0][:, :, :90]
    np.testing.assert_allclose(stacked[:, :8], centred * frame_mask(n_valid, 90)[:, None], atol=1e-4)  # dB
    assert not stacked[1, :, 62:].any()


def test_names_that_come_up_again_get_a_number():
    assert Stack([Mel(2), Mel(2, 1024, 800)]).names == ["mel_000", "mel_001", "mel_000_again_2", "mel_001_again_2"]


def test_groups_are_means_of_adjacent_rows(rng):
    frames = rng.standard_normal((10, 7)).astype(np.float32)
    grouped, n_valid = run(GroupBands([Given([frames])], 4, 2))
    np.testing.assert_allclose(grouped[0], [frames[:4].mean(0), frames[4:8].mean(0)], atol=1e-6)
    assert n_valid == [7]
    assert GroupBands([Mel(10)], 3).names == ["mel_000_to_002", "mel_003_to_005", "mel_006_to_008"]


# ---- fixed sizes ----


def test_an_excerpt_hears_its_part_of_the_clip_alone(batch):
    waveform, lengths = batch
    mean = {"kind": "functionals", "statistics": ["mean"], "parts": [{"kind": "mfcc", "n_mfcc": 6, "n_mels": 32}]}
    module = build_features(
        {"kind": "stack", "parts": [{"kind": "excerpt", "offset_s": 0.2, "duration_s": 0.5, "parts": [mean]}, mean]}
    )
    both, _ = module(waveform, lengths)
    whole = build_features(mean)
    torch.testing.assert_close(both[:, 6:], whole(waveform, lengths)[0])
    for row, n in enumerate(lengths.tolist()):
        start = min(3200, max(0, n - 1600))
        cut = waveform[row, start : min(n, start + 8000)][None]
        expected, _ = whole(cut, torch.tensor([cut.shape[1]]))
        torch.testing.assert_close(both[row, :6], expected[0], rtol=1e-4, atol=1e-3)
    assert module.names[:7] == [*whole.names, f"{whole.names[0]}_again_2"]


@pytest.mark.parametrize("times", [{"offset_s": -0.1}, {"duration_s": -1.0}, {"offset_s": float("nan")}])
def test_an_excerpt_does_not_begin_before_the_clip(times):
    with pytest.raises(ValueError, match="must not be negative"):
        Excerpt([Mel(8)], **times)


@pytest.mark.parametrize("n_frames", [1, 7, 160])
def test_resize_is_opencvs(n_frames, rng):
    """Clips of all lengths in one batch; the rows of an image keep their height."""
    images = [rng.standard_normal((9, n)).astype(np.float32) for n in (1, 2, 3, 30, 97, 159, 160, 161, 320, 499, 3001)]
    resized, n_valid = run(Resize([Given(images)], n_frames))
    assert n_valid == [n_frames] * len(images)
    for ours, image in zip(resized, images, strict=True):
        theirs = cv2.resize(image, (n_frames, 9), interpolation=cv2.INTER_LINEAR).reshape(9, n_frames)
        assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(image).max()


def test_resize_positions_are_exact_in_long_clips():
    """Interpolation between the half-pixel centres, written as numpy's own."""
    frames = np.arange(100_000.0)[None] / 1_000
    ours, _ = run(Resize([Given([frames])], 160))
    centres = (np.arange(160) + 0.5) * 100_000 / 160 - 0.5
    np.testing.assert_allclose(ours[0, 0], np.interp(centres, np.arange(100_000), frames[0]), rtol=1e-6)


def test_fixed_frames_cut_or_fill(rng):
    frames = [rng.standard_normal((2, 5)), rng.standard_normal((2, 3))]
    fixed, n_valid = run(FixedFrames([Given(frames)], 4, pad_value=-7.0))
    np.testing.assert_allclose(fixed[0], frames[0][:, :4], rtol=1e-6)
    np.testing.assert_allclose(fixed[1], np.pad(frames[1], ((0, 0), (0, 1)), constant_values=-7), rtol=1e-6)
    assert n_valid == [4, 4]


def test_ravel_is_frame_by_frame_and_part_by_part(rng):
    one, three = rng.standard_normal((1, 5)), rng.standard_normal((3, 5))
    raveled, n_valid = run(Ravel([Given([one]), Given([three])], 6))
    expected = np.concatenate([np.pad(one[0], (0, 1)), np.pad(three, ((0, 0), (0, 1))).T.ravel()])
    np.testing.assert_allclose(raveled[0, :, 0], expected, rtol=1e-6)
    assert (raveled.shape, n_valid) == ((1, 24, 1), [1])
    names = Ravel([ZeroCrossingRate(400, 160), MFCC(2)], 2).names
    assert names == ["zcr_at_000", "zcr_at_001", "mfcc_000_at_000", "mfcc_001_at_000", "mfcc_000_at_001",
                     "mfcc_001_at_001"]  # fmt: skip


def test_a_raveled_row_closes_up_as_a_filled_table_does(rng):
    """Rows of different length, joined before they are filled up: zeros stand behind the last part only."""
    ones = [rng.standard_normal((1, n)) for n in (7, 6, 4, 1)]
    threes = [rng.standard_normal((3, n)) for n in (7, 6, 4, 1)]
    raveled, _ = run(Ravel([Given(ones), Given(threes)], 6, close_up=True))
    for ours, one, three in zip(raveled[:, :, 0], ones, threes, strict=True):
        joined = np.concatenate([one[0, :6], three[:, :6].T.ravel()])
        np.testing.assert_allclose(ours, np.pad(joined, (0, 24 - len(joined))), rtol=1e-6)


# ---- functionals ----


def expected_statistic(name, row):
    """From numpy and scipy, in double precision."""
    frame = np.arange(len(row))
    if name[1:].isdigit():
        return np.percentile(row, int(name[1:]))
    return {
        "mean": row.mean,
        "std": row.std,
        "min": row.min,
        "max": row.max,
        "range": lambda: np.ptp(row),
        "skewness": lambda: stats.skew(row),
        "kurtosis": lambda: stats.kurtosis(row),
        "iqr": lambda: stats.iqr(row),
        "slope": lambda: 100 * np.polyfit(frame, row, 1)[0],
        "mean_abs_delta": lambda: np.abs(np.diff(row)).mean(),
    }[name]()


@pytest.mark.parametrize("name", ALL_STATISTICS)
@pytest.mark.parametrize("scale", [1e-18, 1.0, 1e6])
def test_functionals_are_numpys_and_scipys(name, scale, rng):
    clips = [scale * (rng.gamma(2.0, size=(3, n)) + rng.normal(size=(3, 1))) for n in (2, 3, 40, 101, 400)]
    functionals, n_valid = run(Functionals([Given(clips)], [name]))
    expected = np.array([[expected_statistic(name, row) for row in clip] for clip in clips])
    largest = 1.0 if name in ("skewness", "kurtosis") else scale
    np.testing.assert_allclose(functionals[:, :, 0], expected, rtol=1e-4, atol=1e-5 * largest)
    assert n_valid == [1] * len(clips)


def test_functionals_of_what_does_not_vary():
    """Constant rows, and single frames: nothing is divided by nothing."""
    clips = [np.full((1, 50), 0.1), np.zeros((1, 50)), np.full((1, 1), -7.0)]
    values = run(Functionals([Given(clips)], ALL_STATISTICS))[0][:, :, 0]
    for name, column in zip(ALL_STATISTICS, values.T, strict=True):
        level = name in ("mean", "min", "max") or name[1:].isdigit()
        np.testing.assert_allclose(column, [0.1, 0, -7] if level else 0, atol=1e-6, err_msg=name)


def test_statistics_of_a_row_stand_side_by_side(rng):
    rows = rng.standard_normal((2, 30))
    feature = Functionals([Given([rows]), Given([rows[:1]], frames_per_second=50.0)], ["mean", "slope"])
    assert feature.names == ["given_000_mean", "given_000_slope", "given_001_mean", "given_001_slope", "given_mean",
                             "given_slope"]  # fmt: skip
    values = run(feature)[0][0, :, 0]
    np.testing.assert_allclose(values[0::2], [*rows.mean(1), rows[0].mean()], rtol=1e-4, atol=1e-6)
    assert values[5] == pytest.approx(values[1] / 2, rel=1e-5)  # per second, at half the frames per second


# ---- the published systems' own ----


def test_sizes_of_the_published_systems():
    mel, mfcc = {"kind": "mel", "n_mels": 128}, {"kind": "mfcc", "n_mfcc": 20, **LIBROSA}
    zcr, rms = {"kind": "zcr"}, {"kind": "rms"}
    for n_mfcc, n_values in ((20, 2376), (13, 1620)):
        section = {"kind": "ravel", "n_frames": 108, "parts": [zcr, rms, {**mfcc, "n_mfcc": n_mfcc}]}
        assert build_features(section, sample_rate=22_050).n_features == n_values
    groups = {"kind": "group-bands", "size": 4, "n_groups": 31, "parts": [mel]}
    deltas = {"kind": "mfcc", "n_mfcc": 50, "n_deltas": 2, "only_delta": True}
    image = build_features({"kind": "resize", "n_frames": 160, "parts": [{"kind": "stack", "parts": [groups, deltas]}]})
    assert (image.n_features, image.n_frames) == (81, 160)


# ---- errors ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stack([]), "at least 1 part"),
        (lambda: Stack([Mel(), RMS()]), "give them one hop_length.*mel 100 a second, rms 31.25 a second"),
        (lambda: Stack([Mel(), Resize([Mel()], 5)]), "need the same frames"),
        (lambda: Resize([Mel(), Mel()], 5), "takes 1 part, got 2"),
        (lambda: Resize([Mel()], 0), "n_frames must be at least 1"),
        (lambda: GroupBands([Mel(8)], 4, 3), "3 groups of 4 rows do not fit into the 8 of mel"),
        (lambda: GroupBands([Mel(8)], 0), "do not fit"),
        (lambda: Functionals([Mel()], ["average"]), "no statistic 'average'; there are: mean, std"),
        (lambda: Functionals([Mel()], ["mean", "mean"]), "each once"),
        (lambda: Functionals([Mel()], []), "must be named"),
    ],
)
def test_errors_say_what_is_wrong(make, message):
    with pytest.raises(ValueError, match=message):
        make()

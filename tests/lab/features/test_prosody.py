"""Pitch and voice quality against Praat, the functionals against numpy, and what every feature module promises."""

# ruff: noqa: E402 - imports follow the check that torch is there
import io
import logging
import sys

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

from undertone.audio import load_waveform
from undertone.lab.corpora import load
from undertone.lab.features import (
    Loudness,
    Pitch,
    Prosody,
    ProsodyFunctionals,
    SpectralBalance,
    Voice,
    build_features,
    formants,
)
from undertone.lab.features.prosody import _best_path
from undertone.lab.features.prosody_functionals import _count_peaks, _functionals, _stretches

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

SAMPLE_RATE = 16_000
KINDS = ["pitch", "voice", "loudness", "prosody", "spectral-balance", "prosody-functionals"]
LENGTHS = [14_400, 9_999, 4_801, 160, 1]
STATISTICS = ("mean", "std", "p05", "p20", "p50", "p80", "p95", "range", "rise_mean", "rise_std", "fall_mean",
              "fall_std", "trend")  # fmt: skip


def run(module, waveform):
    """Features of one clip, (F, T)."""
    features, n_valid = module(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    assert n_valid.tolist() == [features.shape[2]]
    return features[0].numpy()


def sing(f0_hz, *, sample_rate=SAMPLE_RATE, noise=0.0):
    """Voice of twelve falling overtones whose pitch at each sample is f0_hz."""
    phase = 2 * np.pi * np.cumsum(f0_hz) / sample_rate
    voice = sum(np.sin(number * phase) / number * (number * f0_hz < sample_rate / 2.5) for number in range(1, 13))
    noise = noise * np.random.default_rng(0).standard_normal(len(f0_hz))
    return (0.1 * (voice + noise)).astype(np.float32)


def pulses(jitter, shimmer, *, f0_hz=150.0, n_cycles=250):
    """Decaying resonances whose distances and heights are drawn around their means, each cycle of its own."""
    rng = np.random.default_rng(0)
    times_s = np.cumsum((1 + jitter * rng.standard_normal(n_cycles)) / f0_hz)
    waveform = np.zeros(round((times_s[-1] + 0.1) * SAMPLE_RATE))
    for time_s, height in zip(times_s, 1 + shimmer * rng.standard_normal(n_cycles), strict=True):
        first = int(time_s * SAMPLE_RATE) + 1
        since_s = np.arange(first, first + 500) / SAMPLE_RATE - time_s
        ringing = sum(
            np.exp(-since_s * decay) * np.sin(2 * np.pi * hz * since_s) for hz, decay in ((600, 300), (1200, 400))
        )
        waveform[first : first + 500] += 0.2 * height * ringing
    return waveform.astype(np.float32)


# ---------------------------------------------------------------------------------------------- pitch


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 22_050, 44_100])
@pytest.mark.parametrize("range_hz", [(70, 140), (140, 70), (150, 350), (600, 250)], ids=str)
def test_pitch_of_a_glide(range_hz, sample_rate):
    f0_hz = np.geomspace(*range_hz, round(1.5 * sample_rate))
    module = Pitch(hop_length=sample_rate // 100, sample_rate=sample_rate)
    found_hz, voicing = run(module, sing(f0_hz, sample_rate=sample_rate))
    inner = slice(5, -5)  # the outermost frames reach over the ends of the voice
    true_hz = f0_hz[np.minimum(np.arange(len(found_hz)) * module.power.hop_length, len(f0_hz) - 1)]
    assert voicing[inner].all()
    np.testing.assert_allclose(found_hz[inner], true_hz[inner], rtol=0.03)
    assert np.median(np.abs(found_hz / true_hz - 1)[inner]) < 0.003


@pytest.mark.parametrize("f0_hz", [63, 82, 123, 247, 411, 640])
def test_pitch_of_a_pure_tone_and_of_a_noisy_voice(f0_hz, make_tone):
    tone = run(Pitch(), make_tone(f0_hz))[0, 5:-5]
    np.testing.assert_allclose(tone, f0_hz, rtol=0.01)
    found_hz, voicing = run(Pitch(), sing(np.full(16_000, float(f0_hz)), noise=0.2))[:, 5:-5]
    assert voicing.mean() > 0.95
    assert np.mean(np.abs(found_hz[voicing > 0] / f0_hz - 1) < 0.05) > 0.98


def test_noise_and_silence_are_unvoiced(rng):
    noise = (0.1 * rng.standard_normal(48_000)).astype(np.float32)
    assert run(Pitch(), noise)[1].mean() < 0.05
    assert not run(Prosody(), np.zeros(16_000, np.float32))[:5].any()


def test_voicing_begins_and_ends_with_the_voice():
    waveform = np.concatenate([np.zeros(8_000), sing(np.full(8_000, 200.0)), np.zeros(8_000)]).astype(np.float32)
    waveform += 1e-4 * np.random.default_rng(0).standard_normal(len(waveform)).astype(np.float32)
    voicing = run(Pitch(), waveform)[1]
    begin, end = np.flatnonzero(np.diff(voicing))
    assert abs(begin - 50) <= 3 and abs(end - 100) <= 3


def viterbi(own, octave, jump_cost, voicing_cost):
    """Best path of one clip, frame after frame: what ``_best_path`` gives with a context as long as the clip."""
    n_states, n_frames = own.shape
    best, back = own[:, 0], []
    for frame in range(1, n_frames):
        cost = np.zeros((n_states, n_states))
        for source in range(n_states):
            for target in range(n_states):
                if source < n_states - 1 and target < n_states - 1:
                    cost[source, target] = jump_cost * abs(octave[source, frame - 1] - octave[target, frame])
                elif source != target:
                    cost[source, target] = voicing_cost
        back.append((best[:, None] - cost).argmax(axis=0))
        best = (best[:, None] - cost).max(axis=0) + own[:, frame]
    path = [int(best.argmax())]
    for pointers in reversed(back):
        path.append(int(pointers[path[-1]]))
    return path[::-1]


def test_best_path_is_viterbi_where_the_context_reaches_everywhere(rng):
    from undertone.lab.features.prosody import JUMP_COST, VOICING_COST

    for _ in range(20):
        strength, octave, unvoiced = rng.random((4, 15)), rng.random((4, 15)) * 3, 0.2 + 0.5 * rng.random((1, 15))
        tensors = [torch.tensor(values)[None] for values in (strength, unvoiced, octave, np.ones((1, 15)))]
        path = _best_path(*tensors, n_context=15)[0, 0].tolist()
        assert path == viterbi(np.concatenate([strength, unvoiced]), octave, JUMP_COST, VOICING_COST)


@pytest.fixture(scope="module")
def praat_track():
    """Function (waveform) -> Praat's pitch in Hz at our frames, 0 where unvoiced."""
    parselmouth = pytest.importorskip("parselmouth")

    def track(waveform):
        sound = parselmouth.Sound(waveform.astype(np.float64), SAMPLE_RATE)
        pitch = sound.to_pitch_ac(time_step=0.01, pitch_floor=60, pitch_ceiling=650)
        times_s = np.arange(1 + len(waveform) // 160) * 0.01
        return np.nan_to_num([pitch.get_value_at_time(time_s) for time_s in times_s])

    return track


@pytest.fixture(scope="module")
def praat_voice():
    """Function (waveform) -> Praat's local jitter, local shimmer and mean harmonicity in dB."""
    call = pytest.importorskip("parselmouth.praat").call
    from parselmouth import Sound

    def measure(waveform):
        sound = Sound(waveform.astype(np.float64), SAMPLE_RATE)
        points = call(sound, "To PointProcess (periodic, cc)", 60, 650)
        harmonicity = call(sound, "To Harmonicity (cc)", 0.01, 75, 0.1, 1.0).values
        return (
            call(points, "Get jitter (local)", 0, 0, 0.0001, 0.02, 1.3),
            call([sound, points], "Get shimmer (local)", 0, 0, 0.0001, 0.02, 1.3, 1.6),
            harmonicity[harmonicity > -200].mean(),
        )

    return measure


@pytest.fixture(scope="module")
def real_clips(corpora_root):
    """Twenty clips of each of four corpora."""
    rng = np.random.default_rng(0)
    clips = []
    for corpus in ("ravdess", "crema-d", "tess", "savee"):
        utterances = load(corpora_root, [corpus])
        clips += [load_waveform(utterances[row].path) for row in rng.choice(len(utterances), 20, replace=False)]
    return clips


@pytest.mark.corpus
def test_pitch_agrees_with_praat_on_real_clips(real_clips, praat_track):
    """Shares over all frames; the docstring of ``Pitch`` has the round figures."""
    module = Pitch()
    ours = np.concatenate([run(module, clip)[0] for clip in real_clips])
    theirs = np.concatenate([praat_track(clip) for clip in real_clips])
    both = (ours > 0) & (theirs > 0)
    error = np.abs(ours[both] / theirs[both] - 1)
    assert np.mean((ours > 0) == (theirs > 0)) > 0.96
    assert np.mean(error < 0.05) > 0.975
    assert np.mean(error > 0.2) < 0.015


@pytest.mark.corpus
def test_voice_quality_follows_praat_on_real_clips(real_clips, praat_voice):
    theirs = np.array([praat_voice(clip) for clip in real_clips])
    module = Prosody()
    ours = []
    for clip in real_clips:
        _, voicing, *quality, _ = run(module, clip)
        ours.append([row[voicing > 0].mean() for row in quality])
    ours, known = np.array(ours), np.isfinite(theirs).all(axis=1)
    assert known.mean() > 0.95
    for row, least in enumerate((0.92, 0.84, 0.94)):  # jitter, shimmer, HNR
        assert np.corrcoef(ours[known, row], theirs[known, row])[0, 1] > least
    assert np.abs(np.mean(ours[known] / theirs[known], axis=0) - 1).max() < 0.35  # and lie near them


# ---------------------------------------------------------------------------------------------- voice quality


@pytest.mark.parametrize("f0_hz", [95.0, 150.0, 260.0])
def test_jitter_follows_the_jitter_put_in(f0_hz, praat_voice):
    drawn = [0.0, 0.005, 0.01, 0.02, 0.04]
    waveforms = [pulses(jitter, 0.0, f0_hz=f0_hz) for jitter in drawn]
    found = [run(Voice(), waveform)[0].mean() for waveform in waveforms]
    assert found[0] < 0.002
    assert np.all(np.diff(found) > 0.002)
    theirs = np.array([praat_voice(waveform)[0] for waveform in waveforms])
    np.testing.assert_allclose(found[1:4], theirs[1:4], rtol=0.35, atol=0.001)


@pytest.mark.parametrize("f0_hz", [95.0, 150.0, 260.0])
def test_shimmer_follows_the_shimmer_put_in(f0_hz, praat_voice):
    drawn = [0.0, 0.03, 0.06, 0.12, 0.2]
    waveforms = [pulses(0.0, shimmer, f0_hz=f0_hz) for shimmer in drawn]
    found = [run(Voice(), waveform)[1].mean() for waveform in waveforms]
    assert found[0] < 0.03
    assert np.all(np.diff(found) > 0.005)
    theirs = np.array([praat_voice(waveform)[1] for waveform in waveforms])
    np.testing.assert_allclose(found[2:], theirs[2:], rtol=0.35)


@pytest.mark.parametrize("hnr_db", [5, 10, 20])
def test_hnr_is_the_harmonics_over_the_noise_put_in(hnr_db):
    voice = sing(np.full(32_000, 125.0))
    noise = np.random.default_rng(0).standard_normal(32_000)
    noise *= np.sqrt(np.mean(voice**2) / np.mean(noise**2)) * 10 ** (-hnr_db / 20)
    found = run(Voice(), (voice + noise).astype(np.float32))[2, 5:-5]
    assert abs(np.median(found) - hnr_db) < 1.0


def test_formants_of_a_vowel():
    pytest.importorskip("parselmouth")
    rng = np.random.default_rng(0)
    source = np.zeros(16_000)
    source[::133] = 1.0
    voice = source + 1e-3 * rng.standard_normal(16_000)
    for hz, width_hz in ((700, 80), (1200, 100), (2600, 150), (3500, 200), (4500, 250)):  # open
        radius, angle = np.exp(-np.pi * width_hz / SAMPLE_RATE), 2 * np.pi * hz / SAMPLE_RATE
        out = np.zeros_like(voice)
        for n in range(len(voice)):
            out[n] = voice[n] + 2 * radius * np.cos(angle) * out[n - 1] - radius**2 * out[n - 2]
        voice = out
    found_hz = formants((0.5 * voice / np.abs(voice).max()).astype(np.float32))
    assert found_hz.shape == (3, 101)
    np.testing.assert_allclose(np.median(found_hz[:, 10:-10], axis=1), [700, 1200, 2600], rtol=0.1)


def test_formants_without_praat_say_what_to_install(monkeypatch, make_tone):
    monkeypatch.setitem(sys.modules, "parselmouth", None)
    with pytest.raises(ImportError, match=r"pip install 'undertone\[praat\]'"):
        formants(make_tone())


# ---------------------------------------------------------------------------------------------- loudness and spectrum


def test_ten_decibels_more_are_twice_as_loud(make_speech):
    quiet, loud = (run(Loudness(), gain * make_speech(1)) for gain in (0.1, 0.1 * 10**0.5))
    np.testing.assert_allclose(loud.mean() / quiet.mean(), 2.0, rtol=0.02)


def test_balance_of_known_spectra(rng, make_tone):
    rows = dict(
        zip(
            SpectralBalance().names,
            run(SpectralBalance(), make_tone(500) + make_tone(3_000, amplitude=0.05)),
            strict=True,
        )
    )
    assert abs(np.median(rows["alpha_ratio_db"]) - 20) < 0.3
    assert abs(np.median(rows["hammarberg_db"]) - 20) < 0.3
    noise = rng.standard_normal(160_000)
    frequency_khz = np.fft.rfftfreq(len(noise), 1 / 16)
    sloped = np.fft.irfft(np.fft.rfft(noise) * 10 ** (-12 * frequency_khz / 20))  # 12 dB per kHz
    rows = dict(zip(SpectralBalance().names, run(SpectralBalance(), (0.1 * sloped).astype(np.float32)), strict=True))
    assert abs(rows["slope_500_1500"].mean() + 12) < 1
    steady = run(SpectralBalance(), make_tone(1_000))[4, 5:-5]  # whole periods to a hop: no change
    assert steady.max() < 1e-3 < rows["flux"][1:].min()


# ---------------------------------------------------------------------------------------------- functionals


def expected_functionals(values, hop_s):
    """Of one contour without gaps, in numpy."""
    step = np.diff(values) / hop_s
    percentiles = np.percentile(values, [5, 20, 50, 80, 95])
    parts = [(part.mean(), part.std()) for part in (step[step > 0], step[step < 0])]
    trend = np.polyfit(np.arange(len(values)) * hop_s, values, 1)[0]
    spread = percentiles[3] - percentiles[1]
    return [values.mean(), values.std(), *percentiles, spread, *parts[0], *parts[1], trend]


def test_functionals_are_numpys(rng):
    values = rng.standard_normal((3, 2, 50)).astype(np.float32)
    starts, ends = [0, 7, 20], [50, 30, 43]
    weight = np.zeros((3, 50), np.float32)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        weight[row, start:end] = 1
    found = _functionals(torch.tensor(values), torch.tensor(weight), STATISTICS, hop_s=0.01).unflatten(1, (2, -1))
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        for contour in range(2):
            expected = expected_functionals(values[row, contour, start:end].astype(np.float64), 0.01)
            np.testing.assert_allclose(found[row, contour], expected, rtol=1e-4, atol=1e-4)


def test_functionals_leave_gaps_out():
    values, weight = torch.tensor([[[1.0, 2, 99, 5, 3]]]), torch.tensor([[1.0, 1, 0, 1, 1]])
    names = ("mean", "p50", "rise_mean", "fall_mean")
    found = _functionals(values, weight, names, hop_s=1.0)
    assert found.tolist() == [[2.75, 2.5, 1.0, -2.0]]  # no step crosses the gap
    assert not _functionals(values, torch.zeros(1, 5), STATISTICS, hop_s=1.0).any()


def test_stretches_and_peaks():
    inside = torch.tensor([[1.0, 1, 0, 0, 1, 1, 1, 1, 0, 0], [0] * 10])
    per_s, mean_s, std_s = _stretches(inside, torch.tensor([1.0, 1.0]), hop_s=0.1)
    np.testing.assert_allclose(per_s, [2, 0])
    np.testing.assert_allclose(mean_s, [0.3, 0], rtol=1e-5)
    np.testing.assert_allclose(std_s, [0.1, 0], rtol=1e-5)
    contour = torch.tensor([[0.0, 0, 9, 0, 0, 0, 1, 0, 0, 9, 9, 0]])  # the one in the middle is below the mean
    assert _count_peaks(contour, torch.ones(1, 12)).tolist() == [2]


def test_functionals_tell_voices_apart():
    module = ProsodyFunctionals()
    calm = run(module, sing(np.full(32_000, 110.0)))[:, 0]
    lively = run(module, 3 * sing(220 * (1 + 0.3 * np.sin(np.arange(32_000) / 2_000))))[:, 0]
    calm, lively = (dict(zip(module.names, values, strict=True)) for values in (calm, lively))
    assert abs(calm["pitch_st_voiced_p50"] - 24) < 0.1  # two octaves above 27.5 Hz
    assert calm["pitch_st_voiced_range"] < 0.1 < 3 < lively["pitch_st_voiced_range"]
    assert lively["loudness_all_mean"] > 1.5 * calm["loudness_all_mean"]
    assert lively["pitch_st_voiced_rise_mean"] > 10 > calm["pitch_st_voiced_rise_mean"]


# ---------------------------------------------------------------------------------------------- promises of each module


@pytest.fixture(scope="module")
def batch(make_speech):
    rows = [np.resize(make_speech(seed, 1.0), max(LENGTHS)) for seed in range(len(LENGTHS))]
    rng = np.random.default_rng(0)
    waveform = np.stack(rows) + 0.01 * rng.standard_normal((len(LENGTHS), max(LENGTHS)))
    return torch.from_numpy(waveform.astype(np.float32)), torch.tensor(LENGTHS)


@pytest.mark.parametrize("kind", KINDS)
def test_padded_batch_is_one_by_one(kind, batch):
    """What stands behind a row's length is a voice or NaN: neither may matter."""
    module, (waveform, lengths) = build_features({"kind": kind}), batch
    features, n_valid = module(waveform, lengths)
    assert features.shape[1] == module.n_features == len(module.names) == len(set(module.names))
    behind = torch.arange(waveform.shape[1]) >= lengths[:, None]
    assert torch.equal(module(waveform.masked_fill(behind, np.nan), lengths)[0], features)
    for row, length in enumerate(LENGTHS):
        alone, n_alone = module(waveform[row : row + 1, :length], lengths[row : row + 1])
        assert n_alone == n_valid[row] == alone.shape[2]
        np.testing.assert_allclose(features[row, :, : n_valid[row]], alone[0], rtol=1e-3, atol=1e-3)
        assert not features[row, :, n_valid[row] :].any()


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_clips_stay_finite_and_have_finite_gradients(kind, rng):
    module = build_features({"kind": kind})
    clipped = np.sign(rng.standard_normal(4_000))
    square = np.sign(np.sin(np.arange(4_000) / 20))
    for clip in (np.zeros(4_000), np.ones(4_000), clipped, square, np.array([1.0]), np.eye(1, 4_000, 2_000)[0]):
        waveform = torch.tensor(clip[None], dtype=torch.float32, requires_grad=True)
        features, _ = module(waveform, torch.tensor([len(clip)]))
        assert features.isfinite().all()
        features.square().sum().backward()
        assert waveform.grad.isfinite().all()


@pytest.mark.parametrize("sample_rate", [8_000, 22_050, 44_100])
def test_functionals_hardly_depend_on_the_rate(sample_rate):
    voice = [run(ProsodyFunctionals(sample_rate=rate), sing(np.geomspace(120, 240, 2 * rate), sample_rate=rate))
             for rate in (SAMPLE_RATE, sample_rate)]  # fmt: skip
    names = ProsodyFunctionals().names
    for name in ("pitch_st_voiced_mean", "pitch_st_voiced_trend", "duration_s", "voiced_length_mean_s"):
        ours, other = (values[names.index(name), 0] for values in voice)
        np.testing.assert_allclose(other, ours, rtol=0.03)


@pytest.mark.slow
def test_exported_graph_agrees_with_torch(batch):
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    dims = {"batch": torch.export.Dim("batch"), "n_samples": torch.export.Dim("n_samples")}
    module = ProsodyFunctionals().eval()  # every contour is in it
    program = torch.onnx.export(
        module,
        (torch.zeros(2, 16_000), torch.tensor([16_000, 8_000])),
        dynamo=True,
        input_names=["waveform", "lengths"],
        dynamic_shapes={"waveform": {0: dims["batch"], 1: dims["n_samples"]}, "lengths": {0: dims["batch"]}},
        verbose=False,
    )
    buffer = io.BytesIO()
    program.save(buffer)
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    waveform, lengths = batch
    for rows in (slice(0, 1), slice(0, 5), slice(2, 4)):
        waveform, lengths = batch[0][rows, : max(LENGTHS[rows])], batch[1][rows]
        theirs = session.run(None, {"waveform": waveform.numpy(), "lengths": lengths.numpy()})
        features, n_valid = module(waveform, lengths)
        assert theirs[1].tolist() == n_valid.tolist()
        assert theirs[0].shape == features.shape
        np.testing.assert_allclose(theirs[0], features.numpy(), rtol=1e-3, atol=5e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"f_min_hz": 0}, "need 0 < f_min_hz < f_max_hz <= 2000"),
        ({"f_min_hz": 300, "f_max_hz": 200}, "need 0 < f_min_hz"),
        ({"f_min_hz": 300, "f_max_hz": 310}, "too narrow at 16000 Hz"),
    ],
)
def test_errors_say_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        Pitch(**arguments)

"""Resampling inside the graph: against exact sines and soxr, its lengths, padded, exported."""

# ruff: noqa: E402 - imports follow the check that torch is there
import math

import numpy as np
import pytest
import soxr

torch = pytest.importorskip("torch")
signal = pytest.importorskip("scipy.signal")

from undertone.lab.features.resample import Resample

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

ORIG_RATE = 16_000
NEW_RATES = [8_000, 11_025, 22_050, 24_000, 44_100]
LENGTHS = [14_400, 9_999, 4_801, 160, 2, 1]


def run(waveform, new_rate):
    waveform = np.asarray(waveform, np.float32)
    resampled, n_valid = Resample(ORIG_RATE, new_rate)(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    assert n_valid.tolist() == [resampled.shape[1]]
    return resampled[0].numpy()


def sine(frequency_hz, sample_rate, n_samples):
    return np.sin(2 * np.pi * frequency_hz * np.arange(n_samples) / sample_rate)


def middle(values):
    """Without the quarters at the ends, where a sine that begins has all frequencies."""
    return values[len(values) // 4 : 3 * len(values) // 4]


def nyquist_hz(new_rate):
    return min(ORIG_RATE, new_rate) / 2


@pytest.mark.parametrize("share", [0.01, 0.3, 0.8])
@pytest.mark.parametrize("new_rate", NEW_RATES)
def test_sines_are_exact(new_rate, share):
    frequency_hz = share * nyquist_hz(new_rate)
    resampled = run(sine(frequency_hz, ORIG_RATE, 8_000), new_rate)
    expected = sine(frequency_hz, new_rate, len(resampled))
    np.testing.assert_allclose(middle(resampled), middle(expected), atol=1e-6)


@pytest.mark.parametrize(("share", "gain_db"), [(0.9, -1.0), (0.945, -6.0)])
@pytest.mark.parametrize("new_rate", NEW_RATES)
def test_response_near_the_end_of_the_band(new_rate, share, gain_db):
    resampled = middle(run(sine(share * nyquist_hz(new_rate), ORIG_RATE, 16_000), new_rate))
    assert 10 * np.log10(2 * np.mean(resampled**2)) == pytest.approx(gain_db, abs=0.15)


@pytest.mark.parametrize("share", [1.1, 1.3])
@pytest.mark.parametrize("new_rate", [8_000, 11_025])
def test_what_the_new_rate_cannot_hold_is_gone(new_rate, share):
    resampled = run(sine(share * nyquist_hz(new_rate), ORIG_RATE, 16_000), new_rate)
    assert np.abs(middle(resampled)).max() < 1e-6  # -120 dB


@pytest.mark.parametrize("new_rate", NEW_RATES)
def test_speech_agrees_with_soxr(new_rate, make_speech):
    taps = signal.firwin(1001, 0.7 * nyquist_hz(new_rate), fs=ORIG_RATE, window=("kaiser", 12))  # gone at 0.8
    waveform = np.convolve(make_speech(4, 1.5), taps, "same").astype(np.float32)
    ours, theirs = run(waveform, new_rate), soxr.resample(waveform.astype(np.float64), ORIG_RATE, new_rate, "VHQ")
    assert abs(len(ours) - len(theirs)) <= 1
    n = min(len(ours), len(theirs))
    assert np.abs(middle(ours[:n]) - middle(theirs[:n])).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("new_rate", NEW_RATES)
@pytest.mark.parametrize("n_samples", [1, 2, 159, 160, 161, 16_000])
def test_length_is_that_of_the_sound(n_samples, new_rate):
    assert len(run(np.zeros(n_samples), new_rate)) == math.ceil(n_samples * new_rate / ORIG_RATE)


@pytest.mark.parametrize("new_rate", NEW_RATES)
def test_padded_batch_is_one_by_one(new_rate, rng):
    """Behind a row's length stands noise, or worse: it must not matter."""
    waveform = torch.from_numpy((0.1 * rng.standard_normal((len(LENGTHS), max(LENGTHS)))).astype(np.float32))
    lengths, module = torch.tensor(LENGTHS), Resample(ORIG_RATE, new_rate)
    behind = torch.arange(waveform.shape[1]) >= lengths[:, None]
    resampled, n_valid = module(waveform, lengths)
    assert torch.equal(resampled, module(waveform.masked_fill(behind, np.nan), lengths)[0])
    for row, length in enumerate(LENGTHS):
        alone = run(waveform[row, :length].numpy(), new_rate)
        assert len(alone) == n_valid[row]
        np.testing.assert_allclose(resampled[row, : n_valid[row]], alone, atol=1e-6)
        assert not resampled[row, n_valid[row] :].any()


def test_gradients_flow(rng):
    waveform = torch.from_numpy(rng.standard_normal((1, 900)).astype(np.float32)).requires_grad_()
    Resample(ORIG_RATE, 22_050)(waveform, torch.tensor([700]))[0].square().sum().backward()
    assert waveform.grad.isfinite().all()
    assert waveform.grad[0, :700].all()
    assert not waveform.grad[0, 700:].any()


def test_exported_graph_agrees_with_torch(export_features, rng):
    modules = {new_rate: Resample(ORIG_RATE, new_rate) for new_rate in (11_025, 44_100)}
    run_graph = export_features(modules)
    for lengths in ([12_345], [9_999, 100, 7_777], [320, 1]):
        waveform = (0.1 * rng.standard_normal((len(lengths), max(lengths)))).astype(np.float32)
        exported = run_graph(waveform, lengths)
        for new_rate, module in modules.items():
            resampled, n_valid = module(torch.from_numpy(waveform), torch.tensor(lengths))
            theirs, theirs_valid = exported[new_rate]
            assert theirs_valid.tolist() == n_valid.tolist()
            np.testing.assert_allclose(theirs, resampled, atol=1e-6)


@pytest.mark.parametrize("rates", [(0, 16_000), (16_000, -1)])
def test_rates_must_be_positive(rates):
    with pytest.raises(ValueError, match="sample rates must be positive"):
        Resample(*rates)

"""Effects: each against an independent truth (librosa, scipy, a worked-out number), and all at the edges."""

# ruff: noqa: E402 - imports follow the check that torch is there
import inspect
import math

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")

from undertone.lab import effects
from undertone.lab.effects import (
    CODECS,
    change_level,
    colour_noise,
    limit_peak,
    mix_noise,
    mix_noise_by_peak,
    mix_voices,
    overdrive,
    pitch_shift,
    reverberate,
    roll,
    room_response,
    telephone,
    time_stretch,
    transcode,
)

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

SAMPLE_RATE = 16_000
VOCODER_TOLERANCE = 3e-4  # of the largest sample, as the docstrings state


def power_db(waveform):
    return 10 * np.log10(np.mean(np.square(waveform, dtype=np.float64)))


def peak_hz(waveform):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), n=2**18))
    return spectrum.argmax() * SAMPLE_RATE / 2**18


def band_power(waveform, low_hz, high_hz):
    spectrum = np.abs(np.fft.rfft(waveform.astype(np.float64))) ** 2
    frequency_hz = np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE)
    return spectrum[(frequency_hz >= low_hz) & (frequency_hz < high_hz)].sum()


@pytest.fixture
def noise(rng):
    return rng.standard_normal(2 * SAMPLE_RATE, dtype=np.float32)


@pytest.fixture
def speech(make_speech, rng):
    """A voice over a noise floor of about -80 dB: where there is nothing but rounding, no two vocoders agree."""
    voice = make_speech(3, 2.0)
    return (voice + 1e-4 * rng.standard_normal(len(voice))).astype(np.float32)


# ---- all of them ----

ALL = {
    "limit_peak": limit_peak,
    "change_level": lambda waveform: change_level(waveform, 3.0),
    "overdrive": lambda waveform: overdrive(waveform, 10.0),
    "mix_noise": lambda waveform: mix_noise(waveform, seeded(len(waveform)), 5.0),
    "pink": lambda waveform: mix_noise(waveform, colour_noise(seeded(len(waveform)), "pink"), 5.0),
    "brown": lambda waveform: mix_noise(waveform, colour_noise(seeded(len(waveform)), "brown"), 5.0),
    "mix_noise_by_peak": lambda waveform: mix_noise_by_peak(waveform, seeded(len(waveform)), 0.02),
    "mix_voices": lambda waveform: mix_voices([waveform, waveform]),
    "slower": lambda waveform: time_stretch(waveform, 0.7),
    "faster": lambda waveform: time_stretch(waveform, 3.0),
    "higher": lambda waveform: pitch_shift(waveform, 3.0),
    "lower": lambda waveform: pitch_shift(waveform, -12.0),
    "roll": lambda waveform: roll(waveform, 0.1),
    "roll zeros": lambda waveform: roll(waveform, -0.1, fill="zeros"),
    "reverberate": lambda waveform: reverberate(waveform, room_response(seeded(4_000), 0.25, 0.0)),
    "telephone": telephone,
    **{codec: lambda waveform, codec=codec: transcode(waveform, codec, 0.5) for codec in CODECS},
}
CHANGES_LENGTH = {"slower", "faster"}
CHANGES_NOTHING = {"limit_peak"}


def seeded(n_samples):
    return np.random.default_rng(5).standard_normal(n_samples, dtype=np.float32)


def test_every_effect_is_in_the_table():
    public = {
        name for name, value in inspect.getmembers(effects, inspect.isfunction) if value.__module__ == effects.__name__
    }
    public = {name for name in public if not name.startswith("_")}
    used = {name for apply in ALL.values() for name in apply.__code__.co_names} | {"limit_peak", "telephone"}
    assert public <= used


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("n_samples", [1, 2, 100, 2_047, 5_001])
def test_any_length_stays_finite_float32_and_silence_stays_silent(name, n_samples):
    apply = ALL[name]
    full_scale = np.where(np.arange(n_samples) % 50 < 25, 1, -1).astype(np.float32)
    for waveform in (np.zeros(n_samples, np.float32), full_scale, np.ones(n_samples, np.float32)):
        before = waveform.copy()
        changed = apply(waveform)
        assert changed.dtype == np.float32
        assert np.isfinite(changed).all()
        assert name in CHANGES_LENGTH or len(changed) == n_samples
        assert waveform.any() or not changed.any()
        np.testing.assert_array_equal(waveform, before)


@pytest.mark.parametrize("name", ALL)
def test_the_same_twice_and_not_what_it_was(name, speech):
    apply = ALL[name]
    first = apply(speech)
    np.testing.assert_array_equal(first, apply(speech))
    assert name in CHANGES_NOTHING or len(first) != len(speech) or not np.allclose(first, speech, atol=1e-4)


# ---- level ----


def test_limit_peak_scales_the_whole_clip_and_leaves_what_fits():
    loud = np.array([0.5, -4.0, 2.0], np.float32)
    np.testing.assert_array_equal(limit_peak(loud), loud / 4)
    fits = np.array([1.0, -1.0, 0.3], np.float32)
    assert limit_peak(fits) is fits


def test_level_is_in_decibels(speech):
    assert power_db(change_level(speech, -7.5)) - power_db(speech) == pytest.approx(-7.5, abs=1e-4)


def test_overdrive_keeps_the_peak_and_flattens_what_is_near_it(make_tone):
    tone = make_tone(amplitude=0.4)
    driven = overdrive(tone, 6.0206)  # twice
    assert np.abs(driven).max() == pytest.approx(0.4, rel=1e-5)
    np.testing.assert_allclose(driven[np.abs(tone) < 0.19], 2 * tone[np.abs(tone) < 0.19], rtol=1e-4)
    assert np.mean(np.abs(driven) > 0.3999) == pytest.approx(2 / 3, abs=0.01)  # |sin| > 1/2
    np.testing.assert_array_equal(overdrive(tone, 0.0), tone)


# ---- noise ----


@pytest.mark.parametrize("colour", ["white", "pink", "brown"])
@pytest.mark.parametrize("snr_db", [-20.0, 0.0, 7.5, 60.0])
def test_noise_reaches_its_ratio(colour, snr_db, speech, noise):
    added = mix_noise(speech.astype(np.float64), colour_noise(noise, colour), snr_db) - speech
    assert power_db(speech) - power_db(added) == pytest.approx(snr_db, abs=1e-3)


@pytest.mark.parametrize(("colour", "db_per_octave"), [("white", 0.0), ("pink", -3.01), ("brown", -6.02)])
def test_colour_is_a_slope(colour, db_per_octave, rng):
    coloured = colour_noise(rng.standard_normal(2**20, dtype=np.float32), colour)
    edges_hz = 62.5 * 2.0 ** np.arange(7)
    density_db = [10 * np.log10(band_power(coloured, edge, 2 * edge) / edge) for edge in edges_hz]
    assert np.polyfit(np.arange(7), density_db, 1)[0] == pytest.approx(db_per_octave, abs=0.1)
    if colour != "white":
        assert band_power(coloured, 0, 15) < 1e-3 * band_power(coloured, 20, 8_000)


def test_noise_by_peak_is_the_published_form(speech, noise):
    """``y + amplitude * max(y) * N(0, 1)``: the largest sample, not the largest magnitude."""
    expected = speech + 0.02 * speech.max() * noise
    np.testing.assert_allclose(mix_noise_by_peak(speech, noise, 0.02), expected, atol=1e-6)


def test_voices_are_equally_loud_in_babble_whatever_their_level(make_speech):
    quiet = 0.01 * make_speech(1).astype(np.float32)
    loud = (20_000 * make_speech(2)).astype(np.int16).astype(np.float32)
    silent = np.zeros(len(quiet), np.float32)
    expected = quiet / np.sqrt(np.mean(quiet**2)) + loud / np.sqrt(np.mean(loud.astype(np.float64) ** 2))
    np.testing.assert_allclose(mix_voices([quiet, loud, silent]), expected, rtol=1e-4, atol=1e-5)
    assert not mix_voices([silent]).any()


# ---- pitch and tempo ----


@pytest.mark.parametrize("rate", [0.5, 0.7, 0.8, 1.0, 1.25, 2.0])
def test_time_stretch_agrees_with_librosa(rate, speech):
    librosa = pytest.importorskip("librosa")
    expected = librosa.effects.time_stretch(speech.astype(np.float64), rate=rate)
    stretched = time_stretch(speech, rate)
    assert len(stretched) == len(expected) == round(len(speech) / rate)
    np.testing.assert_allclose(stretched, expected, atol=VOCODER_TOLERANCE * np.abs(speech).max())


@pytest.mark.parametrize("semitones", [-7.0, -2.0, 0.7, 0.9, 4.0, 12.0])
def test_pitch_shift_agrees_with_librosa(semitones, speech):
    librosa = pytest.importorskip("librosa")
    expected = librosa.effects.pitch_shift(speech.astype(np.float64), sr=SAMPLE_RATE, n_steps=semitones)
    shifted = pitch_shift(speech, semitones)
    assert len(shifted) == len(expected) == len(speech)
    np.testing.assert_allclose(shifted, expected, atol=VOCODER_TOLERANCE * np.abs(speech).max())


@pytest.mark.corpus
@pytest.mark.parametrize(
    "clip", ["RAVDESS/Actor_01/03-01-05-01-01-01-01.*", "SAVEE/AudioData/DC/a01.*", "TESS/OAF_angry/OAF_back_angry.*"]
)
def test_vocoder_agrees_with_librosa_on_real_clips(clip, corpora_root):
    librosa = pytest.importorskip("librosa")
    path = next(corpora_root.glob(clip), None)
    if path is None:
        pytest.skip(f"no {clip}")
    waveform = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
    atol = VOCODER_TOLERANCE * np.abs(waveform).max()
    for rate in (0.7, 0.8, 1.25):
        expected = librosa.effects.time_stretch(waveform.astype(np.float64), rate=rate)
        np.testing.assert_allclose(time_stretch(waveform, rate), expected, atol=atol)
    for semitones in (0.7, 0.9, -4.0):
        expected = librosa.effects.pitch_shift(waveform.astype(np.float64), sr=SAMPLE_RATE, n_steps=semitones)
        np.testing.assert_allclose(pitch_shift(waveform, semitones), expected, atol=atol)


def test_stretch_keeps_pitch_and_pitch_keeps_length(make_tone):
    tone = make_tone(500.0, 1.0)
    assert peak_hz(time_stretch(tone, 0.8)[2_000:-2_000]) == pytest.approx(500, rel=1e-3)
    assert peak_hz(pitch_shift(tone, 12.0)[2_000:-2_000]) == pytest.approx(1_000, rel=1e-3)
    assert peak_hz(pitch_shift(tone, -12.0)[2_000:-2_000]) == pytest.approx(250, rel=1e-3)


def test_stretch_by_one_gives_the_clip_back(speech):
    np.testing.assert_allclose(time_stretch(speech, 1.0), speech, atol=1e-5)


def test_samples_too_small_for_a_phase_do_not_blow_up():
    """Phases of magnitudes near the smallest number are rounding: a product of them once could grow without end."""
    tiny = np.random.default_rng(0).standard_normal(400_000).astype(np.float32) * np.float32(1e-40)
    tiny[-8_000:] = 0.5
    stretched = time_stretch(tiny, 0.9)
    assert np.isfinite(stretched).all()
    assert np.abs(stretched).max() < 1


@pytest.mark.parametrize("rate", [0.0, -1.0])
def test_a_rate_that_is_not_positive_is_refused(rate, speech):
    with pytest.raises(ValueError, match="rate must be positive"):
        time_stretch(speech, rate)


def test_roll_wraps_or_fills():
    ramp = np.arange(1, 3_201, dtype=np.float32)
    np.testing.assert_array_equal(roll(ramp, 0.01), np.roll(ramp, 160))
    np.testing.assert_array_equal(roll(ramp, 0.0, fill="zeros"), ramp)
    for shift_s, silent in ((0.01, slice(0, 160)), (-0.01, slice(-160, None)), (1.0, slice(None)), (-1.0, slice(None))):
        expected = np.roll(ramp, round(shift_s * SAMPLE_RATE))
        expected[silent] = 0
        np.testing.assert_array_equal(roll(ramp, shift_s, fill="zeros"), expected)


# ---- rooms and channels ----


@pytest.mark.parametrize("drr_db", [-6.0, 0.0, 12.0])
def test_a_room_has_its_ratio_and_its_reverberation_time(drr_db, rng):
    rt60_s = 0.4
    response = room_response(rng.standard_normal(SAMPLE_RATE, dtype=np.float32), rt60_s, drr_db)
    assert response[0] == 1
    tail = response[1:].astype(np.float64) ** 2
    assert 10 * math.log10(1 / tail.sum()) == pytest.approx(drr_db, abs=0.01)
    decay_db = 10 * np.log10(np.cumsum(tail[::-1])[::-1] / tail.sum())  # Schroeder's curve
    line = (decay_db < -5) & (decay_db > -35)
    slope = np.polyfit(np.flatnonzero(line) / SAMPLE_RATE, decay_db[line], 1)[0]
    assert -60 / slope == pytest.approx(rt60_s, rel=0.05)


def test_reverberation_is_a_convolution_cut_to_the_clip(speech, rng):
    response = room_response(rng.standard_normal(3_000, dtype=np.float32), 0.2, 0.0)
    expected = np.convolve(speech.astype(np.float64), response)[: len(speech)]
    np.testing.assert_allclose(reverberate(speech, response), expected, atol=1e-5)


def test_telephone_keeps_its_band_and_nothing_else(noise):
    heard = telephone(0.1 * noise)
    inside = band_power(heard, 300, 3_400) / band_power(0.1 * noise, 300, 3_400)
    assert 10 * math.log10(inside) == pytest.approx(0, abs=0.1)
    assert band_power(heard, 0, 180) < 1e-3 * band_power(heard, 300, 3_400)
    assert band_power(heard, 4_050, 8_000) < 1e-4 * band_power(heard, 300, 3_400)


def test_telephone_rounds_as_mu_law_does(make_tone):
    """Inside the band only the rounding is left: about 38 dB, the figure of 8-bit mu-law, at any usual level."""
    for amplitude in (0.02, 0.2, 0.9):
        tone = make_tone(1_000.0, 1.0, amplitude=amplitude)
        error = (telephone(tone) - tone)[1_000:-1_000]
        assert 32 < power_db(tone) - power_db(error) < 45


def test_mu_law_agrees_with_librosa_to_half_a_level():
    librosa = pytest.importorskip("librosa")
    compressed = np.linspace(-1, 1, 20_001)
    waveform = (np.sign(compressed) * np.expm1(np.abs(compressed) * np.log(256)) / 255).astype(np.float32)
    rounded = librosa.mu_compress(effects._round_mu_law(waveform), mu=255, quantize=False)
    exact = librosa.mu_compress(waveform, mu=255, quantize=False)
    assert np.abs(rounded - exact).max() == pytest.approx(0.5 / 127, rel=0.02)
    assert len(np.unique(effects._round_mu_law(waveform))) == 255


@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_stays_in_time_and_better_is_closer(codec, speech):
    def ratio_db(quality):
        return power_db(speech) - power_db(transcode(speech, codec, quality) - speech)

    assert ratio_db(1.0) > ratio_db(0.5) > ratio_db(0.0)
    assert ratio_db(1.0) > 15  # a clip that came back late would be below 0


@pytest.mark.slow
def test_five_minutes_pass_through_vorbis(rng):
    long = 0.1 * rng.standard_normal(300 * SAMPLE_RATE, dtype=np.float32)
    assert len(transcode(long, "vorbis", 0.0)) == len(long)


def test_any_length_can_be_stretched():
    """np.arange reaches its end at some lengths: 85 frames at a rate of 0.7 were met on a real clip."""
    rng = np.random.default_rng(0)
    for n_frames in (*range(1, 30), 84, 85, 120):
        for rate in (0.7, 0.9, 1.1, 1.3):
            n_samples = effects.HOP_LENGTH * n_frames - 1
            stretched = effects.time_stretch(rng.standard_normal(n_samples).astype(np.float32), rate)
            assert stretched.shape == (round(n_samples / rate),)

"""Augmentation: what each function does to numbers that were drawn before, the drawing itself, and lists of steps."""

# ruff: noqa: E402 - imports follow the check that torch is there
import re
import tomllib
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from undertone.lab import augment
from undertone.lab.augment import (
    STEPS,
    AugmentConfig,
    add_noise,
    apply_steps,
    augment_waveforms,
    change_gain,
    change_speed,
    check_steps,
    draw_equaliser,
    draw_masks,
    draw_noise,
    draw_partners,
    draw_speed,
    draw_step,
    mix,
    mix_styles,
    warp_spectrogram,
)
from undertone.lab.effects import pitch_shift, roll, time_stretch

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("one_thread")]

SAMPLE_RATE = 16_000
LENGTHS = torch.tensor([8_000, 5_000, 1])


def power(waveform, length):
    return float(waveform[:length].double().square().mean())


@pytest.fixture
def batch(rng):
    waveform = torch.from_numpy(0.1 * rng.standard_normal((3, 8_000)).astype(np.float32))
    return waveform * (torch.arange(8_000) < LENGTHS[:, None])


# ---- noise and gain ----


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 12.5, 40.0])
def test_noise_reaches_its_ratio_over_the_valid_samples(snr_db, batch, rng):
    noise = torch.from_numpy(draw_noise(rng, (3, 8_000)))
    added = add_noise(batch, noise, torch.full((3,), snr_db), LENGTHS) - batch
    for row, length in enumerate(LENGTHS.tolist()):
        ratio_db = 10 * np.log10(power(batch[row], length) / power(added[row], length))
        assert ratio_db == pytest.approx(snr_db, abs=0.01)
        assert not added[row, length:].any()


def test_every_row_has_its_own_ratio(batch, rng):
    noise = torch.from_numpy(draw_noise(rng, (3, 8_000)))
    together = add_noise(batch, noise, torch.tensor([0.0, 20.0, torch.inf]), LENGTHS)
    alone = add_noise(batch[1:2], noise[1:2], torch.tensor([20.0]), LENGTHS[1:2])
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-5)
    assert torch.equal(together[2], batch[2])  # infinity adds nothing


def test_noise_on_silence_stays_silent_and_no_noise_is_no_error():
    silence, noise = torch.zeros(1, 100), torch.ones(1, 100)
    assert not add_noise(silence, noise, torch.tensor([0.0]), torch.tensor([100])).any()
    assert torch.equal(add_noise(noise, silence, torch.tensor([0.0]), torch.tensor([100])), noise)


def test_noise_is_white_to_pink(rng):
    noise = draw_noise(rng, (400, 4_096))
    assert noise.dtype == np.float32
    spectrum = np.abs(np.fft.rfft(noise.astype(np.float64))) ** 2
    tilt_db = 10 * np.log10(spectrum[:, -500:].mean(axis=1) / spectrum[:, 1:500].mean(axis=1))
    assert tilt_db.max() < 1.5  # never brighter than white
    assert tilt_db.min() > -15
    assert np.ptp(tilt_db) > 5  # and not all alike


def test_gain_is_in_decibels(batch):
    louder = change_gain(batch, torch.tensor([20.0, -6.0, 0.0]))
    np.testing.assert_allclose(louder[0], 10 * batch[0], rtol=1e-6)
    np.testing.assert_allclose(louder[1], 10**-0.3 * batch[1], rtol=1e-5)
    assert torch.equal(louder[2], batch[2])


# ---- speed ----


@pytest.mark.parametrize("factor", [0.9, 0.95, 1.05, 1.1])
def test_speed_changes_length_and_pitch_together(factor, make_tone):
    fast = change_speed(make_tone(500.0, 1.0), factor)
    assert fast.dtype == np.float32
    assert len(fast) == pytest.approx(SAMPLE_RATE / factor, abs=2)
    peak = np.abs(np.fft.rfft(fast * np.hanning(len(fast)), n=2**17)).argmax()
    assert peak * SAMPLE_RATE / 2**17 == pytest.approx(500 * factor, rel=1e-3)


def test_speed_one_changes_nothing(make_tone):
    tone = make_tone()
    assert change_speed(tone, 1.0) is tone


def test_drawn_speed_stays_in_its_range_on_its_grid(rng):
    factors = [draw_speed(rng, AugmentConfig(speed=0.1)) for _ in range(500)]
    assert min(factors) == pytest.approx(0.9, abs=0.011)
    assert max(factors) == pytest.approx(1.1, abs=0.011)
    assert all(0.9 <= factor <= 1.1 and round(factor, 2) == factor for factor in factors)
    assert draw_speed(rng, AugmentConfig(speed=0.0)) == 1.0


# ---- the spectrogram ----


@pytest.fixture
def features(rng):
    return torch.from_numpy(rng.standard_normal((2, 12, 30)).astype(np.float32))


def warp(features, tempo, warp):
    return warp_spectrogram(features, torch.full((len(features),), tempo), torch.full((len(features),), warp))


def test_warp_by_one_is_the_identity(features):
    np.testing.assert_allclose(warp(features, 1.0, 1.0), features, atol=1e-5)


def test_tempo_two_takes_every_second_frame(features):
    fast = warp(features, 2.0, 1.0)
    np.testing.assert_allclose(fast[:, :, :15], features[:, :, ::2], atol=1e-5)
    assert not fast[:, :, 16:].any()  # what ran out of the clip


def test_tempo_half_interpolates_between_frames(features):
    slow = warp(features, 0.5, 1.0)
    np.testing.assert_allclose(slow[:, :, ::2], features[:, :, :15], atol=1e-5)
    np.testing.assert_allclose(slow[:, :, 1::2], (features[:, :, :15] + features[:, :, 1:16]) / 2, atol=1e-5)


def test_warp_two_takes_every_second_band_and_repeats_the_edge(features):
    low = warp(features, 1.0, 2.0)
    np.testing.assert_allclose(low[:, :6], features[:, ::2], atol=1e-5)
    np.testing.assert_allclose(low[:, 6:], features[:, -1:].expand(-1, 6, -1), atol=1e-5)


def test_every_row_is_warped_by_its_own_numbers(features):
    together = warp_spectrogram(features, torch.tensor([1.1, 0.9]), torch.tensor([0.95, 1.05]))
    np.testing.assert_allclose(together[1], warp(features[1:], 0.9, 1.05)[0], atol=1e-6)


def test_masks_are_runs_of_zeros_no_wider_than_asked(rng):
    masks = draw_masks(rng, 500, 1, 7, 40)
    assert masks.shape == (500, 40)
    assert set(np.unique(masks)) == {0.0, 1.0}
    width = (masks == 0).sum(axis=1)
    assert set(width) == set(range(8))  # from none to the widest
    starts = (np.diff(masks, axis=1, prepend=1.0) == -1).sum(axis=1)
    assert (starts == (width > 0)).all()  # each in one piece


def test_two_masks_hide_at_most_twice_as_much_and_none_hide_nothing(rng):
    assert (draw_masks(rng, 200, 2, 5, 40) == 0).sum(axis=1).max() in range(6, 11)
    assert draw_masks(rng, 3, 0, 5, 40).all()
    assert draw_masks(rng, 3, 2, 0, 40).all()


def test_a_mask_wider_than_the_axis_is_cut(rng):
    assert draw_masks(rng, 50, 1, 100, 10).shape == (50, 10)


def test_an_equaliser_is_straight_between_points_and_zero_on_the_average(rng):
    gains = draw_equaliser(rng, 200, 51, 6.0)
    assert gains.shape == (200, 51) and gains.dtype == np.float32
    np.testing.assert_allclose(gains.mean(axis=1), 0, atol=1e-5)
    assert 6 < np.abs(gains).max() < 12 and np.abs(np.diff(gains, axis=1)).max() <= 12 / 10 + 1e-5
    bends = np.abs(np.diff(gains, n=2, axis=1)).max(axis=0) > 1e-4
    assert np.flatnonzero(bends).tolist() == [9, 19, 29, 39]  # points stand at every tenth band
    assert not draw_equaliser(rng, 3, 20, 0.0).any()


def test_mix_of_two_rows():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 8.0]])
    mixed = mix(rows, torch.tensor([1, 2, 2]), 0.75)
    assert mixed.tolist() == [[0.75, 0.25], [1.0, 2.75], [4.0, 8.0]]


def test_partners_share_the_emotion_and_are_others_where_there_are_others(rng):
    kind = rng.integers(0, 5, 60)
    kind[7] = 9  # the only one of its kind
    partner = draw_partners(rng, kind)
    assert (kind[partner] == kind).all()
    assert np.flatnonzero(partner == np.arange(60)).tolist() == [7]


def test_a_mixed_style_has_the_statistics_between_both(rng):
    mask = torch.ones(3, 40)
    mask[1, 25:] = 0
    scale = torch.tensor([1.0, 2.0, 0.5])[:, None, None]
    noise = torch.from_numpy(rng.standard_normal((3, 6, 40)).astype(np.float32))
    features = (noise * scale + 3 * scale) * mask[:, None]
    mixed = mix_styles(features, mask, torch.tensor([1, 2, 0]), torch.tensor([0.0, 0.5, 1.0]))

    def statistics(rows, row):
        valid = rows[row][:, mask[row] > 0]
        return torch.stack((valid.mean(1), valid.std(1, correction=0)))

    torch.testing.assert_close(statistics(mixed, 0), statistics(features, 1), rtol=1e-4, atol=1e-4)
    between = (statistics(features, 1) + statistics(features, 2)) / 2
    torch.testing.assert_close(statistics(mixed, 1), between, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mixed[2], features[2], rtol=1e-5, atol=1e-5)
    assert not mixed[1, :, 25:].any()


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: draw_noise(rng, (2, 50)),
        lambda rng: draw_masks(rng, 3, 2, 5, 40),
        lambda rng: draw_equaliser(rng, 3, 40, 6.0),
        lambda rng: np.array([draw_speed(rng, AugmentConfig(speed=0.1)) for _ in range(5)]),
    ],
    ids=["noise", "masks", "equaliser", "speed"],
)
def test_one_generator_gives_one_draw(draw):
    first, again, other = (draw(np.random.default_rng(seed)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_applying_draws_nothing(batch, features):
    """The functions that apply are given all their numbers: they leave every global generator alone."""
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    add_noise(batch, batch, torch.zeros(3), LENGTHS)
    change_gain(batch, torch.zeros(3))
    change_speed(batch[0].numpy(), 1.05)
    warp(features, 1.05, 0.95)
    mix(features, torch.tensor([1, 0]), 0.3)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), before[1])


# ---- steps ----

ONE_OF_EACH = {
    "noise": {"kind": "noise", "colour": "pink", "min_snr_db": 5, "max_snr_db": 20},
    "noise by peak": {"kind": "noise", "rate": 0.035},
    "babble": {"kind": "babble", "snr_db": 3, "min_n_voices": 1, "max_n_voices": 3},
    "pitch": {"kind": "pitch", "min_semitones": -2, "max_semitones": 2},
    "stretch": {"kind": "stretch", "min_rate": 0.8, "max_rate": 1.25},
    "speed": {"kind": "speed", "min_factor": 0.9, "max_factor": 1.1},
    "roll": {"kind": "roll", "min_shift_s": -0.2, "max_shift_s": 0.2, "fill": ["wrap", "zeros"]},
    "gain": {"kind": "gain", "min_gain_db": -20, "max_gain_db": 20},
    "reverb": {"kind": "reverb", "min_rt60_s": 0.1, "max_rt60_s": 1.0, "min_drr_db": -5, "max_drr_db": 10},
    "telephone": {"kind": "telephone"},
    "codec": {"kind": "codec", "codec": ["vorbis", "mp3"], "min_quality": 0.1, "max_quality": 0.6},
    "clip": {"kind": "clip", "min_drive_db": 3, "max_drive_db": 12},
}


@pytest.fixture
def voices(make_speech):
    return [make_speech(seed, 0.7 + 0.1 * seed) for seed in range(4)]


def generator(seed=11):
    return np.random.default_rng(seed)


def test_every_kind_is_in_the_table_of_tests_and_in_the_documentation():
    assert {step["kind"] for step in ONE_OF_EACH.values()} == set(STEPS)
    for name, kind in STEPS.items():
        row = next(line for line in augment.__doc__.splitlines() if line.startswith(f"{name} "))
        documented = " ".join(line for line in augment.__doc__.splitlines() if line.startswith(f"{name} "))
        for key in (*kind.amounts, *kind.choices, *(value for values in kind.choices.values() for value in values)):
            assert re.search(rf"\b{key}\b", documented), (name, key, row)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_one_generator_gives_one_copy(name, voices):
    step, waveform = ONE_OF_EACH[name], voices[0]
    before = waveform.copy()
    first, again, other = (apply_steps(waveform, [step], generator(seed), others=voices[1:]) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(waveform, before)
    assert first.dtype == np.float32
    assert not np.shares_memory(first, waveform)
    assert len(first) != len(waveform) or np.abs(first - waveform).max() > 1e-3
    if name != "telephone":  # which has nothing to draw
        assert len(first) != len(other) or not np.array_equal(first, other)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_applying_a_step_draws_nothing(name, voices):
    step = ONE_OF_EACH[name]
    drawn = draw_step(step, generator(), len(voices[0]), voices[1:])
    before = np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    first, again = (STEPS[step["kind"]].apply(voices[0], **drawn) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), before[1])


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("n_samples", [1, 3, 4_000])
def test_steps_take_any_clip(name, n_samples):
    square = np.where(np.arange(n_samples) % 80 < 40, 1, -1).astype(np.float32)
    for waveform in (np.zeros(n_samples, np.float32), square, -square, np.ones(n_samples, np.float32)):
        for others in (
            [square],
            [np.zeros(10, np.float32)],
            [np.zeros(0, np.float32), (32_767 * square).astype(np.int16)],
        ):
            copy = apply_steps(waveform, [ONE_OF_EACH[name]], generator(), others=others)
            assert len(copy)
            assert np.isfinite(copy).all()
            assert np.abs(copy).max() <= 1
            assert waveform.any() or not copy.any()


def test_amounts_are_drawn_evenly_from_their_range():
    rng = generator()
    drawn = [draw_step({"kind": "pitch", "min_semitones": -1, "max_semitones": 3}, rng, 1) for _ in range(2_000)]
    semitones = np.array([values["semitones"] for values in drawn])
    assert -1 <= semitones.min() < -0.98
    assert 2.98 < semitones.max() <= 3
    assert semitones.mean() == pytest.approx(1, abs=0.1)
    assert draw_step({"kind": "pitch", "semitones": 0.9}, rng, 1) == {"semitones": 0.9}
    voice = [np.ones(5)] * 9
    step = {"kind": "babble", "snr_db": 0, "min_n_voices": 2, "max_n_voices": 4}
    assert {len(draw_step(step, rng, 5, voice)["voices"]) for _ in range(60)} == {2, 3, 4}


def test_choices_are_drawn_from_their_list():
    rng = generator()
    assert draw_step({"kind": "codec", "quality": 1}, rng, 1)["codec"] == "vorbis"
    assert draw_step({"kind": "codec", "quality": 1, "codec": "mp3"}, rng, 1)["codec"] == "mp3"
    step = {"kind": "codec", "quality": 1, "codec": ["opus", "mp3"]}
    assert {draw_step(step, rng, 1)["codec"] for _ in range(50)} == {"opus", "mp3"}


def test_louder_than_full_scale_is_scaled_down_once_at_the_end(make_tone):
    tone = make_tone(amplitude=0.5)
    there_and_back = [{"kind": "gain", "gain_db": 40}, {"kind": "gain", "gain_db": -40}]
    np.testing.assert_allclose(apply_steps(tone, there_and_back, generator()), tone, rtol=1e-5)
    loud = apply_steps(tone, there_and_back[:1], generator())
    np.testing.assert_allclose(loud, tone / np.abs(tone).max(), rtol=1e-5)


def test_babble_is_other_clips_at_its_ratio(voices):
    waveform, others = 0.5 * voices[0], voices[1:]
    copy = apply_steps(waveform, [{"kind": "babble", "snr_db": 6, "n_voices": 3}], generator(), others=others)
    added = copy.astype(np.float64) - waveform
    assert 10 * np.log10(np.mean(waveform.astype(np.float64) ** 2) / np.mean(added**2)) == pytest.approx(6, abs=1e-3)
    drawn = draw_step({"kind": "babble", "snr_db": 6, "n_voices": 3}, generator(), len(waveform), others)
    for voice in drawn["voices"]:  # each one of the clips, from somewhere on, and again from its start
        assert any(
            np.array_equal(voice, np.roll(np.resize(clip, 4 * len(clip)), -start)[: len(voice)])
            for clip in others
            for start in np.flatnonzero(clip == voice[0])
        )


def test_babble_without_other_clips_is_an_error_and_takes_what_there_is(voices):
    step = {"kind": "babble", "snr_db": 6, "n_voices": 9}
    with pytest.raises(ValueError, match="pass others, or leave the step out"):
        apply_steps(voices[0], [step], generator())
    assert len(draw_step(step, generator(), 100, voices)["voices"]) == 4


@pytest.mark.parametrize("waveform", [np.zeros(0, np.float32), np.zeros((2, 100), np.float32)])
def test_no_samples_and_two_channels_are_refused(waveform):
    with pytest.raises(ValueError, match="expected a mono waveform"):
        apply_steps(waveform, [{"kind": "telephone"}], generator())


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"kind": "telephone"}, "steps must be a list of tables"),
        (["telephone"], "steps must be a list of tables"),
        ("telephone", "steps must be a list of tables"),
        ([{}], "step 1 needs a kind out of: noise, babble, .*; got None"),
        ([{"kind": ["pitch"]}], "step 1 needs a kind out of"),
        ([{"kind": "telephone"}, {"kind": "reverse"}], "step 2 needs a kind out of: .*; got 'reverse'"),
        ([{"kind": "telephone", "rate": 8_000}], r"unknown key 'rate' in step 1 \(telephone\); it takes: none"),
        ([{"kind": "pitch", "steps": 1}], r"unknown key 'steps' .* semitones \(or min_semitones and max_semitones\)"),
        ([{"kind": "roll", "shift_s": 1, "min_fill": 0}], "unknown key 'min_fill'"),
        ([{"kind": "pitch"}], r"step 1 \(pitch\) needs semitones, or min_semitones and max_semitones"),
        ([{"kind": "pitch", "min_semitones": 1}], "alone, or both .*; it has min_semitones"),
        ([{"kind": "pitch", "semitones": 1, "max_semitones": 1}], "it has semitones, max_semitones"),
        ([{"kind": "pitch", "semitones": 1, "min_semitones": 0, "max_semitones": 1}], "it has semitones, min_"),
        ([{"kind": "pitch", "min_semitones": 2, "max_semitones": 1}], "min_semitones is above max_semitones"),
        ([{"kind": "pitch", "semitones": 25}], "semitones .* must be a number, -24 to 24; got 25"),
        ([{"kind": "pitch", "semitones": float("nan")}], "must be a number, -24 to 24; got nan"),
        ([{"kind": "pitch", "semitones": True}], "must be a number"),
        ([{"kind": "pitch", "semitones": "0.9"}], "must be a number"),
        ([{"kind": "stretch", "rate": 0}], "rate .* must be a number, 0.1 to 10; got 0"),
        ([{"kind": "babble", "snr_db": 0, "n_voices": 2.5}], "n_voices .* must be a whole number, 1 to 100"),
        ([{"kind": "noise"}], "needs either snr_db or rate"),
        ([{"kind": "noise", "rate": 0.1, "snr_db": 3}], "needs either snr_db or rate"),
        ([{"kind": "noise", "rate": 0.1, "colour": "blue"}], "one or more of white, pink, brown; got 'blue'"),
        ([{"kind": "noise", "rate": 0.1, "colour": []}], "one or more of white, pink, brown"),
        ([{"kind": "codec", "quality": 0.5, "codec": ["mp3", 7]}], "one or more of vorbis, opus, mp3"),
    ],
)
def test_steps_that_make_no_sense_are_refused(steps, message):
    with pytest.raises(ValueError, match=message):
        check_steps(steps)
    with pytest.raises(ValueError, match=message):
        apply_steps(np.ones(100, np.float32), steps, generator())


# ---- the published recipes' copies ----

NOISE = {"kind": "noise", "rate": 0.025}
ROLL = {"kind": "roll", "min_shift_s": -5_000 / 22_050, "max_shift_s": 5_000 / 22_050}
SHELLEYPI_NOISE = {"kind": "noise", "min_rate": 0.0, "max_rate": 0.075}


def noisy(waveform, seed, rate):
    """The published noise, from the numbers that a step draws: the samples first, then the share of the rate."""
    rng = generator(seed)
    white = rng.standard_normal(len(waveform), dtype=np.float32)
    return waveform + rate * rng.uniform() * waveform.max() * white


def test_copies_of_nathaniel(voices):
    """0.025 U(0, 1) max(y) N(0, 1); and of the clip made noisy so, 0.9 semitones up, then 0.7 times as fast."""
    waveform = 0.5 * voices[0]
    np.testing.assert_allclose(apply_steps(waveform, [NOISE], generator(1)), noisy(waveform, 1, 0.025), atol=1e-6)
    steps = [NOISE, {"kind": "pitch", "semitones": 0.9}, {"kind": "stretch", "rate": 0.7}]
    expected = time_stretch(pitch_shift(noisy(waveform, 1, 0.025).astype(np.float32), 0.9), 0.7)
    copy = apply_steps(waveform, steps, generator(1))
    assert len(copy) == round(len(waveform) / 0.7)
    np.testing.assert_allclose(copy, expected, atol=1e-3)


def test_copies_of_flask(voices):
    """0.035 U max(y) N(0, 1); 0.7 semitones up; and both, the pitch first."""
    waveform, pitch = 0.5 * voices[1], {"kind": "pitch", "semitones": 0.7}
    noise = {"kind": "noise", "rate": 0.035}
    np.testing.assert_allclose(apply_steps(waveform, [noise], generator(2)), noisy(waveform, 2, 0.035), atol=1e-6)
    shifted = pitch_shift(waveform, 0.7)
    np.testing.assert_allclose(apply_steps(waveform, [pitch], generator(2)), shifted, atol=1e-6)
    np.testing.assert_allclose(apply_steps(waveform, [pitch, noise], generator(2)), noisy(shifted, 2, 0.035), atol=1e-6)


def test_copies_of_shelleypi_share_their_noise(voices):
    """Rate U 0.075; then of the same noisy clip: rolled by up to 5,000 samples (at 22,050 Hz), 0.8, U 0.7 semitones."""
    waveform = 0.5 * voices[2]
    base = apply_steps(waveform, [SHELLEYPI_NOISE], generator(3))
    rng = generator(3)
    rate = rng.uniform(0, 0.075)
    white = rng.standard_normal(len(waveform), dtype=np.float32)
    np.testing.assert_allclose(base, waveform + rate * rng.uniform() * waveform.max() * white, atol=1e-6)

    amount = rng.uniform()  # what comes next in each of the copies
    rolled = apply_steps(waveform, [SHELLEYPI_NOISE, ROLL], generator(3))
    np.testing.assert_array_equal(rolled, roll(base, (2 * amount - 1) * 5_000 / 22_050))
    stretched = apply_steps(waveform, [SHELLEYPI_NOISE, {"kind": "stretch", "rate": 0.8}], generator(3))
    np.testing.assert_array_equal(stretched, time_stretch(base, 0.8))
    pitch = {"kind": "pitch", "min_semitones": 0.0, "max_semitones": 0.7}
    shifted = apply_steps(waveform, [SHELLEYPI_NOISE, pitch], generator(3))
    np.testing.assert_array_equal(shifted, pitch_shift(base, 0.7 * amount))


def test_steps_and_keys_in_the_documentation_exist():
    text = (Path(__file__).parents[2] / "docs" / "augmentation.md").read_text("utf-8")
    blocks = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]
    assert blocks
    for block in blocks:
        for copy in block.get("copies", []):
            check_steps(copy["steps"])
            assert set(copy) == {"name", "steps"}
        AugmentConfig(**block.get("augment", {}))
    for name in STEPS:
        assert f"`{name}`" in text


# ---- on the fly ----

ALL_ON = AugmentConfig(**{f.name: 1.0 for f in fields(AugmentConfig) if f.metadata and f.name.endswith("_probability")})


def test_nothing_is_on_by_default_and_then_nothing_is_drawn(voices):
    rng = generator()
    augmented = augment_waveforms(voices, rng, AugmentConfig())
    assert all(after is before for after, before in zip(augmented, voices, strict=True))
    assert rng.bit_generator.state == generator().bit_generator.state


def test_every_field_is_documented_and_every_new_one_is_later():
    for entry in fields(AugmentConfig):
        assert re.search(rf"\b{entry.name}\b", AugmentConfig.__doc__), entry.name
    later = [entry.name for entry in fields(AugmentConfig) if entry.metadata.get("later")]
    assert later == [entry.name for entry in fields(AugmentConfig)][-len(later) :]
    assert "pitch_probability" in later


@pytest.mark.parametrize("kind", [step["kind"] for _, step in ALL_ON.waveform_steps()])
def test_each_is_turned_on_by_its_probability(kind, voices):
    config = AugmentConfig(**{f"{kind}_probability": 1.0})
    assert [step["kind"] for _, step in config.waveform_steps()] == [kind]
    first, again = (augment_waveforms(voices, generator(), config) for _ in range(2))
    for before, after, same in zip(voices, first, again, strict=True):
        np.testing.assert_array_equal(after, same)
        assert len(after) != len(before) or np.abs(after - before).max() > 1e-3
        assert kind == "stretch" or len(after) == len(before)
        assert np.abs(after).max() <= 1


def test_all_at_once_stay_finite(voices):
    clips = [*voices, np.zeros(300, np.float32), np.ones(1, np.float32)]
    augmented = augment_waveforms(clips, generator(), ALL_ON)
    assert len(augmented) == len(clips)
    assert all(len(clip) and np.isfinite(clip).all() and np.abs(clip).max() <= 1 for clip in augmented)


def test_probability_is_how_often(make_tone):
    clips = [make_tone(duration_s=0.01)] * 600
    augmented = augment_waveforms(clips, generator(), AugmentConfig(roll_probability=0.3))
    changed = sum(after is not before for after, before in zip(augmented, clips, strict=True))
    assert changed / 600 == pytest.approx(0.3, abs=0.06)


def test_babble_never_mixes_a_clip_with_itself_and_is_skipped_where_there_is_no_other(make_tone):
    config = AugmentConfig(babble_probability=1.0, n_voices=1, min_babble_snr_db=0.0, max_babble_snr_db=0.0)
    tones = [make_tone(frequency_hz, 0.5, amplitude=0.2) for frequency_hz in (400.0, 1_000.0)]
    mixed = augment_waveforms(tones, generator(), config)
    for own, other, clip in ((0, 1, mixed[0]), (1, 0, mixed[1])):
        spectrum = np.abs(np.fft.rfft(clip))[[200, 500]]
        assert spectrum[own] == pytest.approx(spectrum[other], rel=1e-3)
    assert augment_waveforms(tones[:1], generator(), config)[0] is tones[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pitch_probability": 1.5}, "pitch_probability must be between 0 and 1, got 1.5"),
        ({"pitch_probability": 0.5, "max_semitones": 99.0}, "min_semitones .* must be a number, -24 to 24"),
        ({"stretch_probability": 0.5, "max_stretch": 1.0}, "min_rate .* must be a number"),
        ({"reverb_probability": 0.5, "min_rt60_s": 2.0}, "min_rt60_s is above max_rt60_s"),
        ({"babble_probability": 0.5, "n_voices": 0}, "n_voices .* must be a whole number, 1 to 100"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(AugmentConfig(), **changes)

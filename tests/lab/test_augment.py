"""Augmentation: what each function does to numbers that were drawn before, and the drawing itself."""

# ruff: noqa: E402 - imports follow the check that torch is there
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from undertone.lab.augment import (
    AugmentConfig,
    add_noise,
    change_gain,
    change_speed,
    draw_masks,
    draw_noise,
    draw_speed,
    mix,
    warp_spectrogram,
)

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


def test_mix_of_two_rows():
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 8.0]])
    mixed = mix(rows, torch.tensor([1, 2, 2]), 0.75)
    assert mixed.tolist() == [[0.75, 0.25], [1.0, 2.75], [4.0, 8.0]]


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: draw_noise(rng, (2, 50)),
        lambda rng: draw_masks(rng, 3, 2, 5, 40),
        lambda rng: np.array([draw_speed(rng, AugmentConfig()) for _ in range(5)]),
    ],
    ids=["noise", "masks", "speed"],
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

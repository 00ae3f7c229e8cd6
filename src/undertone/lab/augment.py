"""Augmentation: steps that make an altered copy of a clip, and what happens on the fly to batches.

Every random number is drawn in one step, from a generator that is passed in, and applied in another that is
deterministic: ``add_noise(waveform, noise, snr_db)`` can be tested exactly, and a run repeats whatever the number of
workers. Augmentation happens in training only.

A step is a dictionary as a recipe's TOML holds it, ``{kind = "pitch", semitones = 0.9}``. An amount is fixed
(``semitones``) or drawn evenly from a range (``min_semitones`` and ``max_semitones``); a choice is a name, or a list of
names of which one is drawn.

==========  ====================================  ========================================================
kind        amounts and choices                   what it does
==========  ====================================  ========================================================
noise       snr_db, colour (white, pink, brown)   noise at a ratio of powers over the clip
noise       rate                                  the student systems': ``y + rate U(0, 1) max(y) N(0, 1)``
babble      snr_db, n_voices (3)                  sum of that many other clips, made equally loud
pitch       semitones                             phase vocoder; tempo kept
stretch     rate                                  phase vocoder; above 1 is faster, pitch kept
speed       factor                                pitch and tempo together
roll        shift_s, fill (wrap, zeros)           later by that much; the end comes back at the start
gain        gain_db                               louder
reverb      rt60_s, drr_db (0)                    a made-up room: noise that decays by 60 dB in ``rt60_s``
telephone                                         300 to 3,400 Hz, 8 kHz, mu-law
codec       quality, codec (vorbis, opus, mp3)    encoded and decoded again
clip        drive_db                              an overdriven microphone: flat tops, peak kept
==========  ====================================  ========================================================

Waveforms of steps are (n_samples,) float32 at 16 kHz. What would come out louder than full scale is scaled down as a
whole, once, behind the last step; nothing is clipped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.nn import functional as F

from undertone.audio import SAMPLE_RATE
from undertone.lab.effects import (
    CODECS,
    COLOURS,
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

N_EQUALISER_POINTS = 6
LATER = {"later": True}  # a field added after others: left out of a recipe's hash while it has its default


@dataclass(frozen=True)
class AugmentConfig:
    """Strength of each augmentation that happens on the fly; all are off unless asked for.

    Attributes
    ----------
    speed
        Largest relative change of speed (pitch and tempo together): 0.1 draws 0.9 to 1.1.
    gain_db
        Largest change of level, either way. Nothing is left of it behind a front end that takes the level off.
    noise_probability, min_snr_db, max_snr_db
        White to pink noise: how often, and how loud.
    tempo
        Largest relative stretch of the spectrogram in time, pitch unchanged.
    warp
        Largest relative warp of the frequency axis (vocal tract length perturbation): other speakers, same words.
    n_band_masks, max_mask_bands, n_time_masks, max_mask_s
        SpecAugment (Park et al. 2019, arXiv:1904.08779): masks per clip and their largest width.
    mixup_alpha
        Beta distribution of mixup (Zhang et al. 2018, arXiv:1710.09412) between two clips of a batch.
    mixup_probability
        How often a batch is mixed.
    pitch_probability, max_semitones
        Pitch shift, tempo kept: how often, and the largest, either way.
    stretch_probability, max_stretch
        Time stretch, pitch kept: how often, and the largest relative change of tempo, either way.
    roll_probability, max_roll_s
        Rotation of the clip, its end at its start: how often, and by how much at most, either way.
    reverb_probability, min_rt60_s, max_rt60_s, min_drr_db, max_drr_db
        Made-up rooms: how often, their reverberation time, and the direct sound's energy over the reverberation's.
    babble_probability, n_voices, min_babble_snr_db, max_babble_snr_db
        Other clips of the batch in the background: how often, how many, and how much weaker together.
    clip_probability, max_drive_db
        Overdriven microphone: how often, and by how much at most.
    telephone_probability
        Narrow-band telephone: how often.
    codec_probability, min_codec_quality, max_codec_quality
        Vorbis, Opus or MP3, whichever is drawn: how often, and how good, 0 to 1.
    equaliser_db
        Other microphones: a smooth curve over the bands of a log-mel, this far up or down at most, zero on the average
        (FilterAugment, Nam et al. 2022, arXiv:2110.03282, in its linear form).
    style_probability, style_alpha
        Mean and deviation of each band moved towards those of another clip of the same emotion: how often, and the Beta
        distribution of how far (MixStyle, Zhou et al. 2021, arXiv:2104.02008, over the bands as Kim et al. 2022,
        arXiv:2206.12513; that the partner shares the emotion is ours).
    """

    speed: float = 0.0
    gain_db: float = 0.0
    noise_probability: float = 0.0
    min_snr_db: float = 10.0
    max_snr_db: float = 40.0
    tempo: float = 0.0
    warp: float = 0.0
    n_band_masks: int = 0
    max_mask_bands: int = 12
    n_time_masks: int = 0
    max_mask_s: float = 0.4
    mixup_alpha: float = 0.0
    mixup_probability: float = 0.0
    pitch_probability: float = field(default=0.0, metadata=LATER)
    max_semitones: float = field(default=2.0, metadata=LATER)
    stretch_probability: float = field(default=0.0, metadata=LATER)
    max_stretch: float = field(default=0.2, metadata=LATER)
    roll_probability: float = field(default=0.0, metadata=LATER)
    max_roll_s: float = field(default=0.25, metadata=LATER)
    reverb_probability: float = field(default=0.0, metadata=LATER)
    min_rt60_s: float = field(default=0.1, metadata=LATER)
    max_rt60_s: float = field(default=0.8, metadata=LATER)
    min_drr_db: float = field(default=-5.0, metadata=LATER)
    max_drr_db: float = field(default=10.0, metadata=LATER)
    babble_probability: float = field(default=0.0, metadata=LATER)
    n_voices: int = field(default=3, metadata=LATER)
    min_babble_snr_db: float = field(default=5.0, metadata=LATER)
    max_babble_snr_db: float = field(default=25.0, metadata=LATER)
    clip_probability: float = field(default=0.0, metadata=LATER)
    max_drive_db: float = field(default=12.0, metadata=LATER)
    telephone_probability: float = field(default=0.0, metadata=LATER)
    codec_probability: float = field(default=0.0, metadata=LATER)
    min_codec_quality: float = field(default=0.0, metadata=LATER)
    max_codec_quality: float = field(default=0.7, metadata=LATER)
    equaliser_db: float = field(default=0.0, metadata=LATER)
    style_probability: float = field(default=0.0, metadata=LATER)
    style_alpha: float = field(default=0.3, metadata=LATER)

    def __post_init__(self) -> None:
        for probability, step in self.waveform_steps():
            if not 0 <= probability <= 1:
                raise ValueError(f"{step['kind']}_probability must be between 0 and 1, got {probability}")
            check_steps([step])

    def waveform_steps(self) -> list[tuple[float, dict[str, Any]]]:
        """Return (probability, step) of what :func:`augment_waveforms` does, in that order, for those that are on.

        The order is the sound's own way: the voice, the room, other people in it, the microphone, the line.
        """
        rt60_s, drr_db = (self.min_rt60_s, self.max_rt60_s), (self.min_drr_db, self.max_drr_db)
        snr_db = (self.min_babble_snr_db, self.max_babble_snr_db)
        quality = (self.min_codec_quality, self.max_codec_quality)
        steps = [
            (self.pitch_probability, _between("pitch", semitones=(-self.max_semitones, self.max_semitones))),
            (self.stretch_probability, _between("stretch", rate=(1 - self.max_stretch, 1 + self.max_stretch))),
            (self.roll_probability, _between("roll", shift_s=(-self.max_roll_s, self.max_roll_s))),
            (self.reverb_probability, _between("reverb", rt60_s=rt60_s, drr_db=drr_db)),
            (self.babble_probability, _between("babble", snr_db=snr_db) | {"n_voices": self.n_voices}),
            (self.clip_probability, _between("clip", drive_db=(0.0, self.max_drive_db))),
            (self.telephone_probability, {"kind": "telephone"}),
            (self.codec_probability, _between("codec", quality=quality) | {"codec": list(CODECS)}),
        ]
        return [(probability, step) for probability, step in steps if probability]


def _between(kind: str, **ranges: tuple[float, float]) -> dict[str, Any]:
    step: dict[str, Any] = {"kind": kind}
    for name, (low, high) in ranges.items():
        step |= {f"min_{name}": low, f"max_{name}": high}
    return step


# ---------------------------------------------------------------------------------------------- steps


@dataclass(frozen=True)
class Amount:
    """A number of a step: where it may lie, what it is unless given (None: it has to be), whether it is whole."""

    low: float
    high: float
    default: float | None = None
    whole: bool = False


@dataclass(frozen=True)
class StepKind:
    """A kind of step.

    Attributes
    ----------
    apply
        Function (waveform, **what was drawn) -> waveform, deterministic.
    amounts
        Numbers that a step has, by key.
    either
        Two amounts of which a step has exactly one.
    choices
        Names that a step has, by key, out of these; the first is taken where the key is missing.
    draw
        Function (rng, n_samples, others, **values) -> arguments of ``apply``, where there is more to draw than numbers.
    """

    apply: Callable[..., np.ndarray]
    amounts: Mapping[str, Amount] = field(default_factory=dict)
    either: tuple[str, ...] = ()
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    draw: Callable[..., dict[str, Any]] | None = None


def check_steps(steps: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError where a list of steps cannot be applied; the message says what to change.

    Examples
    --------
    >>> check_steps([{"kind": "noise", "rate": 0.025}, {"kind": "pitch", "min_semitones": 0, "max_semitones": 0.7}])
    >>> check_steps([{"kind": "pitch", "octaves": 1}])
    Traceback (most recent call last):
    ...
    ValueError: unknown key 'octaves' in step 1 (pitch); it takes: semitones (or min_semitones and max_semitones)
    """
    if isinstance(steps, str | Mapping) or not all(isinstance(step, Mapping) for step in steps):
        raise ValueError(f"steps must be a list of tables, each with a kind, got {steps!r}")
    for number, step in enumerate(steps, start=1):
        name = step.get("kind")
        if not isinstance(name, str) or name not in STEPS:
            raise ValueError(f"step {number} needs a kind out of: {', '.join(STEPS)}; got {name!r}")
        _check_step(step, STEPS[name], f"step {number} ({name})")


def _check_step(step: Mapping[str, Any], kind: StepKind, where: str) -> None:
    known = {"kind", *kind.choices, *(side + name for name in kind.amounts for side in ("", "min_", "max_"))}
    if unknown := [key for key in step if key not in known]:
        takes = [f"{name} (or min_{name} and max_{name})" for name in kind.amounts] + list(kind.choices)
        raise ValueError(f"unknown key {unknown[0]!r} in {where}; it takes: {', '.join(takes) or 'none'}")
    given = {name for name, amount in kind.amounts.items() if _check_amount(step, name, amount, where)}
    if kind.either and len(given.intersection(kind.either)) != 1:
        raise ValueError(f"{where} needs either {' or '.join(kind.either)}")
    for name, amount in kind.amounts.items():
        if name not in given and name not in kind.either and amount.default is None:
            raise ValueError(f"{where} needs {name}, or min_{name} and max_{name}")
    for name, allowed in kind.choices.items():
        wanted = _as_list(step.get(name, allowed[0]))
        if not wanted or any(value not in allowed for value in wanted):
            raise ValueError(f"{name} in {where} must be one or more of {', '.join(allowed)}; got {step[name]!r}")


def _check_amount(step: Mapping[str, Any], name: str, amount: Amount, where: str) -> bool:
    """Whether a step says how much; ValueError where it says so badly."""
    keys = [key for key in (name, f"min_{name}", f"max_{name}") if key in step]
    if keys not in ([], [name], [f"min_{name}", f"max_{name}"]):
        raise ValueError(f"{where} needs {name} alone, or both min_{name} and max_{name}; it has {', '.join(keys)}")
    number = int if amount.whole else int | float
    for key in keys:
        value = step[key]
        if not isinstance(value, number) or isinstance(value, bool) or not amount.low <= value <= amount.high:
            expected = "a whole number" if amount.whole else "a number"
            raise ValueError(f"{key} in {where} must be {expected}, {amount.low:g} to {amount.high:g}; got {value!r}")
    if len(keys) == 2 and step[keys[0]] > step[keys[1]]:
        raise ValueError(f"{keys[0]} is above {keys[1]} in {where}: {step[keys[0]]} and {step[keys[1]]}")
    return bool(keys)


def _as_list(names: Any) -> list[Any]:
    return list(names) if isinstance(names, list | tuple) else [names]


def apply_steps(
    waveform: np.ndarray,
    steps: Sequence[Mapping[str, Any]],
    rng: np.random.Generator,
    *,
    others: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Return an altered copy of a clip, (n_samples,) float32, at most full scale: one step after the other.

    The same generator state gives the same copy. Lists of steps that begin alike draw alike until they part, so that
    copies made with equal seeds share their noise, as where a published system stretches the clip that it made noisy.

    Parameters
    ----------
    waveform : (n_samples,)
        At least one sample, 16 kHz. It is not changed.
    steps
        See the table above.
    others
        Clips that babble is mixed from, (n,) each, at any level, float or int16; only babble looks at them.

    Raises
    ------
    ValueError
        If a step has an unknown kind or key, or babble finds no other clip.

    Examples
    --------
    >>> steps = [{"kind": "stretch", "rate": 0.8}, {"kind": "gain", "min_gain_db": -6, "max_gain_db": 0}]
    >>> apply_steps(np.ones(16_000, np.float32), steps, np.random.default_rng(0)).shape
    (20000,)
    """
    check_steps(steps)
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(f"expected a mono waveform, (n_samples,), of one sample or more, got {waveform.shape}")
    altered = np.asarray(waveform, np.float32)
    for step in steps:
        arguments = draw_step(step, rng, len(altered), others)
        altered = STEPS[step["kind"]].apply(altered, **arguments)
    altered = limit_peak(altered)
    return altered.copy() if np.may_share_memory(altered, waveform) else altered


def draw_step(
    step: Mapping[str, Any], rng: np.random.Generator, n_samples: int, others: Sequence[np.ndarray] = ()
) -> dict[str, Any]:
    """All that is random about a step on a clip of ``n_samples``, as the arguments of its kind's ``apply``."""
    kind = STEPS[step["kind"]]
    values: dict[str, Any] = {}
    for name, amount in kind.amounts.items():
        if f"min_{name}" in step:
            low, high = step[f"min_{name}"], step[f"max_{name}"]
            values[name] = int(rng.integers(low, high + 1)) if amount.whole else float(rng.uniform(low, high))
        elif name in step or amount.default is not None:
            values[name] = step.get(name, amount.default)
    for name, allowed in kind.choices.items():
        wanted = _as_list(step.get(name, allowed[0]))
        values[name] = wanted[int(rng.integers(len(wanted)))] if len(wanted) > 1 else wanted[0]
    return values if kind.draw is None else kind.draw(rng, n_samples, others, **values)


def _draw_noise_step(
    rng: np.random.Generator, n_samples: int, others: Any, *, rate: float = 0.0, **values: Any
) -> dict[str, Any]:
    white = rng.standard_normal(n_samples, dtype=np.float32)
    return {**values, "white": white, "amplitude": rate * float(rng.uniform())}


def _add_noise_step(
    waveform: np.ndarray, white: np.ndarray, amplitude: float, colour: str, snr_db: float | None = None
) -> np.ndarray:
    noise = colour_noise(white, colour)
    return mix_noise_by_peak(waveform, noise, amplitude) if snr_db is None else mix_noise(waveform, noise, snr_db)


def _draw_babble(
    rng: np.random.Generator, n_samples: int, others: Sequence[np.ndarray], *, snr_db: float, n_voices: int
) -> dict[str, Any]:
    if not len(others):
        raise ValueError("babble is mixed from other clips, and there are none: pass others, or leave the step out")
    chosen = rng.choice(len(others), size=min(n_voices, len(others)), replace=False)
    return {"snr_db": snr_db, "voices": [_cut_voice(others[k], float(rng.uniform()), n_samples) for k in chosen]}


def _cut_voice(clip: np.ndarray, start: float, n_samples: int) -> np.ndarray:
    """Part of a clip, (n_samples,) float32, from a share of its length on; where it ends it begins again."""
    if not len(clip):
        return np.zeros(n_samples, np.float32)
    first = int(start * len(clip))
    repeats = -(-(first + n_samples) // len(clip))
    return np.tile(clip, repeats)[first : first + n_samples].astype(np.float32)


def _add_babble(waveform: np.ndarray, voices: Sequence[np.ndarray], snr_db: float) -> np.ndarray:
    return mix_noise(waveform, mix_voices(voices), snr_db)


def _draw_room(
    rng: np.random.Generator, n_samples: int, others: Any, *, rt60_s: float, drr_db: float
) -> dict[str, Any]:
    n_tail = max(1, min(round(rt60_s * SAMPLE_RATE), n_samples))
    return {"rt60_s": rt60_s, "drr_db": drr_db, "white": rng.standard_normal(n_tail, dtype=np.float32)}


def _add_room(waveform: np.ndarray, white: np.ndarray, rt60_s: float, drr_db: float) -> np.ndarray:
    return reverberate(waveform, room_response(white, rt60_s, drr_db))


def _change_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
    changed = change_speed(waveform, factor)
    return changed if len(changed) else waveform[:1]  # of very short clips played faster, nothing is left


STEPS = {
    "noise": StepKind(
        _add_noise_step,
        {"snr_db": Amount(-100, 100), "rate": Amount(0, 10)},
        either=("snr_db", "rate"),
        choices={"colour": tuple(COLOURS)},
        draw=_draw_noise_step,
    ),
    "babble": StepKind(
        _add_babble, {"snr_db": Amount(-100, 100), "n_voices": Amount(1, 100, 3, whole=True)}, draw=_draw_babble
    ),
    "pitch": StepKind(pitch_shift, {"semitones": Amount(-24, 24)}),
    "stretch": StepKind(time_stretch, {"rate": Amount(0.1, 10)}),
    "speed": StepKind(_change_speed, {"factor": Amount(0.1, 10)}),
    "roll": StepKind(roll, {"shift_s": Amount(-600, 600)}, choices={"fill": ("wrap", "zeros")}),
    "gain": StepKind(change_level, {"gain_db": Amount(-100, 100)}),
    "reverb": StepKind(_add_room, {"rt60_s": Amount(0.01, 10), "drr_db": Amount(-60, 60, 0.0)}, draw=_draw_room),
    "telephone": StepKind(telephone),
    "codec": StepKind(transcode, {"quality": Amount(0, 1)}, choices={"codec": tuple(CODECS)}),
    "clip": StepKind(overdrive, {"drive_db": Amount(0, 100)}),
}


# ---------------------------------------------------------------------------------------------- on the fly


def augment_waveforms(
    waveforms: Sequence[np.ndarray], rng: np.random.Generator, config: AugmentConfig
) -> list[np.ndarray]:
    """Return a batch's clips, each altered with the probabilities of ``config``; babble is made of the batch's others.

    Only stretch changes lengths. A clip that is alone in its batch gets no babble. Where nothing is on, the same
    arrays come back and nothing is drawn.

    Parameters
    ----------
    waveforms
        (n_samples,) float32 each, 16 kHz; they are not changed.
    """
    steps = config.waveform_steps()
    altered = []
    for row, waveform in enumerate(waveforms):
        others = [*waveforms[:row], *waveforms[row + 1 :]]
        chosen = [step for probability, step in steps if rng.uniform() < probability]
        chosen = [step for step in chosen if others or step["kind"] != "babble"]
        altered.append(apply_steps(waveform, chosen, rng, others=others) if chosen else waveform)
    return altered


def draw_speed(rng: np.random.Generator, config: AugmentConfig) -> float:
    """Speed factor, 1 + U(-speed, speed), on a grid of 1 % so that the resampler's filters are reused."""
    return round(1 + rng.uniform(-config.speed, config.speed), 2)


def change_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
    """Waveform, (n_samples / factor,), played ``factor`` times as fast: pitch and tempo rise together."""
    if factor == 1:
        return waveform
    return soxr.resample(waveform, SAMPLE_RATE * factor, SAMPLE_RATE, quality="QQ")


def change_gain(waveform: Tensor, gain_db: Tensor) -> Tensor:
    """Waveform, (batch, n_samples), louder by ``gain_db``, (batch,)."""
    return waveform * (10 ** (gain_db / 20))[:, None]


def add_noise(waveform: Tensor, noise: Tensor, snr_db: Tensor, lengths: Tensor) -> Tensor:
    """Waveform plus noise at a signal-to-noise ratio.

    Parameters
    ----------
    waveform, noise : (batch, n_samples)
    snr_db : (batch,)
        Ratio of the powers over the valid samples; infinity adds nothing.
    lengths : (batch,) int64
        Valid samples; nothing is added behind them.
    """
    valid = (torch.arange(waveform.shape[1], device=waveform.device)[None] < lengths[:, None]).float()
    noise = noise * valid
    ratio = waveform.square().sum(1) / noise.square().sum(1).clamp_min(1e-12)
    return waveform + noise * (ratio * 10 ** (-snr_db / 10)).sqrt()[:, None]


def draw_noise(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Gaussian noise, (batch, n_samples) float32, of a colour between white and about -6 dB per octave."""
    white = rng.standard_normal(shape, dtype=np.float32)
    smooth = rng.uniform(0, 0.9, (shape[0], 1)).astype(np.float32)
    brown: np.ndarray = white.copy()
    brown[:, 1:] += smooth * white[:, :-1]
    brown[:, 2:] += smooth**2 * white[:, :-2]
    return brown


def warp_spectrogram(features: Tensor, tempo: Tensor, warp: Tensor) -> Tensor:
    """Features resampled in time and frequency, (batch, n_features, n_frames), bilinearly.

    Parameters
    ----------
    features : (batch, n_features, n_frames)
    tempo : (batch,)
        Above 1 is faster: frame ``t`` comes from frame ``t * tempo``. What ran out of the clip is zero.
    warp : (batch,)
        Above 1 moves formants down: band ``f`` comes from band ``f * warp``, the edge repeated.
    """
    _, n_bands, n_frames = features.shape
    frame = torch.arange(n_frames, device=features.device)[None] * tempo[:, None]  # (B, T)
    band = (torch.arange(n_bands, device=features.device)[None] * warp[:, None]).clamp_max(n_bands - 1)  # (B, F)
    grid = torch.stack(
        [
            (2 * frame / max(n_frames - 1, 1) - 1)[:, None].expand(-1, n_bands, -1),
            (2 * band / max(n_bands - 1, 1) - 1)[:, :, None].expand(-1, -1, n_frames),
        ],
        dim=3,
    )  # (B, F, T, 2)
    return F.grid_sample(features[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)[:, 0]


def draw_equaliser(rng: np.random.Generator, n_rows: int, n_bands: int, max_db: float) -> np.ndarray:
    """Gains of an equaliser, (n_rows, n_bands) float32 in dB: straight between six points, mean zero."""
    points = rng.uniform(-max_db, max_db, (n_rows, N_EQUALISER_POINTS))
    place = np.linspace(0, N_EQUALISER_POINTS - 1, n_bands)
    left = np.minimum(place.astype(int), N_EQUALISER_POINTS - 2)
    share = place - left
    gains = points[:, left] * (1 - share) + points[:, left + 1] * share
    return (gains - gains.mean(axis=1, keepdims=True)).astype(np.float32)


def draw_masks(rng: np.random.Generator, n_rows: int, n_masks: int, max_width: int, size: int) -> np.ndarray:
    """SpecAugment's masks of one axis, (n_rows, size) float32: 0 under a mask, 1 elsewhere."""
    width = rng.integers(0, max_width + 1, (n_rows, n_masks, 1))
    start = rng.integers(0, np.maximum(1, size - width), (n_rows, n_masks, 1))
    position = np.arange(size)
    covered = (position >= start) & (position < start + width)  # (n_rows, n_masks, size)
    return np.where(covered.any(axis=1), np.float32(0), np.float32(1))


def mix(rows: Tensor, partner: Tensor, share: Tensor | float) -> Tensor:
    """``share`` of each row plus ``1 - share`` of its partner's row; ``partner`` (batch,) indexes rows."""
    return share * rows + (1 - share) * rows[partner]


def draw_partners(rng: np.random.Generator, kind: np.ndarray) -> np.ndarray:
    """For each row another row of the same ``kind`` (n,), (n,) int64; a row that is the only one is its own partner."""
    partner = np.arange(len(kind))
    for value in np.unique(kind):
        rows = rng.permutation(np.flatnonzero(kind == value))
        partner[rows] = np.roll(rows, 1)
    return partner


def mix_styles(features: Tensor, mask: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """Move mean and deviation of each band, over the valid frames, towards the partner's.

    Parameters
    ----------
    features, mask
        (batch, bands, frames), zero where ``mask`` (batch, frames) is, which is one elsewhere.
    partner, share
        (batch,) row indices, and how much of a row's own statistics is kept: 1 leaves it as it is.
    """
    mask = mask[:, None].to(features.dtype)
    count = mask.sum(2, keepdim=True).clamp(min=1)
    mean = (features * mask).sum(2, keepdim=True) / count
    std = (((features - mean) * mask).square().sum(2, keepdim=True) / count + 1e-6).sqrt()
    keep = share[:, None, None]
    normal = (features - mean) / std
    return (normal * mix(std, partner, keep) + mix(mean, partner, keep)) * mask

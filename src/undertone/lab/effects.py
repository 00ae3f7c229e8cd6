"""Effects on a waveform: other voices, rooms, telephones, codecs, pitch and tempo.

A waveform is (n_samples,) float32, mono, in [-1, 1], at 16 kHz. Every function is deterministic: what is random (noise,
the tail of a room) is drawn by the caller and passed in. Each takes one sample, silence and full scale, keeps silence
silent, and returns finite float32 of the length stated. What comes out may be louder than full scale; ``limit_peak``
is the way back.
"""

import io
import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache

import numpy as np
import soundfile
import soxr
import torch

from undertone.audio import SAMPLE_RATE

N_FFT, HOP_LENGTH = 2048, 512  # samples; librosa's own, at whatever rate: 128 ms at 16 kHz, 93 ms at 22,050 Hz
LOWEST_HZ = 20.0  # coloured noise has nothing below: inaudible, but it would carry most of brown noise's power
COLOURS = {"white": 0.0, "pink": 0.5, "brown": 1.0}  # amplitude falls as frequency to the power of minus this
CODECS = {"vorbis": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III")}
CODEC_BLOCK = 16_384  # samples per write: libsndfile has crashed on one very long Vorbis write
MAX_COMPRESSION = 0.99  # LAME refuses 1.0
PHONE_EDGES_HZ = (200.0, 300.0, 3_400.0, 3_600.0)  # silent, full, full, silent: the band of narrow-band telephony
PHONE_RATE = 8_000  # Hz
MU = 255  # G.711
_TINY = 1e-20  # of a magnitude: below, a phase is rounding


# ---------------------------------------------------------------------------------------------- level


def limit_peak(waveform: np.ndarray) -> np.ndarray:
    """Waveform scaled down as a whole to a peak of 1 where it is louder; the same array where it is not.

    Examples
    --------
    >>> limit_peak(np.array([0.5, -2.0], dtype=np.float32))
    array([ 0.25, -1.  ], dtype=float32)
    """
    peak = _peak(waveform)
    return waveform if peak <= 1 else waveform / np.float32(peak)


def change_level(waveform: np.ndarray, gain_db: float) -> np.ndarray:
    """Waveform, louder by ``gain_db``."""
    return waveform * np.float32(10 ** (gain_db / 20))


def overdrive(waveform: np.ndarray, drive_db: float) -> np.ndarray:
    """Waveform, (n_samples,), as from a microphone driven ``drive_db`` too hard: flat tops, the peak where it was."""
    peak = np.float32(_peak(waveform))
    ceiling = peak * np.float32(10 ** (-drive_db / 20))
    return waveform if ceiling == 0 else np.clip(waveform, -ceiling, ceiling) * (peak / ceiling)


def _peak(waveform: np.ndarray) -> float:
    return max(float(waveform.max()), -float(waveform.min()))


# ---------------------------------------------------------------------------------------------- noise


def colour_noise(white: np.ndarray, colour: str) -> np.ndarray:
    """White noise turned white, pink (-3 dB per octave) or brown (-6), from 20 Hz up; (n_samples,) float32."""
    if colour == "white":
        return white
    n = _fft_length(len(white))
    spectrum = np.fft.rfft(white, n)
    first = math.ceil(LOWEST_HZ * n / SAMPLE_RATE)
    spectrum[:first] = 0
    spectrum[first:] *= np.arange(first, len(spectrum), dtype=np.float32) ** np.float32(-COLOURS[colour])
    return np.fft.irfft(spectrum, n)[: len(white)].astype(np.float32)


def mix_noise(waveform: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Waveform plus noise, both (n_samples,), whose powers over the clip are ``snr_db`` apart.

    Nothing is added to silence, and silence adds nothing.
    """
    power, noise_power = _power(waveform), _power(noise)
    if power == 0 or noise_power == 0:
        return waveform
    return waveform + noise * np.float32(math.sqrt(power / noise_power * 10 ** (-snr_db / 10)))


def mix_noise_by_peak(waveform: np.ndarray, white: np.ndarray, amplitude: float) -> np.ndarray:
    """Waveform plus white noise of standard deviation ``amplitude`` times the largest sample: ``y + a max(y) N(0, 1)``.

    The form that published student systems share. The largest sample is ``max(y)``, not ``max(|y|)``, as in theirs.
    """
    return waveform + white * np.float32(amplitude * float(waveform.max()))


def mix_voices(voices: Sequence[np.ndarray]) -> np.ndarray:
    """Babble: the sum of voices, (n_samples,) each, all made equally loud; silent ones add nothing."""
    babble = np.zeros(len(voices[0]), np.float32)
    for voice in voices:
        if power := _power(voice):
            babble += voice * np.float32(1 / math.sqrt(power))
    return babble


def _power(waveform: np.ndarray) -> float:
    """Mean square; of a voice in int16 units it stays far below float32's largest number."""
    return float(np.dot(waveform, waveform)) / len(waveform)


# ---------------------------------------------------------------------------------------------- pitch and tempo


def time_stretch(waveform: np.ndarray, rate: float) -> np.ndarray:
    """Waveform, (round(n_samples / rate),), ``rate`` times as fast at the same pitch, by phase vocoder.

    References
    ----------
    Flanagan & Golden, Phase vocoder, Bell System Technical Journal 45, 1966. librosa 0.11 ``effects.time_stretch`` at
    the same sample rate, given float64 (its float32 phases drift by up to 6e-3): 3e-4 of the largest sample, on
    speech over a noise floor (bins that hold nothing but rounding have no phase to agree on).

    Examples
    --------
    >>> time_stretch(np.zeros(16_000, np.float32), 0.8).shape
    (20000,)
    """
    if rate <= 0:
        raise ValueError(f"rate must be positive, got {rate}")
    spectrum = _stft(waveform)  # (T, F)
    magnitude = np.abs(spectrum)
    unit = np.where(magnitude > _TINY, spectrum * (1 / np.maximum(magnitude, _TINY)), np.complex64(1))
    magnitude = np.pad(magnitude, ((0, 1), (0, 0)))  # a frame of silence behind the last
    unit = np.pad(unit, ((0, 1), (0, 0)), constant_values=1)
    position = np.arange(0, len(spectrum), rate)  # in frames of the original
    position = position[position < len(spectrum)]  # rounding may let arange reach its end
    frame, share = position.astype(int), (position % 1).astype(np.float32)[:, None]
    stretched = (1 - share) * magnitude[frame] + share * magnitude[frame + 1]
    # Analysis and synthesis hop are equal, so that a bin turns by the angle between the two frames, whatever its
    # frequency: a product of unit numbers, without an angle to unwrap.
    turn = unit[frame[:-1] + 1] * unit[frame[:-1]].conj()
    phase = torch.cumprod(torch.from_numpy(np.concatenate([unit[:1], turn])), dim=0).numpy()
    return _istft(stretched * phase, max(1, round(len(waveform) / rate)))


def pitch_shift(waveform: np.ndarray, semitones: float) -> np.ndarray:
    """Waveform, (n_samples,), higher by ``semitones`` at the same tempo; formants move along.

    References
    ----------
    librosa 0.11 ``effects.pitch_shift`` at the same sample rate, given float64: 3e-4 of the largest sample, on
    speech over a noise floor.
    """
    rate = 2 ** (-semitones / 12)
    stretched = time_stretch(waveform, rate)
    return _fit(soxr.resample(stretched, SAMPLE_RATE / rate, SAMPLE_RATE, quality="HQ"), len(waveform))


def roll(waveform: np.ndarray, shift_s: float, *, fill: str = "wrap") -> np.ndarray:
    """Waveform, (n_samples,), later by ``shift_s``; its end comes back at its start, or with ``"zeros"`` does not."""
    shift = round(shift_s * SAMPLE_RATE)
    rolled = np.roll(waveform, shift)
    if fill == "zeros" and shift:
        rolled[slice(0, shift) if shift > 0 else slice(shift, None)] = 0
    return rolled


_WINDOW = torch.hann_window(N_FFT, dtype=torch.float64).float()


def _stft(waveform: np.ndarray) -> np.ndarray:
    """Spectrum, (n_frames, n_bins) complex64, of centred frames, zeros around the clip."""
    samples = torch.from_numpy(np.ascontiguousarray(waveform, np.float32))
    spectrum = torch.stft(
        samples, N_FFT, HOP_LENGTH, N_FFT, _WINDOW, center=True, pad_mode="constant", return_complex=True
    )
    return spectrum.T.contiguous().numpy()


def _istft(spectrum: np.ndarray, n_samples: int) -> np.ndarray:
    """Overlap-add of (n_frames, n_bins), (n_samples,) float32; zeros where the frames end before."""
    n_parts = N_FFT // HOP_LENGTH
    window = _WINDOW.numpy().reshape(n_parts, HOP_LENGTH)
    parts = torch.fft.irfft(torch.from_numpy(spectrum), N_FFT).numpy().reshape(-1, n_parts, HOP_LENGTH) * window
    total = np.zeros((len(parts) + n_parts - 1, HOP_LENGTH), np.float32)
    weight = np.zeros_like(total)
    for part in range(n_parts):
        total[part : part + len(parts)] += parts[:, part]
        weight[part : part + len(parts)] += window[part] ** 2
    whole = (total / np.where(weight > np.finfo(np.float32).tiny, weight, 1)).ravel()
    return _fit(whole[N_FFT // 2 :], n_samples)


# ---------------------------------------------------------------------------------------------- rooms and channels


def room_response(white: np.ndarray, rt60_s: float, drr_db: float) -> np.ndarray:
    """Impulse response of a made-up room: the direct sound, then noise that dies away.

    Parameters
    ----------
    white : (n_samples,)
        Noise for the tail, as long as the response is to be; behind ``rt60_s`` it is not heard.
    rt60_s
        Time in which the tail falls by 60 dB.
    drr_db
        Energy of the direct sound over that of the tail.

    Returns
    -------
    np.ndarray
        (n_samples,) float32; the direct sound is a 1 at sample 0, so that the clip stays where and as loud as it was.
    """
    time_s = np.arange(len(white), dtype=np.float32) / SAMPLE_RATE
    tail = white * np.exp(np.float32(-3 * math.log(10) / rt60_s) * time_s)
    tail[0] = 0
    energy = float(np.dot(tail, tail))
    response = tail * np.float32(math.sqrt(10 ** (-drr_db / 10) / energy)) if energy else tail
    response[0] = 1
    return response


def reverberate(waveform: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Waveform in a room, by its impulse response; (n_samples,): the tail behind the clip's end is cut."""
    n = _fft_length(len(waveform) + len(response) - 1)
    product = np.fft.rfft(waveform, n) * np.fft.rfft(response, n)
    return np.fft.irfft(product, n)[: len(waveform)].astype(np.float32)


def telephone(waveform: np.ndarray) -> np.ndarray:
    """Waveform, (n_samples,), as over an old telephone: 300 to 3,400 Hz, 8 kHz, mu-law of 8 bits (ITU-T G.711).

    References
    ----------
    librosa 0.11 ``mu_compress`` before rounding; ours has 255 levels of which one is zero, so that silence is silent.
    """
    n = _fft_length(len(waveform) + 2 * SAMPLE_RATE // 100)  # 20 ms behind the end: filters wrap around
    n_phone = n * PHONE_RATE // SAMPLE_RATE
    frequency_hz = np.arange(n_phone // 2 + 1, dtype=np.float32) * (SAMPLE_RATE / n)
    gain = np.interp(frequency_hz, PHONE_EDGES_HZ, (0, 1, 1, 0)).astype(np.float32)
    narrow = np.fft.irfft(np.fft.rfft(waveform, n)[: len(gain)] * gain, n_phone) * np.float32(n_phone / n)
    coded = _round_mu_law(narrow.astype(np.float32))
    return (np.fft.irfft(np.fft.rfft(coded), n)[: len(waveform)] * (n / n_phone)).astype(np.float32)


def _round_mu_law(waveform: np.ndarray) -> np.ndarray:
    compressed = np.log1p(MU * np.minimum(np.abs(waveform), 1)) / np.float32(math.log1p(MU))
    level = np.round(compressed * (MU // 2)) / np.float32(MU // 2)
    return np.copysign(np.expm1(level * np.float32(math.log1p(MU))) / MU, waveform)


def transcode(waveform: np.ndarray, codec: str, quality: float) -> np.ndarray:
    """Waveform, (n_samples,), encoded and decoded again, in memory, by libsndfile.

    Parameters
    ----------
    codec
        ``"vorbis"``, ``"opus"`` or ``"mp3"``, at variable bit rate.
    quality
        1 is the codec's best, 0 its smallest: on speech at 16 kHz about 60, 230 and 50 kbit/s, and 23, 8 and 15.
    """
    if not waveform.any():
        return waveform  # a codec's silence is not quite zero
    container, subtype = CODECS[codec]
    file = io.BytesIO()
    compression = MAX_COMPRESSION * (1 - quality)
    with soundfile.SoundFile(
        file, "w", SAMPLE_RATE, 1, format=container, subtype=subtype, compression_level=compression
    ) as encoder:
        for start in range(0, len(waveform), CODEC_BLOCK):
            encoder.write(waveform[start : start + CODEC_BLOCK])
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    return _fit(decoded, len(waveform))


def _fit(waveform: np.ndarray, n_samples: int) -> np.ndarray:
    """Cut at the end, or fill with zeros, to (n_samples,)."""
    if len(waveform) >= n_samples:
        return waveform[:n_samples]
    return np.concatenate([waveform, np.zeros(n_samples - len(waveform), waveform.dtype)])


def _fft_length(n: int) -> int:
    """Smallest even number from ``n`` on that has no prime factor above 5: FFTs of others take longer."""
    lengths = _fast_lengths()
    return lengths[bisect_left(lengths, n)]


@cache
def _fast_lengths() -> list[int]:
    return sorted(2**i * 3**j * 5**k for i in range(1, 31) for j in range(20) for k in range(14))

"""Which moments and which frequencies made the difference: silence one at a time, and see what the model says then.

A cell is an equal part of a clip's duration in one of the bands, which are equally wide on the mel scale. Its
importance is the fall of the emotion's calibrated probability when that cell alone is silenced (occlusion): 0.2 means
84 % with it, 64 % without; negative, that the emotion would be heard more without it. Nothing is learnt, nothing
drawn at random.

A cell is cut out of the short-time spectrum, by its frames (those whose middle lies in it) and bins, and turned back
into sound by overlap-add; the sounds of all cells add up to the clip itself. What is left when one is taken away is
given to the model file as any other sound: no access to its inside, so it works with every model.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from undertone.audio import SAMPLE_RATE, Source, load_waveform
from undertone.recognizer import Recognizer

N_TIMES = 16
N_BANDS = 8
MAX_CELLS = 1_024  # each is one more run of the network
MAX_BANDS = 32  # narrower ones would hold no bin of the spectrum
MAX_DURATION_S = 30.0
MIN_CELL_S = 0.032  # no shorter than what a frame sees

N_FFT = 512  # samples: 32 ms
HOP_LENGTH = 128  # samples: each is seen by four frames
GROUP_SIZE = 16  # altered clips in memory at a time


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """How much each part of a clip matters for one emotion.

    Attributes
    ----------
    emotion
        What is explained.
    prob
        Its calibrated probability in the whole clip, [0, 1].
    times_s
        (n_times + 1,) edges of the cells in seconds, from 0 to the clip's duration.
    bands_hz
        (n_bands + 1,) edges of the cells in Hz, from 0 to 8,000, equally far apart on the mel scale.
    importance
        (n_bands, n_times) fall of ``prob`` when that cell alone is silenced, [-1, 1]; the lowest band comes first.
    """

    emotion: str
    prob: float
    times_s: np.ndarray
    bands_hz: np.ndarray
    importance: np.ndarray

    @property
    def by_time(self) -> np.ndarray:
        """(n_times,) sums over the bands."""
        return self.importance.sum(axis=0)

    @property
    def by_band(self) -> np.ndarray:
        """(n_bands,) sums over time."""
        return self.importance.sum(axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types: seconds with three decimals, Hz with one, probabilities with six."""
        return {
            "emotion": self.emotion,
            "prob": round(self.prob, 6),
            "times_s": np.round(self.times_s, 3).tolist(),
            "bands_hz": np.round(self.bands_hz, 1).tolist(),
            "importance": np.round(self.importance, 6).tolist(),
        }


def explain(
    recognizer: Recognizer,
    source: Source,
    *,
    sample_rate: int | None = None,
    emotion: str | None = None,
    n_times: int = N_TIMES,
    n_bands: int = N_BANDS,
    on_progress: Callable[[int], object] | None = None,
) -> Explanation:
    """Silence each cell of a clip in turn and measure how far the emotion's probability falls.

    Costs ``n_times * n_bands + 1`` predictions of the clip.

    Parameters
    ----------
    source, sample_rate
        As :func:`undertone.audio.load_waveform` takes them; up to ``MAX_DURATION_S``.
    emotion
        One of the recognizer's labels; the one it hears if None.
    n_times
        Cells along time; fewer in a clip so short that they would last less than ``MIN_CELL_S``.
    n_bands
        Cells along frequency, up to ``MAX_BANDS``; ``n_times * n_bands`` up to ``MAX_CELLS``.
    on_progress
        Called with the number of cells done so far.

    Raises
    ------
    AudioError
        If the sound cannot be used, or is too long.
    ValueError
        If the model does not know the emotion, or the cells are too many or none.

    Examples
    --------
    >>> import undertone
    >>> explanation = undertone.explain(undertone.load_model(), "clip.wav")  # doctest: +SKIP
    >>> explanation.by_time.argmax()  # doctest: +SKIP
    5
    """
    if emotion is not None and emotion not in recognizer.labels:
        raise ValueError(f"this model knows no emotion {emotion!r}; it has {', '.join(recognizer.labels)}")
    if n_times < 1 or not 1 <= n_bands <= MAX_BANDS or n_times * n_bands > MAX_CELLS:
        raise ValueError(
            f"{n_times} times x {n_bands} bands; give at least one of each, at most {MAX_BANDS} bands and "
            f"{MAX_CELLS} cells in all"
        )
    waveform = load_waveform(source, sample_rate=sample_rate, max_duration_s=MAX_DURATION_S)
    cells = Cells(waveform, n_times, n_bands)
    probs = _predict(recognizer, chain([waveform], cells.silenced()), on_progress)
    index = int(probs[0].argmax()) if emotion is None else recognizer.labels.index(emotion)
    prob = float(probs[0, index])
    return Explanation(
        emotion=recognizer.labels[index],
        prob=prob,
        times_s=cells.times_s,
        bands_hz=cells.bands_hz,
        importance=(prob - probs[1:, index]).reshape(cells.shape),
    )


def _predict(
    recognizer: Recognizer, waveforms: Iterator[np.ndarray], on_progress: Callable[[int], object] | None
) -> np.ndarray:
    """Return (n, n_classes) probabilities; a few of the waveforms are in memory at a time."""
    probs: list[list[float]] = []
    while group := list(islice(waveforms, GROUP_SIZE)):
        predictions = recognizer.predict_batch(group, sample_rate=SAMPLE_RATE, on_error="raise")
        probs += [list(prediction.probs.values()) for prediction in predictions]
        if on_progress:
            on_progress(len(probs) - 1)  # the first is the clip itself
    return np.array(probs)


class Cells:
    """A waveform cut into parts in time and frequency, which add up to it.

    Parameters
    ----------
    waveform
        (n_samples,) float32 at 16 kHz.
    n_times, n_bands
        As :func:`explain` takes them.
    """

    def __init__(self, waveform: np.ndarray, n_times: int, n_bands: int) -> None:
        duration_s = len(waveform) / SAMPLE_RATE
        n_times = min(n_times, max(1, int(duration_s / MIN_CELL_S)))
        self.shape = (n_bands, n_times)
        self.times_s = np.linspace(0.0, duration_s, n_times + 1)
        self.bands_hz = mel_to_hz(np.linspace(0.0, hz_to_mel(SAMPLE_RATE / 2), n_bands + 1))
        self._waveform = waveform
        self._spectrum = spectrum(waveform)  # (n_frames, n_bins)
        n_frames, n_bins = self._spectrum.shape
        middles_s = (np.arange(n_frames) * HOP_LENGTH - N_FFT / 2) / SAMPLE_RATE
        bins_hz = np.arange(n_bins) * SAMPLE_RATE / N_FFT
        self._frames = [0, *np.searchsorted(middles_s, self.times_s[1:-1]), n_frames]
        self._bins = [0, *np.searchsorted(bins_hz, self.bands_hz[1:-1]), n_bins]

    def silenced(self) -> Iterator[np.ndarray]:
        """Yield the waveform without each of the cells, (n_samples,) float32: all times of the lowest band first."""
        n_bands, n_times = self.shape
        for band in range(n_bands):
            for time in range(n_times):
                yield self._waveform - self.part(band, time)

    def part(self, band: int, time: int) -> np.ndarray:
        """Return the sound of one cell, (n_samples,) float32."""
        first, end = self._frames[time], self._frames[time + 1]
        low, high = self._bins[band], self._bins[band + 1]
        kept = np.zeros((end - first, self._spectrum.shape[1]), complex)
        kept[:, low:high] = self._spectrum[first:end, low:high]
        sound = overlap_add(kept)
        start = first * HOP_LENGTH - N_FFT  # of the sound, in the waveform
        part = np.zeros_like(self._waveform)
        inside = slice(max(0, start), max(0, min(start + len(sound), len(part))))
        part[inside] = sound[inside.start - start : inside.stop - start]
        return part


def spectrum(waveform: np.ndarray) -> np.ndarray:
    """Return the short-time spectrum, (n_frames, N_FFT // 2 + 1) complex.

    Frame k has its middle at sample ``k * HOP_LENGTH - N_FFT / 2``. The waveform has silence before and after it here,
    so that each of its samples is seen by the same number of frames.
    """
    n_after = N_FFT + (-len(waveform)) % HOP_LENGTH
    padded = np.pad(waveform.astype(np.float64), (N_FFT, n_after))
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP_LENGTH]
    return np.fft.rfft(frames * _WINDOW, axis=1)


def overlap_add(frames_spectrum: np.ndarray) -> np.ndarray:
    """Return the sound of consecutive frames, (n,): that of all is the waveform with N_FFT zeros before it."""
    frames = np.fft.irfft(frames_spectrum, N_FFT, axis=1) * _WINDOW / 2.0  # the squared windows add up to 2
    n_overlaps = N_FFT // HOP_LENGTH
    sound = np.zeros((len(frames) + n_overlaps - 1, HOP_LENGTH))
    for index, quarter in enumerate(np.split(frames, n_overlaps, axis=1)):
        sound[index : index + len(frames)] += quarter
    return sound.ravel()


def hz_to_mel(hz: Any) -> Any:
    """Mel of a frequency: ``2595 log10(1 + f / 700)``, O'Shaughnessy's formula."""
    return 2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0)


def mel_to_hz(mel: Any) -> Any:
    """Frequency of a mel value, the inverse of :func:`hz_to_mel`.

    Examples
    --------
    >>> round(float(mel_to_hz(hz_to_mel(1_000.0))), 6)
    1000.0
    """
    return 700.0 * (10.0 ** (np.asarray(mel) / 2595.0) - 1.0)


_WINDOW = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT))  # square root of Hann, before and after

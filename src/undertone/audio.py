"""Audio in, waveform out: open anything safely, mix to mono, resample to 16 kHz, block by block.

A waveform is a float32 array of shape (n_samples,), mono, in [-1, 1], at ``SAMPLE_RATE``.
Durations end in ``_s``, counts start with ``n_``.

Each input has a stated outcome: "refused" is an :class:`AudioError` that says what to do, "used" a waveform.

=================================================  =======================================================
input                                              outcome
=================================================  =======================================================
missing file, folder, empty file, no permission    refused
FIFO, device, socket                               refused without opening it, so nothing can hang
text or anything else under an audio name          refused, by name where it is known (M4A, WebM, ...)
WAV codecs beyond PCM, float, A-law, mu-law        refused (IMA and MS ADPCM, GSM, MP3 in WAV, ...)
AIFF-C under a ``.wav`` name                       used: the content decides
truncated file, damage in the middle               what comes before is used, with a logged warning where
                                                   the header declares more; refused if nothing comes before
header claims more samples than there are          as truncated; "unknown length" warns nobody
header claims more than ``max_duration_s``         refused before anything is decoded; for WAV and AIFF the
                                                   size of the file counts instead
decoding yields more than ``max_duration_s``       refused at that point, whatever the header says
0 samples (also after resampling)                  refused
1 sample                                           used: how short is too short is the model's business
silence                                            used: zeros
DC offset                                          used and kept: nothing is subtracted
clipped (flat tops)                                used as it is
NaN or infinity, in a file or an array             refused, with the time of the first
beyond [-1, 1], up to ``MAX_PEAK``                 used, cut to [-1, 1] after mixing and resampling
beyond ``MAX_PEAK``                                refused: these are unscaled integers
1 to ``MAX_CHANNELS`` channels (8, say)            used: their mean
more channels, or none                             refused
8 kHz, 192 kHz                                     used: resampled by soxr, quality HQ
not ``MIN_SAMPLE_RATE`` to ``MAX_SAMPLE_RATE``     refused
array without ``sample_rate``, or a file with one  refused
=================================================  =======================================================

Warnings go to the logger ``undertone.audio``. How formats are told apart and read: ``undertone.containers``.
"""

import io
import logging
import math
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from undertone.containers import BLOCK_FRAMES, AudioError, AudioInfo, open_container, to_float

__all__ = [
    "AUDIO_SUFFIXES",
    "MAX_CHANNELS",
    "MAX_DURATION_S",
    "MAX_PEAK",
    "MAX_RECORDING_S",
    "MAX_SAMPLE_RATE",
    "MIN_SAMPLE_RATE",
    "SAMPLE_RATE",
    "AudioError",
    "AudioInfo",
    "audio_info",
    "find_audio",
    "load_waveform",
    "stream_blocks",
    "stream_channels",
]

SAMPLE_RATE = 16_000  # Hz; every model of this package runs at this rate
MAX_DURATION_S = 600.0  # of a clip held in memory: 38 MB of float32
MAX_RECORDING_S = 24 * 3_600.0  # of a recording read block by block
MAX_CHANNELS = 32
MIN_SAMPLE_RATE = 1_000  # Hz
MAX_SAMPLE_RATE = 384_000  # Hz
MAX_PEAK = 10.0  # full scale is 1; audio this far above it was never scaled
AUDIO_SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc")

_MISSING_S = 0.25  # shortfall against the header from which the user is told

_log = logging.getLogger(__name__)

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | np.ndarray


def load_waveform(
    source: Source, *, sample_rate: int | None = None, max_duration_s: float = MAX_DURATION_S
) -> np.ndarray:
    """Return a whole clip as a waveform, (n_samples,) float32, mono, [-1, 1], 16 kHz.

    Parameters
    ----------
    source
        A path; encoded audio as bytes or as a binary file object (read from its start, left open); or a
        numpy array of shape (n_samples,) or (n_samples, n_channels), the layout of soundfile, scipy,
        sounddevice and Gradio (librosa and torchaudio keep channels first: pass ``array.T``). Float arrays
        are in [-1, 1]; int8, int16 and int32 are scaled by their type, uint8 around 128; others are refused.
    sample_rate
        Hz, of an array: required there, refused elsewhere, because a file states its own.
    max_duration_s
        Longer sources are refused, by their header and again while decoding.

    Returns
    -------
    np.ndarray
        (n_samples,) float32, contiguous, at least one sample.

    Raises
    ------
    AudioError
        If the source cannot be used; the table at the top of this module lists every case.

    Examples
    --------
    >>> load_waveform(np.array([0, 16384, -32768], dtype=np.int16), sample_rate=16_000)
    array([ 0. ,  0.5, -1. ], dtype=float32)
    >>> load_waveform(np.zeros((48_000, 2)), sample_rate=48_000).shape
    (16000,)
    """
    return np.concatenate(list(stream_blocks(source, sample_rate=sample_rate, max_duration_s=max_duration_s)))


def stream_blocks(
    source: Source, *, sample_rate: int | None = None, max_duration_s: float = MAX_RECORDING_S
) -> Iterator[np.ndarray]:
    """Yield a source as consecutive pieces of its waveform, in memory that does not grow with its length.

    Takes what :func:`load_waveform` takes and refuses what it refuses; errors are raised while iterating,
    those of the header at the first step. All blocks in a row are the waveform of :func:`load_waveform`.

    Yields
    ------
    np.ndarray
        (n,) float32, mono, [-1, 1], 16 kHz; n is at least 1 and varies.
    """
    with _opened(source, sample_rate) as sound:
        check_header(sound.info, max_duration_s)
        yield from _finish(map(_mix, _checked(sound, max_duration_s)), sound.info.sample_rate, n_channels=1)


def stream_channels(
    source: Source, *, sample_rate: int | None = None, max_duration_s: float = MAX_RECORDING_S
) -> Iterator[np.ndarray]:
    """Yield a source as :func:`stream_blocks` does, with its channels kept apart instead of mixed.

    Yields
    ------
    np.ndarray
        (n, n_channels) float32, [-1, 1], 16 kHz; n is at least 1 and varies.
    """
    with _opened(source, sample_rate) as sound:
        check_header(sound.info, max_duration_s)
        frames = (np.ascontiguousarray(block, dtype=np.float32) for block in _checked(sound, max_duration_s))
        yield from _finish(frames, sound.info.sample_rate, n_channels=sound.info.n_channels)


def audio_info(source: Source, *, sample_rate: int | None = None) -> AudioInfo:
    """Return what the header of a source declares, without decoding it.

    Examples
    --------
    >>> audio_info(np.zeros((8_000, 2)), sample_rate=16_000).duration_s
    0.5
    """
    with _opened(source, sample_rate) as sound:
        check_header(sound.info)
        return sound.info


def find_audio(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the audio files among and below ``paths``, sorted, each once.

    Folders are searched to any depth for ``AUDIO_SUFFIXES`` in any case; hidden files (such as the
    ``._x.wav`` that macOS leaves behind) are skipped and links to folders are not followed. Anything that is
    no folder is kept as given, whatever its suffix and even if missing: loading it says what is wrong.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    found: set[Path] = set()
    for path in map(Path, paths):
        is_folder = os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises where a name is too long or out of reach
        found.update(_audio_below(path) if is_folder else [path])
    return sorted(found)


def _audio_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)


# ---- from any source to blocks of frames ----


@dataclass(frozen=True, slots=True)
class _Sound:
    """An opened source: its header, and its frames in order, (n, n_channels) floats of full scale 1."""

    name: str
    info: AudioInfo
    blocks: Iterator[np.ndarray]


@contextmanager
def _opened(source: Source, sample_rate: int | None) -> Iterator[_Sound]:
    """Open a source; every error that leaves here is an AudioError that starts with the source's name."""
    name = _name(source)
    try:
        with ExitStack() as stack:
            if isinstance(source, np.ndarray):
                info, blocks = _open_array(source, sample_rate)
            else:
                if sample_rate is not None:
                    raise AudioError("states its own sample rate; leave sample_rate out (it is for arrays)")
                info, blocks = open_container(_open_file(source, stack), stack)
            yield _Sound(name, info, blocks)
    except AudioError as error:
        raise AudioError(f"{name}: {error}") from error.__cause__
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from error


def mono_blocks(array: np.ndarray, *, sample_rate: int) -> Iterator[np.ndarray]:
    """Yield an array as float32 blocks, mono and at its own rate, checked and scaled as :func:`load_waveform` does.

    For sound that arrives in pieces: an empty array yields nothing, and who takes the blocks resamples them.
    """
    with _opened(array, sample_rate) as sound:
        check_header(sound.info)
        yield from map(_mix, _checked(sound, math.inf))


def _name(source: object) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source) or "''"
    if isinstance(source, np.ndarray):
        return f"array of shape {source.shape}"
    if isinstance(name := getattr(source, "name", None), str):
        return name
    return "audio data"


def check_header(info: AudioInfo, max_duration_s: float = math.inf) -> None:
    """Refuse channels, a sample rate or a declared duration out of range, with an AudioError."""
    if not 1 <= info.n_channels <= MAX_CHANNELS:
        hint = " (channels come last: pass array.T)" if info.format == "array" else ""
        raise AudioError(f"has {info.n_channels} channels; 1 to {MAX_CHANNELS} can be mixed to mono{hint}")
    if not MIN_SAMPLE_RATE <= info.sample_rate <= MAX_SAMPLE_RATE:
        raise AudioError(
            f"has a sample rate of {info.sample_rate} Hz; "
            f"rates from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz can be resampled"
        )
    if info.duration_s is not None and info.duration_s > max_duration_s:
        raise _too_long(f"lasts {info.duration_s:.1f} s by its header", max_duration_s)


def _too_long(what: str, max_duration_s: float) -> AudioError:
    return AudioError(
        f"{what}, more than the {max_duration_s:g} s allowed here; cut it into clips, raise max_duration_s, "
        "or read it block by block with stream_blocks"
    )


def _checked(sound: _Sound, max_duration_s: float) -> Iterator[np.ndarray]:
    """Yield the frames of a source, (n, n_channels), checked for length and for impossible values."""
    sample_rate = sound.info.sample_rate
    n_done = 0
    for frames in sound.blocks:
        with np.errstate(all="ignore"):  # signalling NaN, overflow: both end as a peak that is not <= MAX_PEAK
            peak = np.maximum(-frames.min(), frames.max())
        if not peak <= MAX_PEAK:
            raise _no_audio(frames, peak, n_done, sample_rate)
        n_done += len(frames)
        if n_done > max_duration_s * sample_rate:
            raise _too_long(f"goes on after {n_done / sample_rate:.1f} s", max_duration_s)
        yield frames
    done_s = n_done / sample_rate
    declared_s = ((sound.info.n_samples or 0) + sound.info.n_missing) / sample_rate
    if 0 < done_s < declared_s - _MISSING_S:
        text = "%s: ends after %.2f s of the %.2f s its header declares; only that part is used"
        _log.warning(text, sound.name, done_s, declared_s)


def _no_audio(frames: np.ndarray, peak: float, n_before: int, sample_rate: int) -> AudioError:
    if np.isfinite(frames).all():
        return AudioError(
            f"has a peak of {peak:g} where full scale is 1; scale it first (divide 16-bit values by 32768)"
        )
    first = int(np.argmin(np.isfinite(frames).all(axis=1)))
    return AudioError(
        f"holds NaN or infinite values, the first after {(n_before + first) / sample_rate:.3f} s; "
        "replace them, for example with numpy.nan_to_num, or record it again"
    )


def _mix(frames: np.ndarray) -> np.ndarray:
    """Return the mean of the channels, (n,) float32."""
    mono = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)
    return np.ascontiguousarray(mono, dtype=np.float32)


def _finish(blocks: Iterator[np.ndarray], sample_rate: int, *, n_channels: int) -> Iterator[np.ndarray]:
    """Yield blocks at SAMPLE_RATE in [-1, 1]; there has to be at least one sample."""
    is_empty = True
    for block in _resample(blocks, sample_rate, n_channels):
        if len(block):
            is_empty = False
            yield np.clip(block, -1.0, 1.0)
    if is_empty:
        raise AudioError("holds no samples; record or export it again")


def _resample(blocks: Iterator[np.ndarray], sample_rate: int, n_channels: int) -> Iterator[np.ndarray]:
    """Yield blocks at SAMPLE_RATE; as a whole, round(n * SAMPLE_RATE / sample_rate) samples."""
    if sample_rate == SAMPLE_RATE:
        yield from blocks
        return
    import soxr  # only here: 16 kHz input does without

    resampler = soxr.ResampleStream(sample_rate, SAMPLE_RATE, n_channels, dtype="float32", quality="HQ")
    rest = np.empty(0, np.float32)
    for block in blocks:
        yield resampler.resample_chunk(block)
        rest = block[:0]
    yield resampler.resample_chunk(rest, last=True)


# ---- arrays ----


def _open_array(array: np.ndarray, sample_rate: int | None) -> tuple[AudioInfo, Iterator[np.ndarray]]:
    if sample_rate is None:
        raise AudioError("an array does not know its sample rate; pass sample_rate=, in Hz")
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, int | np.integer):
        raise AudioError(f"sample_rate is {sample_rate!r}; pass a whole number of Hz")
    if array.dtype.kind != "f" and array.dtype.str[1:] not in ("u1", "i1", "i2", "i4"):
        raise AudioError(
            f"values of type {array.dtype} have no known full scale; "
            "pass float in [-1, 1], or int8, int16, int32 or uint8 PCM"
        )
    if array.ndim not in (1, 2):
        raise AudioError("expected shape (n_samples,) or (n_samples, n_channels)")
    frames = np.asarray(array if array.ndim == 2 else array[:, np.newaxis])
    info = AudioInfo("array", int(sample_rate), frames.shape[1], len(frames))
    return info, (to_float(frames[i : i + BLOCK_FRAMES]) for i in range(0, len(frames), BLOCK_FRAMES))


# ---- files ----


def _open_file(source: object, stack: ExitStack) -> BinaryIO:
    """Return a seekable binary file; those opened here are closed by ``stack``."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if isinstance(source, str | os.PathLike):
        return stack.enter_context(_open_path(source))
    if not hasattr(source, "read"):
        raise AudioError("expected a path, bytes, a binary file object or a numpy array")
    try:
        if not isinstance(source.read(0), bytes):  # type: ignore[attr-defined]
            raise AudioError("is open as text; open it in binary mode, 'rb'")
        source.seek(0)  # type: ignore[attr-defined]
    except AudioError:
        raise
    except (OSError, ValueError, AttributeError) as error:
        raise AudioError("is closed or cannot seek; pass its bytes instead: file.read()") from error
    return source  # type: ignore[return-value]


def _open_path(path: str | os.PathLike[str]) -> BinaryIO:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - keeps '' and bytes paths what they are
        if stat.S_ISDIR(mode):
            raise AudioError("is a folder; pass the files in it, which find_audio lists")
        if stat.S_ISREG(mode):
            file = open(path, "rb", opener=_open_nonblocking)  # noqa: SIM115 - the caller closes it
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file
            file.close()  # swapped for something else between the two checks
    except FileNotFoundError as error:
        raise AudioError("there is no such file; check the path") from error
    except PermissionError as error:
        raise AudioError("permission denied; make the file readable for this user") from error
    except AudioError:
        raise
    except ValueError as error:  # a NUL character
        raise AudioError(f"is no valid path: {error}") from error
    raise AudioError("is no regular file (a device, pipe or socket); save it to a file first")


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))

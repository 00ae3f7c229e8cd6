"""The bytes of audio files: what a file is, what its header declares, and its frames, block by block.

A file is what its first bytes say. WAV and AIFF are parsed and decoded here, in numpy; FLAC, Ogg Vorbis, Ogg
Opus and MP3 go to libsndfile through a :class:`Window` that starts at the very bytes that were checked. So
libsndfile never sees a RIFF or FORM file, and its ADPCM readers (CVE-2026-37555) cannot be reached by a
second 'fmt ' chunk, an ID3 tag in front, or a size field that leads its search for chunks astray.

Sizes in headers are claims: nothing is allocated by them, and reading stops at the end of the file.
"""

import math
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

BLOCK_FRAMES = 4_096  # decoded at a time; also what a damaged file can lose before its damage
_VALUE_FRAMES = 16_384  # of WAV and AIFF, where nothing is lost: fewer blocks take half the time

_MAX_CHUNKS = 1_000  # of a WAV or AIFF file; more is a file made to keep us busy
_UNKNOWN_LENGTH = 0x7FFF_0000  # data sizes from here on are how streaming writers say "until the end"

_READABLE = "WAV, FLAC, Ogg Vorbis, Ogg Opus, MP3 or AIFF"
_CODECS = "PCM, float, A-law and mu-law"
_CONVERT = "convert it first, for example: ffmpeg -i IN -ac 1 -ar 16000 OUT.flac"


class AudioError(ValueError):
    """A source that cannot be used as audio; the message says what to change."""


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a source says about itself before it is decoded; the content may hold less.

    Attributes
    ----------
    format
        Container and codec in words, such as ``"WAV, 16-bit PCM"`` or ``"Ogg Opus"``.
    sample_rate
        Hz, before resampling.
    n_channels
        Before mixing.
    n_samples
        Per channel at ``sample_rate``: what the header declares, but no more than a WAV or AIFF file has room
        for; None where the header does not say.
    n_missing
        Declared, but beyond the end of the file.
    """

    format: str
    sample_rate: int
    n_channels: int
    n_samples: int | None
    n_missing: int = 0

    @property
    def duration_s(self) -> float | None:
        """Seconds of ``n_samples``, or None."""
        return None if self.n_samples is None else self.n_samples / self.sample_rate


class Window:
    """A binary file from ``start`` on, which for every reader is position 0.

    libsndfile reads through ``seek``, ``tell`` and ``read``; none of them may raise on a wild offset, since
    an exception inside its callbacks would be printed and lost.
    """

    def __init__(self, file: BinaryIO, start: int = 0):
        self.file = file
        self.start = start
        file.seek(0, os.SEEK_END)  # not every file object returns the position
        self.n_bytes = max(0, file.tell() - start)
        self.position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to ``offset``, or to the nearest position that exists, and return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.n_bytes}[whence]
        self.position = min(max(0, base + offset), self.n_bytes)
        return self.position

    def tell(self) -> int:
        """Return the position, in bytes from the start of the window."""
        return self.position

    def read(self, n_bytes: int) -> bytes:
        """Return up to ``n_bytes`` from the position on."""
        self.file.seek(self.start + self.position)
        content = self.file.read(max(0, min(n_bytes, self.n_bytes - self.position))) or b""
        self.position += len(content)
        return content

    def read_at(self, position: int, n_bytes: int) -> bytes:
        """Return up to ``n_bytes`` from ``position`` on."""
        self.seek(position)
        return self.read(n_bytes)


# first bytes of what people have and we do not read: offset, magic, name
_UNREADABLE = (
    (0, b"RIFX", "a big-endian WAV file"),
    (0, b"riff", "a Sony Wave64 file"),
    (0, b"caff", "an Apple CAF file"),
    (0, b".snd", "a Sun AU file"),
    (4, b"ftyp", "an MP4, M4A or 3GP file"),
    (0, b"\x1a\x45\xdf\xa3", "a WebM or Matroska file"),
    (0, b"\x30\x26\xb2\x75", "a Windows Media file"),
    (0, b"#!AMR", "an AMR file"),
    (0, b"#!SILK", "a SILK file"),
    (0, b"PK\x03\x04", "a zip archive: unpack it"),
)


def open_container(file: BinaryIO, stack: ExitStack) -> tuple[AudioInfo, Iterator[np.ndarray]]:
    """Return the header of an audio file and its frames in order.

    Parameters
    ----------
    file
        Binary and seekable; read from its start.
    stack
        Closes what was opened for reading, at the end.

    Returns
    -------
    tuple
        What the header declares, and an iterator of (n, n_channels) float arrays of full scale 1, n at most
        ``_VALUE_FRAMES``. The header is unchecked except for the container's own rules.

    Raises
    ------
    AudioError
        If the file is no audio, or not of a kind that is on the list, or damaged from its first sample on.
    """
    window = Window(file)
    head = window.read_at(0, 512)
    if not head:
        raise AudioError("is empty; record or download it again")
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _open_wav(window)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _open_aiff(window)
    if head[:3] == b"ID3":  # tags of any size come before MP3, sometimes before FLAC
        window = Window(file, _end_of_id3(window))
        head = window.read_at(0, 512)
    if head[:4] == b"fLaC":
        return _open_sndfile(window, "FLAC", stack)
    if head[:4] == b"OggS":
        return _open_sndfile(window, _ogg_codec(head), stack)
    if _is_mp3(head):
        return _open_sndfile(window, "MP3", stack)
    raise _unreadable(head)


def _unreadable(head: bytes) -> AudioError:
    for offset, magic, kind in _UNREADABLE:
        if head[offset:].startswith(magic):
            return AudioError(f"is {kind}, which is not read here; {_CONVERT}")
    if head and all(byte >= 32 or byte in b"\t\n\r" for byte in head):
        return AudioError(f"is text, whatever its name says; expected {_READABLE}")
    return AudioError(f"is not {_READABLE}, whatever its name says; {_CONVERT}")


def _end_of_id3(window: Window) -> int:
    """Return where ID3v2 tags end: a 10-byte header with the size in four 7-bit bytes, perhaps a footer."""
    position = 0
    for _ in range(_MAX_CHUNKS):
        header = window.read_at(position, 10)
        if len(header) < 10 or header[:3] != b"ID3":
            break
        size = sum((byte & 0x7F) << shift for byte, shift in zip(header[6:], (21, 14, 7, 0), strict=True))
        position += 10 + size + (10 if header[5] & 0x10 else 0)
    return position


def _is_mp3(head: bytes) -> bool:
    """Return whether an MPEG audio frame header starts here; its reserved values mean that it does not."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer != 0 and bitrate != 15 and rate != 3  # layer 0 is AAC


def _ogg_codec(head: bytes) -> str:
    """Return the codec that the first page announces, after 27 bytes of header and its segment table."""
    packet = head[27 + head[26] :] if len(head) > 27 else b""
    if packet.startswith(b"\x01vorbis"):
        return "Ogg Vorbis"
    if packet.startswith(b"OpusHead"):
        return "Ogg Opus"
    raise AudioError(f"is an Ogg file that holds neither Vorbis nor Opus; {_CONVERT}")


def _open_sndfile(window: Window, name: str, stack: ExitStack) -> tuple[AudioInfo, Iterator[np.ndarray]]:
    import soundfile

    window.seek(0)
    try:
        sound = stack.enter_context(soundfile.SoundFile(window))  # type: ignore[arg-type]
    except soundfile.LibsndfileError as error:
        raise AudioError(f"is a damaged {name} file; export it again") from error
    # soundfile seeks after each read of a seekable file, which makes MP3 decoders start over
    sound.seekable = lambda: False  # type: ignore[method-assign]
    n_samples = sound.frames if 0 <= sound.frames < 2**62 else None  # libsndfile's "unknown" is 2**63 - 1
    info = AudioInfo(name, sound.samplerate, sound.channels, n_samples)
    return info, _sndfile_blocks(sound, name)


def _sndfile_blocks(sound, name: str) -> Iterator[np.ndarray]:
    import soundfile

    n_done = 0
    while True:
        frames = np.empty((BLOCK_FRAMES, sound.channels), np.float32)
        try:
            frames = sound.read(out=frames)
        except soundfile.LibsndfileError as error:
            if n_done == 0:
                raise AudioError(f"is a damaged {name} file; export it again") from error
            return  # what came before is used
        if len(frames) == 0:
            return
        n_done += len(frames)
        yield frames


@dataclass(frozen=True, slots=True)
class _Encoding:
    """How one value is stored: its code ("<i2", ">i3", "<f4", "u1", "alaw", "ulaw") and its bytes."""

    code: str
    n_bytes: int


_LAWS = {"alaw": _Encoding("alaw", 1), "ulaw": _Encoding("ulaw", 1)}
_PCM, _FLOAT, _ALAW, _ULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE  # WAV format tags
_REFUSED_TAGS = {
    0x02: "MS ADPCM",
    0x11: "IMA ADPCM",
    0x31: "GSM 6.10",
    0x50: "MPEG",
    0x55: "MP3",
    0xFF: "AAC",
}
# Windows writes an extensible file's codec as a GUID: the tag, then always these 14 bytes
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")

# AIFF-C compression types: kind, byte order, bytes per value where the type fixes them
_AIFC_CODECS = {
    b"NONE": ("i", ">", None),
    b"twos": ("i", ">", None),
    b"sowt": ("i", "<", None),
    b"raw ": ("u", ">", 1),
    b"in24": ("i", ">", 3),
    b"in32": ("i", ">", 4),
    b"fl32": ("f", ">", 4),
    b"FL32": ("f", ">", 4),
    b"fl64": ("f", ">", 8),
    b"FL64": ("f", ">", 8),
}
_AIFC_LAWS = {b"alaw": "alaw", b"ALAW": "alaw", b"ulaw": "ulaw", b"ULAW": "ulaw"}


def _find_chunks(window: Window, byte_order: str, wanted: tuple[bytes, ...]) -> dict[bytes, tuple[int, int]]:
    """Return where the first chunk of each wanted kind starts and what size it declares."""
    found: dict[bytes, tuple[int, int]] = {}
    position = 12
    for _ in range(_MAX_CHUNKS):
        header = window.read_at(position, 8)
        if len(header) < 8 or len(found) == len(wanted):
            break
        name, size = header[:4], struct.unpack(byte_order + "I", header[4:])[0]
        if name in wanted:
            found.setdefault(name, (position + 8, size))
        position += 8 + size + size % 2
    return found


def _open_wav(window: Window) -> tuple[AudioInfo, Iterator[np.ndarray]]:
    is_64 = window.read_at(0, 4) != b"RIFF"
    chunks = _find_chunks(window, "<", (b"ds64", b"fmt ", b"data") if is_64 else (b"fmt ", b"data"))
    if b"fmt " not in chunks or b"data" not in chunks:
        raise AudioError("is a damaged WAV file (no 'fmt ' or no 'data' chunk); export it again")
    start, size = chunks[b"fmt "]
    codec, sample_rate, n_channels, encoding = _parse_wav_format(window.read_at(start, min(size, 40)))
    start, n_declared = chunks[b"data"]
    if is_64 and b"ds64" in chunks:
        sizes = window.read_at(chunks[b"ds64"][0], 16)
        n_declared = int.from_bytes(sizes[8:], "little")
    elif n_declared >= _UNKNOWN_LENGTH or (n_declared == 0 and _is_unclosed(window, start)):
        n_declared = window.n_bytes - start
    return _open_values(window, start, n_declared, f"WAV, {codec}", sample_rate, n_channels, encoding)


def _is_unclosed(window: Window, data_start: int) -> bool:
    """Return whether the writer stopped before it filled in the sizes: RIFF's size ends before the data."""
    riff_size = int.from_bytes(window.read_at(4, 4), "little")
    return riff_size + 8 <= data_start < window.n_bytes


def _parse_wav_format(content: bytes) -> tuple[str, int, int, _Encoding]:
    """Return codec, sample rate, channels and encoding of a 'fmt ' chunk; refuse what is not on the list."""
    if len(content) < 16:
        raise AudioError("is a damaged WAV file ('fmt ' chunk cut short); export it again")
    tag, n_channels, sample_rate, _, n_frame_bytes, n_bits = struct.unpack("<HHIIHH", content[:16])
    if tag == _EXTENSIBLE:
        if len(content) < 40 or content[26:40] != _GUID_TAIL:
            raise AudioError(f"is a WAV file with a codec that is not read here; {_CONVERT}")
        tag = int.from_bytes(content[24:26], "little")
    n_bytes = -(-n_bits // 8)
    if tag == _PCM and 1 <= n_bytes <= 4:
        codec, encoding = f"{n_bits}-bit PCM", _Encoding("u1" if n_bytes == 1 else f"<i{n_bytes}", n_bytes)
    elif tag == _FLOAT and n_bits in (32, 64):
        codec, encoding = f"{n_bits}-bit float", _Encoding(f"<f{n_bytes}", n_bytes)
    elif tag in (_ALAW, _ULAW) and n_bits == 8:
        codec, encoding = ("A-law", _LAWS["alaw"]) if tag == _ALAW else ("mu-law", _LAWS["ulaw"])
    else:
        codec = _REFUSED_TAGS.get(tag, f"codec {tag:#x}, {n_bits} bit")
        raise AudioError(f"is a WAV file with {codec}; only {_CODECS} are read here; {_CONVERT}")
    if n_channels == 0 or n_frame_bytes != n_channels * n_bytes:
        raise AudioError(
            f"is a damaged WAV file ({n_channels} channels of {n_bits} bit in {n_frame_bytes} bytes); export it again"
        )
    return codec, sample_rate, n_channels, encoding


def _open_aiff(window: Window) -> tuple[AudioInfo, Iterator[np.ndarray]]:
    chunks = _find_chunks(window, ">", (b"COMM", b"SSND"))
    if b"COMM" not in chunks or b"SSND" not in chunks:
        raise AudioError("is a damaged AIFF file (no 'COMM' or no 'SSND' chunk); export it again")
    start, size = chunks[b"COMM"]
    compression = b"NONE" if window.read_at(8, 4) == b"AIFF" else window.read_at(start + 18, 4)
    content = window.read_at(start, min(size, 18))
    if len(content) < 18:
        raise AudioError("is a damaged AIFF file ('COMM' chunk cut short); export it again")
    n_channels, _, n_bits, exponent, mantissa = struct.unpack(">HIHHQ", content)
    encoding = _aiff_encoding(compression, n_bits)
    if n_channels == 0:
        raise AudioError("is a damaged AIFF file (0 channels); export it again")
    start, size = chunks[b"SSND"]
    offset = int.from_bytes(window.read_at(start, 4), "big")  # of the first frame; a block size follows
    n_declared = max(0, (window.n_bytes - start if size >= _UNKNOWN_LENGTH else size) - 8 - offset)
    name = f"AIFF, {n_bits}-bit {compression.decode('latin-1').strip()}"
    sample_rate = _extended_to_int(exponent, mantissa)
    return _open_values(window, start + 8 + offset, n_declared, name, sample_rate, n_channels, encoding)


def _aiff_encoding(compression: bytes, n_bits: int) -> _Encoding:
    if compression in _AIFC_LAWS:
        return _LAWS[_AIFC_LAWS[compression]]
    kind, byte_order, n_bytes = _AIFC_CODECS.get(compression, ("", "", None))
    n_bytes = n_bytes or -(-n_bits // 8)
    if not kind or (kind == "i" and not 1 <= n_bytes <= 4):
        raise AudioError(
            f"is an AIFF file with codec {compression!r}, {n_bits} bit; only {_CODECS} are read here; {_CONVERT}"
        )
    return _Encoding(f"{kind}{n_bytes}" if n_bytes == 1 else f"{byte_order}{kind}{n_bytes}", n_bytes)


def _extended_to_int(exponent: int, mantissa: int) -> int:
    """Return the 80-bit float of an AIFF sample rate in Hz; 0, refused later, where it is none."""
    power = exponent - 16_383 - 63  # the mantissa has 63 bits after its point
    return round(math.ldexp(mantissa, power)) if -63 <= power < 0 else 0


def _open_values(
    window: Window,
    start: int,
    n_declared: int,
    name: str,
    sample_rate: int,
    n_channels: int,
    encoding: _Encoding,
) -> tuple[AudioInfo, Iterator[np.ndarray]]:
    """Return the blocks of values from ``start`` to the declared or the real end, whichever comes first."""
    n_frame_bytes = n_channels * encoding.n_bytes
    n_frames = max(0, min(n_declared, window.n_bytes - start)) // n_frame_bytes
    info = AudioInfo(name, sample_rate, n_channels, n_frames, n_declared // n_frame_bytes - n_frames)

    def blocks() -> Iterator[np.ndarray]:
        for first in range(0, n_frames, _VALUE_FRAMES):
            n = min(_VALUE_FRAMES, n_frames - first)
            content = window.read_at(start + first * n_frame_bytes, n * n_frame_bytes)
            content = content[: len(content) // n_frame_bytes * n_frame_bytes]
            if not content:
                return
            yield _decode(content, encoding).reshape(-1, n_channels)

    return info, blocks()


def _decode(content: bytes, encoding: _Encoding) -> np.ndarray:
    """Return stored values as floats of full scale 1, exactly as libsndfile would."""
    code = encoding.code
    if code == "alaw":
        return _expand_alaw(np.frombuffer(content, np.uint8))
    if code == "ulaw":
        return _expand_ulaw(np.frombuffer(content, np.uint8))
    if code.endswith("i3"):  # numpy has no 3-byte integer: make it the upper bytes of four
        narrow = np.frombuffer(content, np.uint8).reshape(-1, 3)
        wide = np.zeros((len(narrow), 4), np.uint8)
        wide[:, slice(1, 4) if code[0] == "<" else slice(0, 3)] = narrow
        return to_float(wide.view(code[0] + "i4")[:, 0])
    return to_float(np.frombuffer(content, code))


def _expand_ulaw(values: np.ndarray) -> np.ndarray:
    """Return ITU-T G.711 mu-law as floats: sign, 3 bits of exponent, 4 of mantissa, all inverted."""
    inverted = ~values
    magnitude = ((inverted & 0x0F).astype(np.int32) * 8 + 132 << (inverted >> 4 & 7)) - 132
    return np.where(inverted & 0x80, -magnitude, magnitude).astype(np.float32) / 32_768


def _expand_alaw(values: np.ndarray) -> np.ndarray:
    """Return ITU-T G.711 A-law as floats: like mu-law, but every other bit is inverted."""
    toggled = values ^ 0x55
    exponent = (toggled >> 4 & 7).astype(np.int32)
    mantissa = (toggled & 0x0F).astype(np.int32) * 16 + 8
    magnitude = np.where(exponent == 0, mantissa, mantissa + 256 << np.maximum(exponent - 1, 0))
    return np.where(toggled & 0x80, magnitude, -magnitude).astype(np.float32) / 32_768


def to_float(values: np.ndarray) -> np.ndarray:
    """Return PCM values as float32 with full scale 1; float values as they are."""
    if values.dtype.kind == "f":
        return values
    if values.dtype == np.uint8:  # offset binary: silence is 128
        return (values.astype(np.float32) - 128.0) / 128.0
    scale = 2.0 ** (8 * values.itemsize - 1)
    if values.itemsize <= 2:  # every value is a float32
        return values.astype(np.float32) / np.float32(scale)
    # from int32 by way of float64, so that rounding happens once
    return (values / scale).astype(np.float32)

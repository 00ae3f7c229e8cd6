"""``undertone listen``: the microphone, or a recording in its place, live in the terminal.

Chunks of sound come from one of two places, :func:`microphone` or :func:`recording`, and go one way: into a
:class:`undertone.stream.Stream`, whose answers are shown as bars, as lines or as JSON.
"""

import io
import json
import queue
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, Self

from undertone.cli.terminal import COLOURS, bar, complain, fail, printable

if TYPE_CHECKING:
    import numpy as np
    from rich.text import Text

    from undertone.recognizer import Recognizer
    from undertone.stream import Stream, Update

CHUNK_S = 0.05
MAX_WAITING_S = 10.0  # of sound that waits for a slow model before it is left out
REFRESH_HZ = 15
BAR_WIDTH = 40  # columns
METER_DB = (-60.0, 0.0)  # ends of the level meter
QUIET_DB = -60.0  # a level below is shown as quiet: what is heard in it means little
MUTED_S = 3.0  # of nothing but zeros before the user is told

MICROPHONE_REFUSED = (
    "another program may hold it, or this terminal may not use it (macOS: System Settings > Privacy & Security > "
    "Microphone; Windows: Settings > Privacy & security > Microphone; Linux: is the sound server running?)"
)


def run(
    model: str,
    file: Path | None,
    fast: bool,
    device: str | None,
    list_devices: bool,
    hop_s: float,
    window_s: float | None,
    as_json: bool,
) -> None:
    """Listen and show until Ctrl-C, or until the recording ends."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal has no letters for
    if list_devices:
        _print_devices(as_json)
        return
    if fast and file is None:
        fail("--fast is for recordings: give one with --file CLIP")
    if file is not None and device is not None:
        fail("give --file or --device, not both")
    from undertone.audio import AudioError
    from undertone.model_file import ModelFileError
    from undertone.recognizer import load_model

    try:
        recognizer = load_model(model)
        with recording(file, fast=fast) if file else microphone(device) as sound:
            stream = _stream(recognizer, sound, hop_s, window_s)
            with _view(as_json, sound, recognizer) as view:
                listen(stream, sound, view)
    except (AudioError, ModelFileError) as error:
        fail(error)


def _stream(recognizer: "Recognizer", sound: "Sound", hop_s: float, window_s: float | None) -> "Stream":
    from undertone.stream import Stream

    grid = {"hop_s": hop_s, "window_s": window_s}
    try:
        return Stream(recognizer, sample_rate=sound.sample_rate, n_channels=sound.n_channels, **grid)
    except ValueError as error:  # hop or window out of range
        fail(error)


@dataclass(frozen=True, slots=True)
class Sound:
    """Where chunks come from: (n, n_channels) or (n,) arrays, in real time unless replayed fast."""

    name: str
    sample_rate: int  # Hz
    n_channels: int
    chunks: Iterator["np.ndarray"]


class View(Protocol):
    """What shows the answers."""

    def show(self, updates: Sequence["Update"], level_db: float) -> None:
        """Take the answers that a chunk completed, mostly none, and the chunk's level."""
        ...


def listen(stream: "Stream", sound: Sound, view: View) -> None:
    """Feed the stream and show what it says, until the sound ends or Ctrl-C is pressed."""
    from undertone.stream import FLOOR_DB, level_db

    level = FLOOR_DB
    zeros_s = 0.0
    try:
        for chunk in sound.chunks:
            updates = stream.feed(chunk)
            level = level_db(chunk if chunk.ndim == 1 else chunk.mean(axis=1)) if len(chunk) else level
            view.show(updates, level)
            zeros_s = zeros_s + len(chunk) / sound.sample_rate if level == FLOOR_DB else 0.0
            if zeros_s > MUTED_S:
                zeros_s = -float("inf")  # say it once
                complain(f"{sound.name} gives nothing but zeros: it is muted, or {MICROPHONE_REFUSED}")
    except KeyboardInterrupt:
        pass
    view.show(stream.finish(), level)


# ---- where sound comes from ----


@contextmanager
def recording(path: Path, *, fast: bool) -> Iterator[Sound]:
    """Replay a sound file in chunks, as fast as it was recorded, or as fast as it can be heard."""
    from undertone.audio import SAMPLE_RATE, stream_blocks

    def chunks() -> Iterator["np.ndarray"]:
        begin_s = time.monotonic()
        n_done, n_chunk = 0, round(CHUNK_S * SAMPLE_RATE)
        for block in stream_blocks(path):
            for first in range(0, len(block), n_chunk):
                chunk = block[first : first + n_chunk]
                n_done += len(chunk)
                if not fast:
                    time.sleep(max(0.0, begin_s + n_done / SAMPLE_RATE - time.monotonic()))
                yield chunk

    yield Sound(path.name, SAMPLE_RATE, 1, chunks())


@contextmanager
def microphone(device: str | None) -> Iterator[Sound]:
    """Open a microphone, by name, by number, or the system's own choice; at its own sample rate."""
    sounddevice = _sounddevice()
    info = _find_device(sounddevice, device)
    waiting: queue.Queue[np.ndarray] = queue.Queue(maxsize=round(MAX_WAITING_S / CHUNK_S))
    lost = [0]  # chunks that found the queue full

    def take(chunk: "np.ndarray", _n_frames: int, _time: object, _status: object) -> None:
        try:
            waiting.put_nowait(chunk.copy())  # the buffer is used again
        except queue.Full:
            lost[0] += 1

    def chunks(input_stream: Any) -> Iterator["np.ndarray"]:
        while input_stream.active or not waiting.empty():
            try:
                yield waiting.get(timeout=0.5)  # so that Ctrl-C, and a microphone that is pulled out, are noticed
            except queue.Empty:
                continue
        complain(f"{name} has stopped giving sound; was it unplugged?")

    name, sample_rate = str(info["name"]), int(info["default_samplerate"])
    options = {"device": info["index"], "samplerate": sample_rate, "dtype": "float32"}
    n_channels = _channels(sounddevice, info, options)
    options |= {"channels": n_channels, "blocksize": round(CHUNK_S * sample_rate), "callback": take}
    try:
        input_stream = sounddevice.InputStream(**options)
        input_stream.start()
    except sounddevice.PortAudioError as error:
        fail(f"cannot open the microphone {name} ({error}): {MICROPHONE_REFUSED}")
    try:
        yield Sound(name, sample_rate, n_channels, chunks(input_stream))
    finally:
        input_stream.close()
        if lost[0]:
            complain(
                f"the model is slower than the sound: {lost[0] * CHUNK_S:.1f} s were left out; a longer --hop or a "
                "shorter --window helps"
            )


def _sounddevice() -> ModuleType:
    """Import the library for microphones, or say what is missing."""
    try:
        import sounddevice
    except ImportError:
        fail("the microphone needs 'sounddevice', which is not installed; run: pip install 'undertone[mic]'")
    except OSError:  # the package is there, the library that it wraps is not: wheels for Linux do not bring it
        fail(
            "the microphone needs the PortAudio library, which is not on this system; run: apt install libportaudio2 "
            "(Debian, Ubuntu), dnf install portaudio (Fedora) or brew install portaudio (macOS)"
        )
    return sounddevice


def _find_device(sounddevice: ModuleType, device: str | None) -> dict[str, Any]:
    try:
        wanted = int(device) if device is not None and device.isdecimal() else device
        info = sounddevice.query_devices(wanted, kind="input")
    except (sounddevice.PortAudioError, ValueError) as error:
        if device is None:
            fail(
                "no microphone was found; plug one in, choose another with --device (--list-devices shows them), or "
                "replay a recording with --file CLIP"
            )
        reason = " ".join(str(error).split())
        fail(f"no microphone {device!r} ({reason}); undertone listen --list-devices shows those there are")
    if info["max_input_channels"] < 1:
        fail(f"{info['name']} is no microphone; undertone listen --list-devices shows those there are")
    return info


def _channels(sounddevice: ModuleType, info: dict[str, Any], options: dict[str, Any]) -> int:
    """Return 1 where the device can give one channel, else all it has: some take nothing else."""
    try:
        sounddevice.check_input_settings(channels=1, **options)
    except (sounddevice.PortAudioError, ValueError):
        return int(info["max_input_channels"])
    return 1


def _print_devices(as_json: bool) -> None:
    sounddevice = _sounddevice()
    devices = [device for device in sounddevice.query_devices() if device["max_input_channels"] > 0]
    try:
        chosen = sounddevice.query_devices(kind="input")["index"]
    except (sounddevice.PortAudioError, ValueError):
        chosen = None
    if as_json:
        rows = [_device_row(device, is_default=device["index"] == chosen) for device in devices]
        print(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    if not devices:
        fail("no microphone was found; plug one in, or replay a recording: undertone listen --file CLIP")
    for device in devices:
        mark = "*" if device["index"] == chosen else " "
        details = f"{device['default_samplerate']:,.0f} Hz, {device['max_input_channels']} ch"
        print(f"{mark} {device['index']:3}  {printable(device['name'])}  ({details})")
    print("* is the one that listens without --device NAME|N")


def _device_row(device: dict[str, Any], *, is_default: bool) -> dict[str, Any]:
    return {
        "device": device["index"],
        "name": device["name"],
        "sample_rate": device["default_samplerate"],
        "n_channels": device["max_input_channels"],
        "is_default": is_default,
    }


# ---- how answers are shown ----


def _view(as_json: bool, sound: Sound, recognizer: "Recognizer") -> "_JSONLines | _Lines | _Screen":
    if as_json:
        return _JSONLines()
    if not sys.stdout.isatty():
        return _Lines()
    return _Screen((sound.name, f"{sound.sample_rate:,} Hz  {recognizer.card.name}"), recognizer.labels)


class _Lines:
    """A line per answer, for pipes and files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, updates: Sequence["Update"], level_db: float) -> None:
        for update in updates:
            print(self.line(update), flush=True)

    def line(self, update: "Update") -> str:
        level = f"{update.level_db:6.1f} dB"
        return f"{update.end_s:8.1f} s  {level}  {update.emotion:<10} {update.confidence:6.1%}"


class _JSONLines(_Lines):
    """One JSON object per answer."""

    def line(self, update: "Update") -> str:
        content = {
            "start_s": round(update.start_s, 3),
            "end_s": round(update.end_s, 3),
            "emotion": update.emotion,
            "confidence": round(update.confidence, 6),
            "probs": {label: round(prob, 6) for label, prob in update.probs.items()},
            "level_db": round(update.level_db, 2),
        }
        return json.dumps(content, ensure_ascii=False)


class _Screen:
    """Bars that move, and a level meter."""

    def __init__(self, heading: tuple[str, str], labels: Sequence[str]) -> None:
        from rich.live import Live

        self._heading, self._labels = heading, labels
        self._update: Update | None = None
        self._level_db = METER_DB[0]
        self._footer = "Ctrl-C ends"
        self._live = Live(get_renderable=self._draw, refresh_per_second=REFRESH_HZ, redirect_stdout=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._footer = ""
        self._live.stop()

    def show(self, updates: Sequence["Update"], level_db: float) -> None:
        self._level_db = level_db
        if updates:
            self._update = updates[-1]

    def _draw(self) -> "Text":
        return draw(self._heading, self._labels, self._update, self._level_db, self._footer)


def draw(
    heading: tuple[str, str],
    labels: Sequence[str],
    update: "Update | None",
    level_db: float,
    footer: str = "",
) -> "Text":
    """Draw one picture of the screen: where it stands, the level, a bar for each emotion in the model's order."""
    from rich.text import Text

    text = Text(no_wrap=True, overflow="crop")
    name, details = map(printable, heading)
    clock = _clock(update.end_s if update else 0.0)
    text.append(f"\n  {name}", "bold").append(f"  {details}  {clock}\n\n", "dim")
    low, high = METER_DB
    filled = bar(min(1.0, max(0.0, (level_db - low) / (high - low))), BAR_WIDTH)
    colour = "red" if level_db > -6 else "yellow" if level_db > -15 else "green"
    text.append(f"  {'level':<10} ", "dim").append(f"{filled:<{BAR_WIDTH}}", colour)
    text.append(f" {level_db:3.0f} dB\n\n" if level_db > low else "  quiet\n\n", "dim")
    is_quiet = update is not None and update.level_db < QUIET_DB
    for label in labels:
        prob = update.probs[label] if update else 0.0
        is_top = update is not None and label == update.emotion and not is_quiet
        text.append(f"  {label:<10} ", "bold" if is_top else "")
        text.append(f"{bar(prob, BAR_WIDTH):<{BAR_WIDTH}}", "dim" if is_quiet else COLOURS[label])
        text.append(f" {prob:6.1%}\n" if update else "\n", "bold" if is_top else "dim")
    return text.append(f"\n  {footer}" if footer else "", "dim")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes:02}:{rest:04.1f}"

"""``undertone listen``: recordings replayed, and a microphone played by a fake of the sounddevice library."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
from functools import partial

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from undertone.cli import listen as listening
from undertone.cli.commands import app
from undertone.stream import Update, track


@pytest.fixture
def listen(model_path):
    """Function (*arguments) -> result of ``undertone listen`` with the tiny model."""

    def run(*arguments, model=model_path):
        return CliRunner().invoke(app, ["listen", "--model", str(model), *map(str, arguments)], prog_name="undertone")

    return run


@pytest.fixture
def clip(write_sound, make_speech):
    return write_sound("clip.wav", make_speech(1, 2.3))


class FakePortAudioError(Exception):
    """What the fake library raises."""


class FakeMicrophones(types.ModuleType):
    """Stands for sounddevice: two microphones and a loudspeaker; the sound, then silence for ever or an end."""

    PortAudioError = FakePortAudioError

    def __init__(self, sound, *, sample_rate=16_000, n_channels=1, ending="stops"):
        super().__init__("sounddevice")
        self.sound, self.ending = np.asarray(sound, np.float32), ending
        names = {"Built-in microphone": 1, "Loudspeaker": 0, "USB \x1b[31mheadset": n_channels}
        self.devices = [
            {"index": index, "name": name, "max_input_channels": count, "default_samplerate": float(sample_rate)}
            for index, (name, count) in enumerate(names.items())
        ]
        self.opened = []
        self.refuses_to_open = False
        fake = self

        class InputStream:
            def __init__(self, **options):
                if fake.refuses_to_open:
                    raise FakePortAudioError("Device unavailable [PaErrorCode -9985]")
                self.options, self.active, self.closed = options, False, False
                fake.opened.append(self)

            def start(self):
                self.active = True
                self.thread = threading.Thread(target=self._play, daemon=True)
                self.thread.start()

            def _play(self):
                size, callback = self.options["blocksize"], self.options["callback"]
                buffer = np.zeros((size, self.options["channels"]), np.float32)
                for first in range(0, len(fake.sound), size):
                    piece = fake.sound[first : first + size]
                    buffer[: len(piece)] = piece.reshape(len(piece), -1)
                    callback(buffer[: len(piece)], len(piece), None, None)
                    buffer[:] = np.nan  # a buffer belongs to the callback only while it runs
                    time.sleep(0.0002)
                if fake.ending == "stops":
                    self.active = False

            def close(self):
                self.closed = True

        self.InputStream = InputStream

    def query_devices(self, device=None, kind=None):
        if kind is None:
            return self.devices
        if device is None:
            if not self.devices:
                raise FakePortAudioError("Error querying device -1")
            return self.devices[0]
        if isinstance(device, int):
            if device >= len(self.devices):
                raise FakePortAudioError(f"Error querying device {device}")
            return self.devices[device]
        matches = [entry for entry in self.devices if device.lower() in entry["name"].lower()]
        if len(matches) != 1:
            raise ValueError(f"No input device matching {device!r}")
        return matches[0]

    def check_input_settings(self, *, device, channels, **_):
        if channels > self.devices[device]["max_input_channels"] or self.devices[device]["max_input_channels"] > 1:
            raise FakePortAudioError("Invalid number of channels [PaErrorCode -9998]")


@pytest.fixture
def plug_in(monkeypatch):
    """Function (sound, **options) -> the fake library, in place of sounddevice."""

    def plug(sound=(), **options):
        fake = FakeMicrophones(sound, **options)
        monkeypatch.setitem(sys.modules, "sounddevice", fake)
        return fake

    return plug


def rows(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def assert_shows(shown, updates):
    """Compare JSON objects with updates, to the digits that are written."""
    assert [row["end_s"] for row in shown] == [round(update.end_s, 3) for update in updates]
    for row, update in zip(shown, updates, strict=True):
        assert list(row) == ["start_s", "end_s", "emotion", "confidence", "probs", "level_db"]
        assert (row["start_s"], row["emotion"]) == (round(update.start_s, 3), update.emotion)
        assert row["probs"] == pytest.approx(update.probs, abs=2e-6)
        assert row["confidence"] == pytest.approx(update.confidence, abs=2e-6)
        assert row["level_db"] == pytest.approx(update.level_db, abs=0.01)


# ---- recordings ----


def test_a_recording_gives_the_answers_of_the_whole(listen, clip, recognizer):
    result = listen("--file", clip, "--fast", "--json", "--hop", 0.4, "--window", 1.5)
    assert (result.exit_code, result.stderr) == (0, "")
    assert_shows(rows(result), track(recognizer, clip, hop_s=0.4, window_s=1.5))


def test_a_line_for_each_answer_in_a_pipe(listen, clip, recognizer):
    lines = listen("--file", clip, "--fast").stdout.splitlines()
    for line, update in zip(lines, track(recognizer, clip), strict=True):
        end_s, level_db, emotion, confidence = line.replace(" s ", " ").replace(" dB ", " ").split()
        assert (float(end_s), emotion) == (pytest.approx(update.end_s, abs=0.051), update.emotion)
        assert float(level_db) == pytest.approx(update.level_db, abs=0.06)
        assert float(confidence.rstrip("%")) == pytest.approx(100 * update.confidence, abs=0.06)


def test_without_fast_a_recording_takes_its_time(write_sound, make_tone, monkeypatch):
    """The clock is a fake: each sleep moves it on, so chunk k is given at k * 0.05 s."""
    now_s = [100.0]
    monkeypatch.setattr(listening.time, "monotonic", lambda: now_s[0])
    monkeypatch.setattr(listening.time, "sleep", lambda seconds: now_s.__setitem__(0, now_s[0] + seconds))
    n_heard, path = 0, write_sound("tone.wav", make_tone(duration_s=1.01))
    with listening.recording(path, fast=False) as sound:
        for chunk in sound.chunks:
            n_heard += len(chunk)
            assert len(chunk) <= 0.05 * 16_000
            assert now_s[0] - 100.0 == pytest.approx(n_heard / 16_000)
            now_s[0] += 0.002  # the time that an answer takes is not added
    assert n_heard == 16_160


def test_a_file_that_cannot_be_used(listen, tmp_path):
    result = listen("--file", tmp_path / "missing.wav")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no such file" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fast"], "--fast is for recordings"),
        (["--file", "x.wav", "--device", "1"], "not both"),
        (["--file", "CLIP", "--hop", "3"], "hop_s is 3.0"),
        (["--file", "CLIP", "--window", "99"], "window_s is 99.0; this model takes 0.1 to 4 seconds"),
    ],
)
def test_impossible_options(listen, clip, arguments, message):
    result = listen(*[clip if argument == "CLIP" else argument for argument in arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_an_unknown_model(listen, clip):
    result = listen("--file", clip, model="nothing")
    assert result.exit_code == 2
    assert "no model named 'nothing'" in result.stderr


# ---- the microphone ----


@pytest.mark.parametrize("sample_rate", [16_000, 44_100, 48_000])
def test_a_microphone_gives_the_answers_of_its_sound(listen, plug_in, make_speech, recognizer, sample_rate):
    sound = make_speech(2, 3.2, sample_rate=sample_rate)
    fake = plug_in(sound, sample_rate=sample_rate)
    result = listen("--json")
    assert result.exit_code == 0
    assert_shows(rows(result), track(recognizer, sound, sample_rate=sample_rate))
    assert fake.opened[0].closed
    assert (fake.opened[0].options["device"], fake.opened[0].options["channels"]) == (0, 1)
    assert "stopped giving sound" in result.stderr  # the fake ends like one that is pulled out


@pytest.mark.parametrize("device", ["2", "headset"])
def test_a_device_that_has_stereo_only(listen, plug_in, make_speech, recognizer, device):
    sound = np.stack([make_speech(3, 1.7), make_speech(4, 1.7)], axis=1)
    fake = plug_in(sound, n_channels=2)
    assert_shows(rows(listen("--json", "--device", device)), track(recognizer, sound, sample_rate=16_000))
    assert (fake.opened[0].options["device"], fake.opened[0].options["channels"]) == (2, 2)


def test_ctrl_c_ends_with_the_rest(listen, plug_in, make_speech, recognizer, monkeypatch):
    """Pressed when all of the sound has been heard: the answers so far, the last shorter hop, exit code 0."""
    sound = make_speech(5, 1.3)
    plug_in(sound, ending="goes on")
    shown = listening._JSONLines.show
    chunks_left = iter(range(-(-len(sound) // 800)))
    next(chunks_left)

    def show(view, updates, level_db):
        shown(view, updates, level_db)
        if next(chunks_left, None) is None and not updates:
            raise KeyboardInterrupt

    monkeypatch.setattr(listening._JSONLines, "show", show)
    result = listen("--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert_shows(rows(result), track(recognizer, sound, sample_rate=16_000))


def test_a_muted_microphone_is_told_once(listen, plug_in):
    plug_in(np.zeros(16_000 * 8))
    result = listen("--json")
    assert result.stderr.count("nothing but zeros: it is muted") == 1
    assert len(rows(result)) == 16


def test_sound_that_no_model_keeps_up_with_is_left_out(listen, plug_in, make_speech, monkeypatch):
    monkeypatch.setattr(listening, "MAX_WAITING_S", 0.1)
    fake = plug_in(make_speech(6, 3.0))
    shown = listening._JSONLines.show

    def show_slowly(view, updates, level_db):
        shown(view, updates, level_db)
        fake.opened[0].thread.join()  # by now the microphone has given all of its sound

    monkeypatch.setattr(listening._JSONLines, "show", show_slowly)
    result = listen("--json")
    assert "the model is slower than the sound" in result.stderr
    assert rows(result)[-1]["end_s"] < 1.0


# ---- what can be missing ----


def test_no_extra(listen, monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    for arguments in ([], ["--list-devices"]):
        result = listen(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "pip install 'undertone[mic]'" in result.stderr


def test_no_portaudio(listen, monkeypatch, tmp_path):
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')\n")
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    result = listen()
    assert result.exit_code == 2
    assert "apt install libportaudio2" in result.stderr


def test_no_microphone(listen, plug_in):
    plug_in().devices = []
    result = listen()
    assert result.exit_code == 2
    assert "no microphone was found; plug one in" in result.stderr
    assert "--file CLIP" in listen("--list-devices").stderr
    assert json.loads(listen("--list-devices", "--json").stdout) == []


@pytest.mark.parametrize(
    ("device", "reason"), [("7", "Error querying device 7"), ("viola", "No input device matching")]
)
def test_no_such_microphone(listen, plug_in, device, reason):
    plug_in()
    result = listen("--device", device)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert "--list-devices" in result.stderr


def test_a_loudspeaker_is_no_microphone(listen, plug_in):
    plug_in()
    assert "Loudspeaker is no microphone" in listen("--device", 1).stderr


def test_a_microphone_that_may_not_be_used(listen, plug_in):
    plug_in().refuses_to_open = True
    result = listen()
    assert (result.exit_code, result.stdout) == (2, "")
    assert "cannot open the microphone Built-in microphone (Device unavailable" in result.stderr
    assert "Privacy" in result.stderr


def test_devices_are_listed(listen, plug_in):
    plug_in(sample_rate=48_000, n_channels=2)
    result = listen("--list-devices")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:2] == [
        "*   0  Built-in microphone  (48,000 Hz, 1 ch)",
        "    2  USB \\x1b[31mheadset  (48,000 Hz, 2 ch)",
    ]
    listed = json.loads(listen("--list-devices", "--json").stdout)
    assert [(row["device"], row["is_default"], row["n_channels"]) for row in listed] == [(0, True, 1), (2, False, 2)]


# ---- the screen ----


LABELS = ("anger", "happiness", "neutral", "sadness")
PROBS = dict(zip(LABELS, (0.25, 0.6, 0.05, 0.1), strict=True))


def drawn(update, level_db, heading="mic"):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(listening.draw((heading, "tiny"), LABELS, update, level_db, "Ctrl-C ends"))
    return console.export_text(styles=False)


def test_the_screen_shows_level_time_and_a_bar_for_each_emotion():
    update = Update(60.5, 63.5, "happiness", 0.6, PROBS, -20.0)
    text = drawn(update, -30.0)
    assert "mic  tiny  01:03.5" in text
    bars = dict(re.findall(r"^  (\w+) +([█▏▎▍▌▋▊▉#]*) +-?[\d.]+(?:%| dB)$", text, re.MULTILINE))
    assert list(bars) == ["level", *LABELS]  # in the model's order: bars stay where they are
    assert {name: len(drawn) for name, drawn in bars.items()} == pytest.approx(
        {"level": 20, "anger": 10, "happiness": 24, "neutral": 2, "sadness": 4}, abs=0.5
    )
    assert "Ctrl-C ends" in text
    assert max(map(len, text.splitlines())) < 80


def test_the_screen_before_the_first_answer_and_in_silence():
    assert "%" not in drawn(None, -100.0)
    quiet = listening.draw(("mic", "tiny"), LABELS, Update(0.0, 0.5, "anger", 0.6, PROBS, -80.0), -80.0)
    assert "quiet" in quiet.plain
    assert not [span for span in quiet.spans if "red" in str(span.style)]  # what silence is heard as is not coloured


def test_names_are_shown_not_obeyed():
    assert "\x1b" not in drawn(None, -100.0, heading="\x1b[31m[red]evil.wav")
    assert "[red]evil.wav" in drawn(None, -100.0, heading="\x1b[31m[red]evil.wav")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals of this kind")
def test_a_terminal_and_ctrl_c(write_sound, make_speech, model_path):
    """The real command on a real terminal: bars move, Ctrl-C ends it, the cursor comes back."""
    import pty  # POSIX only

    clip = write_sound("clip.wav", make_speech(1, 30.0))  # in real time
    command = [sys.executable, "-m", "undertone", "listen", "--model", str(model_path), "--file", str(clip)]
    controller, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "90", "LINES": "30", "PYTHONIOENCODING": "utf-8"}
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # whoever runs the tests may ignore Ctrl-C
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, start_new_session=True,
        preexec_fn=listens,
    ) as process:  # fmt: skip
        os.close(terminal)
        output = b""
        while output.count(b"%") < 3 * len(LABELS):  # a few pictures with answers
            output += os.read(controller, 4_096)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # what a terminal says when its last program has gone
            while piece := os.read(controller, 4_096):
                output += piece
        assert process.wait() == 0
    os.close(controller)
    text = output.decode()
    assert "█" in text
    assert "16,000 Hz  tiny" in text
    assert "00:30.0" not in text  # it did not just come to its end
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # cursor hidden, shown again
    assert "Traceback" not in text

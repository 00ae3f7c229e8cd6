"""The parts of the service one by one: settings, forms, decoders at their limits, the command."""

import asyncio
import contextlib
import dataclasses
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from undertone.audio import load_waveform
from undertone.cli.commands import app as commands
from undertone.model_file import DEFAULT_MODEL
from undertone.recognizer import BATCH_SIZE
from undertone.serve.app import create_app
from undertone.serve.decoding import DecodeError, DecodePool
from undertone.serve.errors import Refused, Room
from undertone.serve.inference import Inference
from undertone.serve.service import Service
from undertone.serve.settings import Settings, SettingsError, environment_name
from undertone.serve.uploads import check_content_type, split_files

# ---- settings ----


def test_every_setting_can_come_from_the_environment():
    values = {"model": "a,b", "token": "12345678", "cors_origin": "https://a.example, https://b.example"}
    expected = {"model": ("a", "b"), "token": "12345678", "cors_origin": ("https://a.example", "https://b.example")}
    for entry in dataclasses.fields(Settings):
        if entry.name not in values:
            expected[entry.name] = entry.default * 2 + 2
            values[entry.name] = str(expected[entry.name])
    environment = {environment_name(name): value for name, value in values.items()}
    settings = Settings.from_environment(environment)
    assert dataclasses.asdict(settings) == expected


def test_what_is_given_comes_before_the_environment():
    environment = {"UNDERTONE_MAX_FILES": "5", "UNDERTONE_THREADS": "3"}
    settings = Settings.from_environment(environment, overrides={"max_files": 7})
    assert (settings.max_files, settings.threads) == (7, 3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_files", "0"),
        ("max_files", "2.5"),
        ("max_upload_mb", "many"),
        ("max_upload_mb", "nan"),
        ("max_clip_s", "inf"),
        ("token", "short"),
        ("token", "with a\nnewline"),
        ("max_uploads_mb", "1"),
        ("decode_memory_mb", "100"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_name(name, text):
    with pytest.raises(SettingsError, match=f"(?i){name}"):
        Settings.from_environment({environment_name(name): text})


# ---- room ----


def test_room_is_given_back_also_after_an_error():
    room = Room("max_requests", 1, "too many")
    with pytest.raises(ZeroDivisionError), room:
        raise ZeroDivisionError
    with room, pytest.raises(Refused, match="max_requests"), room:
        pass
    assert room.used == 0


# ---- forms ----


contents = st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=20), st.binary(max_size=300)), max_size=4)


@given(files=contents.filter(bool), boundary=st.from_regex(r"[0-9A-Za-z'()+_,\-./:=?]{1,70}", fullmatch=True))
def test_files_of_a_form_come_out_as_they_went_in(make_form, files, boundary):
    delimiter = f"--{boundary}".encode()
    files = [(name, content) for name, content in files if delimiter not in content] or [("a", b"")]
    named = [(f"{index}.wav", content) for index, (_, content) in enumerate(files)]
    uploads = split_files(bytearray(make_form(*named, boundary=boundary)), boundary.encode(), max_files=4)
    assert [(upload.filename, bytes(upload.content)) for upload in uploads] == named


@given(
    body=st.binary(max_size=400)
    | st.lists(st.sampled_from([b"--b", b"\r\n", b"--", b'name="file"', b"x"])).map(b"".join)
)
def test_any_bytes_are_a_form_or_refused(body):
    with contextlib.suppress(Refused):
        split_files(bytearray(body), b"b", max_files=2)


@given(header=st.text(max_size=100) | st.text(max_size=80).map("multipart/form-data; boundary={}".format))
def test_any_content_type_is_one_or_refused(header):
    with contextlib.suppress(Refused):
        assert 1 <= len(check_content_type(header)) <= 70


@pytest.mark.parametrize(
    ("header", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data;charset=utf-8; Boundary="a b=c" ; x=y', b"a b=c"),
        ("multipart/form-data; boundary=----WebKitFormBoundaryX ;x", b"----WebKitFormBoundaryX"),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=", None),
        ("multipart/form-data; boundary=a b", None),
        ("multipart/form-data; xboundary=a", None),
        (f"multipart/form-data; boundary={'a' * 71}", None),
        ("multipart/form-data; boundary=\xe9", None),
    ],
)
def test_boundaries_as_clients_write_them(header, boundary):
    if boundary is None:
        with pytest.raises(Refused, match="boundary"):
            check_content_type(header)
    else:
        assert check_content_type(header) == boundary


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ('form-data; name="file"; filename="a b.wav"', "a b.wav"),
        ("form-data; name=file; filename=a.wav", "a.wav"),
        ('form-data; filename="a.wav"; name="file"', "a.wav"),
        ('form-data; name="file"; filename="say \\"hi\\".wav"', 'say "hi".wav'),
        ('form-data; name="file"; filename="x"; filename*=UTF-8\'\'%E2%82%AC.wav', "€.wav"),
        ('form-data; name="file"', ""),
        ('form-data; name="file"; filename="name=other; x.wav"', "name=other; x.wav"),
    ],
)
def test_file_names_as_clients_write_them(disposition, filename):
    body = f"--b\r\nContent-Type: audio/wav\r\nContent-Disposition: {disposition}\r\n\r\nsound\r\n--b--\r\n"
    (upload,) = split_files(bytearray(body.encode()), b"b", max_files=1)
    assert (upload.filename, bytes(upload.content)) == (filename, b"sound")


# ---- decoders ----


def decode(content, *, max_duration_s=600.0, **settings):
    async def run():
        pool = DecodePool(Settings(decode_workers=1, **settings))
        await pool.start()
        try:
            return await pool.decode(memoryview(content), max_duration_s=max_duration_s, limit="max_clip_s")
        finally:
            await pool.close()

    return asyncio.run(asyncio.wait_for(run(), 30))


def test_a_decoded_file_is_what_the_package_decodes(encode, make_speech):
    content = encode(make_speech(1, 2.0, sample_rate=44_100), 44_100, format="FLAC")
    np.testing.assert_array_equal(decode(content), load_waveform(content))


def test_a_decoder_that_takes_too_much_processor_time_is_killed(encode):
    heavy = encode(np.zeros(7_200 * 8_000, np.float32), 8_000, format="FLAC")  # two hours: 0.7 s and more, measured
    with pytest.raises(DecodeError, match=r"more than 0\.1 s") as caught:
        decode(heavy, max_duration_s=1e6, decode_timeout_s=0.1)
    assert caught.value.limit == "decode_timeout_s"


def test_a_decoder_that_takes_too_much_memory_says_so(monkeypatch):
    """A file of many megabytes in a process that may have few more."""
    monkeypatch.setattr("undertone.serve.settings.DECODER_MB", -100)
    content = io.BytesIO()
    soundfile.write(content, np.zeros(44_000_000, np.int16), 16_000, format="WAV")
    with pytest.raises(DecodeError) as caught:
        decode(content.getvalue(), max_duration_s=1e6, max_upload_mb=90, decode_memory_mb=150)
    assert caught.value.limit == "decode_memory_mb"


def test_a_decoder_knows_no_secret(monkeypatch):
    from undertone.serve.decoding import _environment

    monkeypatch.setenv("UNDERTONE_TOKEN", "a-secret")
    assert "a-secret" not in _environment().values()


def test_blocks_that_nobody_takes_hold_the_decoder_back(encode):
    """A recording of 20 minutes is decoded only as far as it is heard."""
    content = encode(np.zeros(1_200 * 8_000, np.float32), 8_000, format="FLAC")

    async def run():
        pool = DecodePool(Settings(decode_workers=1))
        await pool.start()
        try:
            async with pool.blocks(memoryview(content), split=False, max_duration_s=1e6, limit="x") as stream:
                await asyncio.sleep(0.5)
                waiting = stream._waiting.qsize()
                blocks = await asyncio.to_thread(lambda: [len(block) for block in stream])
            async with pool.blocks(memoryview(content), split=True, max_duration_s=1e6, limit="x") as stream:
                await asyncio.to_thread(next, iter(stream))  # and away: the decoder is replaced
            again = await pool.decode(memoryview(content), max_duration_s=1e6, limit="x")
            return waiting, sum(blocks), len(again)
        finally:
            await pool.close()

    waiting, n_samples, n_again = asyncio.run(asyncio.wait_for(run(), 30))
    assert waiting < 10  # of 73 blocks
    assert n_samples == n_again == 1_200 * 16_000


# ---- the command ----


def test_every_setting_is_an_option():
    result = CliRunner().invoke(commands, ["serve", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    for entry in dataclasses.fields(Settings):
        assert f"--{entry.name.replace('_', '-')}" in result.stdout
        assert environment_name(entry.name) in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-files", "0"], "max_files is 0"),
        (["--token", "abc"], "token"),
        (["--model", "nobody"], "no model named 'nobody'"),
        (["--host", "host.invalid"], "--host"),
    ],
)
def test_what_cannot_be_served_is_a_line(arguments, words):
    result = CliRunner().invoke(commands, ["serve", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_without_the_extra_the_command_says_what_to_install():
    code = "import sys; sys.modules['fastapi'] = None; sys.argv = ['undertone', 'serve']; import undertone.cli as cli; "
    code += "cli.main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.strip() == (
        "undertone: the service needs 'fastapi', which is not installed; run: pip install \"undertone[web]\""
    )


# ---- bounds ----


def test_decoded_sound_that_waits_is_bounded(encode, model_path, monkeypatch):
    """Many long clips at a time: their decoders stand still until some have been heard."""
    monkeypatch.setattr("undertone.serve.inference.MAX_WAITING_S", 100.0)
    content = encode(np.zeros(60 * 8_000, np.float32), 8_000, format="FLAC")

    async def run():
        service = Service(Settings(model=(str(model_path),), decode_workers=2, threads=1))
        most_s = 0.0
        async with service.running(None):

            async def ask():
                nonlocal most_s
                waveform = await service.decoding.decode(memoryview(content), max_duration_s=60, limit="max_clip_s")
                answer = asyncio.ensure_future(service.inference.predict(recognizer, waveform))
                await asyncio.sleep(0)
                most_s = max(most_s, service.inference._waiting_s)
                return await answer

            recognizer = service.inference.recognizer(None)
            answers = await asyncio.gather(*(ask() for _ in range(12)))
        return most_s, [answer.emotion for answer in answers], service.inference._waiting_s

    most_s, emotions, left_s = asyncio.run(asyncio.wait_for(run(), 30))
    assert 60 <= most_s <= 100 + 2 * 2 * 60  # for each process, one on its way in and one on its way out; not 720
    assert len(emotions) == 12 and len(set(emotions)) == 1
    assert left_s == pytest.approx(0)


def test_a_site_that_is_allowed_may_ask(model_path):
    """CORS: the preflight and the answer name the site; another site gets neither."""
    app = create_app(Settings(model=(str(model_path),), cors_origin=("https://good.example",)))

    async def ask(method, origin, **more):
        headers = [(b"host", b"here"), (b"origin", origin), *((k.encode(), v.encode()) for k, v in more.items())]
        scope = {"type": "http", "method": method, "path": "/v1/models", "query_string": b"", "headers": headers}
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        await app(scope, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"]).get(b"access-control-allow-origin")

    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    assert asyncio.run(ask("GET", b"https://good.example")) == (200, b"https://good.example")
    assert asyncio.run(ask("OPTIONS", b"https://good.example", **preflight)) == (200, b"https://good.example")
    assert asyncio.run(ask("GET", b"https://evil.example"))[0] == 403
    assert asyncio.run(ask("OPTIONS", b"https://evil.example", **preflight)) == (400, None)


def test_an_open_door_is_said_aloud(monkeypatch):
    monkeypatch.setattr("undertone.serve.server.run", lambda settings, *, on_start, **_: on_start("here"))
    assert "no token" in CliRunner().invoke(commands, ["serve", "--host", "0.0.0.0"]).stderr
    assert CliRunner().invoke(commands, ["serve", "--host", "0.0.0.0", "--token", "12345678"]).stderr == ""
    assert CliRunner().invoke(commands, ["serve"]).stderr == ""


def test_every_setting_is_in_the_documentation_with_its_default():
    page = (Path(__file__).parents[2] / "docs" / "service.md").read_text(encoding="utf-8")
    for entry in dataclasses.fields(Settings):
        default = entry.default[0] if entry.default and isinstance(entry.default, tuple) else entry.default
        shown = f"{default:,.0f}" if isinstance(default, int | float) else f"`{default}`" if default else "none"
        assert f"| `{entry.name}` | {shown} |" in page, entry.name


def test_a_decoder_that_cannot_be_started_is_tried_again(monkeypatch, clip, caplog):
    """No file is free, say, at the moment when one is replaced."""
    popen, failures = subprocess.Popen, []

    def fail_once(*arguments, **options):
        if not failures:
            failures.append(1)
            raise OSError("too many open files")
        return popen(*arguments, **options)

    monkeypatch.setattr("undertone.serve.decoding.subprocess.Popen", fail_once)
    np.testing.assert_array_equal(decode(clip), load_waveform(clip))
    assert "too many open files" in caplog.text


def test_a_busy_model_starves_no_other(model_path):
    """Clips of both models, more of the first one: the run after the first is that of the clip that came second."""

    async def order():
        inference = Inference((DEFAULT_MODEL, str(model_path)), threads=1)
        busy, rare = inference.recognizers.values()
        inference._n_running = 2  # as if all were taken: everybody waits
        second = np.zeros(16_000, np.float32)
        clips = [busy, rare, *[busy] * 20]
        waiting = [asyncio.ensure_future(inference.predict(recognizer, second)) for recognizer in clips]
        await asyncio.sleep(0)
        chosen = []
        while (name := inference._next_model()) is not None:
            chosen.append(name)
            del inference._waiting[name][: BATCH_SIZE if name == busy.card.name else 1]
        for task in waiting:
            task.cancel()
        inference.close()
        return chosen, busy.card.name, rare.card.name

    chosen, busy, rare = asyncio.run(order())
    assert chosen[:2] == [busy, rare]

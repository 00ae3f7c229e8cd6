"""A service in a process of its own, started once for all tests, with limits low enough to meet."""

import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import soundfile

if find_spec("fastapi") is None:
    collect_ignore_glob = ["test_*.py"]  # the base install

TOKEN = "a-token-for-tests"
LIMITS = {
    "max_upload_mb": 2,
    "max_uploads_mb": 3,
    "max_files": 3,
    "max_clip_s": 20,
    "max_timeline_s": 40,
    "max_requests": 8,
    "max_streams": 2,
    "head_timeout_s": 0.5,
    "upload_timeout_s": 1,
    "stream_idle_s": 1,
    "max_stream_s": 30,
    "decode_timeout_s": 1,
    "decode_workers": 2,
    "threads": 1,
}


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]


class Service:
    """A running ``undertone serve``, from outside."""

    def __init__(self, process, address, log_path, token=None):
        self.process = process
        self.address = address
        self.log_path = log_path
        self.token = token
        self.host, port = address.removeprefix("http://").rsplit(":", 1)
        self.port = int(port)

    @property
    def pid(self):
        return self.process.pid

    def request(self, method, path, body=None, headers=(), *, token=True):
        headers = dict(headers)
        if token and self.token:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        connection = http.client.HTTPConnection(self.host, self.port, timeout=20)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, *files, boundary="x-boundary-x", **options):
        """Files are contents, or (name, content)."""
        body = form(*files, boundary=boundary)
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"} | dict(options.pop("headers", ()))
        return self.request("POST", path, body, headers, **options)

    def decoders(self):
        """Process ids of the decoding processes."""
        return [pid for pid in _children(self.pid) if "decode_worker" in _command(pid)]

    def log(self):
        """The lines of the log, parsed."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def metric(self, name):
        page = self.get("/metrics").body.decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if re.match(rf"{name}[ {{]", line))


def form(*files, boundary="x-boundary-x", field="file"):
    parts = []
    for index, file in enumerate(files):
        name, content = file if isinstance(file, tuple) else (f"{index}.wav", file)
        header = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
        parts.append(header.encode() + content + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def _children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@contextmanager
def _serving(folder, model, token=None, **settings):
    arguments = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    log_path = folder / "log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UNDERTONE_")}
    environment |= {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder)} | ({"UNDERTONE_TOKEN": token} if token else {})
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "undertone", "serve", "--port", "0", "--model", str(model), *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            cwd=folder,
        )
    try:
        line = process.stdout.readline().decode()
        match = re.search(r"http://\S+", line)
        assert match, log_path.read_text()
        yield Service(process, match[0], log_path, token)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def serving():
    """Context manager (folder, model, token=None, **settings) -> Service."""
    return _serving


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory, model_path):
    with _serving(tmp_path_factory.mktemp("service"), model_path, TOKEN, **LIMITS) as service:
        yield service


@pytest.fixture
def service(shared_service, make_speech):
    """The shared service; each test ends with the proof that it still answers, with all of its decoders."""
    yield shared_service
    answer = shared_service.post("/v1/predict", wav(make_speech(1, 0.5)))
    assert answer.status == 200, answer.body
    give_up_s = time.monotonic() + 10
    while len(shared_service.decoders()) < LIMITS["decode_workers"] or shared_service.metric(
        "undertone_requests_at_work"
    ):
        assert time.monotonic() < give_up_s, "decoders or requests are lost"
        time.sleep(0.02)


def wav(waveform, sample_rate=16_000, *, format="WAV", **options):
    """Bytes of a sound file; written in blocks, because libsndfile's Vorbis encoder crashes on a long one."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", sample_rate, 1, format=format, **options) as sound:
        for start in range(0, len(waveform), 65_536):
            sound.write(waveform[start : start + 65_536])
    return file.getvalue()


@pytest.fixture(scope="session")
def encode():
    """Function (waveform, sample_rate=16000, *, format) -> bytes of a sound file."""
    return wav


@pytest.fixture(scope="session")
def make_form():
    """Function (*files, boundary, field) -> bytes of a multipart form."""
    return form


@pytest.fixture(scope="session")
def clip(make_speech):
    """The bytes of a short clip."""
    return wav(make_speech(3, 1.2))

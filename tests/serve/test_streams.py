"""Live streams: the same answers as the package's, and an end with a reason for every other kind of visitor."""

import asyncio
import json
import socket
import time
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from undertone.serve.app import create_app
from undertone.serve.settings import Settings
from undertone.stream import Stream


def pcm(waveform):
    return np.rint(waveform * 32_767).astype("<i2")


@contextmanager
def opened(service, query="", *, token=True):
    parts = [query, f"token={service.token}" if token else ""]
    address = f"ws://{service.host}:{service.port}/v1/stream?{'&'.join(filter(None, parts))}"
    with connect(address, open_timeout=10, close_timeout=2) as websocket:
        yield websocket


def rest(websocket):
    """All messages until the service closes, and the code and reason it closes with."""
    messages = []
    try:
        while True:
            messages.append(json.loads(websocket.recv(timeout=10)))
    except ConnectionClosed as closed:
        assert closed.rcvd is not None
        return messages, closed.rcvd.code, closed.rcvd.reason


@pytest.mark.parametrize(("sample_rate", "hop_s"), [(16_000, 0.5), (48_000, 0.3)])
def test_a_stream_is_what_the_package_says(service, recognizer, make_speech, sample_rate, hop_s):
    sound = pcm(make_speech(4, 3.1, sample_rate=sample_rate))
    with opened(service, f"sample_rate={sample_rate}&hop_s={hop_s}") as websocket:
        for start in range(0, len(sound), 7_001):
            websocket.send(sound[start : start + 7_001].tobytes())
        websocket.send('{"end": true}')
        messages, code, _ = rest(websocket)
    expected = Stream(recognizer, sample_rate=sample_rate, hop_s=hop_s)
    updates = [*expected.feed(sound), *expected.finish()]
    assert code == 1000
    assert messages.pop() == {"end": True}
    assert [message["end_s"] for message in messages] == [round(update.end_s, 3) for update in updates]
    for message, update in zip(messages, updates, strict=True):
        assert message["emotion"] == update.emotion
        assert list(message["probs"].values()) == pytest.approx(list(update.probs.values()), abs=1e-5)
        assert message["level_db"] == pytest.approx(update.level_db, abs=0.06)


def test_answers_come_while_sound_is_still_being_sent(service, make_speech):
    sound = pcm(make_speech(2, 1.0))
    with opened(service, "model=tiny") as websocket:
        websocket.send(sound[:8_000].tobytes())
        assert json.loads(websocket.recv(timeout=10))["end_s"] == 0.5
        websocket.send(sound[8_000:].tobytes())
        assert json.loads(websocket.recv(timeout=10))["end_s"] == 1.0


def test_a_stream_that_sends_nothing_is_closed(service):
    with opened(service) as websocket:
        messages, code, reason = rest(websocket)
    assert code == 1008
    assert "stream_idle_s" in reason
    assert messages[0]["error"]["message"].startswith(reason)


@pytest.mark.parametrize("text", ["hello", "{", '{"end": false}', "[" * 100_000])
def test_text_is_refused(service, text):
    with opened(service) as websocket:
        websocket.send(text)
        assert rest(websocket)[1] == 1003


def test_half_a_sample_is_refused(service):
    with opened(service) as websocket:
        websocket.send(bytes(101))
        _, code, reason = rest(websocket)
    assert code == 1007
    assert "101 bytes" in reason


def test_a_frame_that_is_too_large_is_refused(service):
    with opened(service) as websocket:
        with suppress(ConnectionClosed):  # the service may close before all of it is sent
            websocket.send(bytes(2_000_000))
        assert rest(websocket)[1] == 1009


def test_a_stream_that_is_too_long_is_refused(service):
    with opened(service, "sample_rate=1000") as websocket:
        websocket.send(bytes(2 * 31_000))
        _, code, reason = rest(websocket)
    assert code == 1008
    assert "max_stream_s" in reason


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("sample_rate=abc", "sample_rate"),
        ("sample_rate=1", "1 Hz"),
        ("sample_rate=inf", "sample_rate"),
        ("hop_s=0", "hop_s"),
        ("hop_s=nan", "hop_s"),
        ("hop_s=1e9", "hop"),
        ("model=nobody", "tiny"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(service, query, word):
    with opened(service, query) as websocket:
        _, code, reason = rest(websocket)
    assert code == 1008
    assert word in reason


@pytest.mark.parametrize("query", ["", "token=wrong"])
def test_the_token_is_asked_for(service, query):
    with opened(service, query, token=False) as websocket:
        _, code, reason = rest(websocket)
    assert code == 1008
    assert "token" in reason


def test_the_token_may_come_in_the_header(service):
    address = f"ws://{service.host}:{service.port}/v1/stream"
    with connect(address, additional_headers={"Authorization": f"Bearer {service.token}"}) as websocket:
        websocket.send('{"end": true}')
        assert rest(websocket)[:2] == ([{"end": True}], 1000)


def test_pages_of_other_sites_may_not_stream(service):
    address = f"ws://{service.host}:{service.port}/v1/stream?token={service.token}"
    with connect(address, origin="https://evil.example") as websocket:
        assert rest(websocket)[1] == 1008


def test_too_many_streams_are_told_to_come_again(service):
    with opened(service) as first, opened(service) as second:
        for websocket in (first, second):
            websocket.send(bytes(16_000))
            websocket.recv(timeout=10)
        with opened(service) as third:
            _, code, reason = rest(third)
    assert code == 1013
    assert "max_streams" in reason
    wait_until(lambda: service.metric("undertone_streams") == 0)


def test_a_visitor_who_leaves_in_the_middle_of_a_frame(service):
    lines = [
        f"GET /v1/stream?token={service.token} HTTP/1.1",
        f"Host: {service.host}:{service.port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]
    request = "\r\n".join(lines) + "\r\n\r\n"
    with socket.create_connection((service.host, service.port), timeout=10) as connection:
        connection.sendall(request.encode())
        assert connection.recv(4_096).startswith(b"HTTP/1.1 101")
        wait_until(lambda: service.metric("undertone_streams") == 1)
        connection.sendall(b"\x82\xfe\x40\x00\x00\x00\x00\x00" + bytes(500))  # 500 of 16,384 bytes
    wait_until(lambda: service.metric("undertone_streams") == 0)


def test_a_visitor_who_reads_nothing_is_not_waited_for(model_path):
    app = create_app(Settings(model=(str(model_path),), stream_idle_s=0.1))
    scope = {"type": "websocket", "path": "/v1/stream", "query_string": b"", "headers": [], "subprotocols": []}
    arriving = [{"type": "websocket.connect"}, {"type": "websocket.receive", "bytes": bytes(32_000)}]
    sent = []

    async def receive():
        return arriving.pop(0)

    async def send(message):
        if message["type"] == "websocket.send":
            await asyncio.Event().wait()  # full, and nobody reads
        sent.append(message["type"])

    asyncio.run(asyncio.wait_for(app(scope, receive, send), 10))
    assert sent == ["websocket.accept"]
    assert app.state.service.streams.used == 0


def wait_until(condition, timeout_s=10.0):
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s, "it did not happen"
        time.sleep(0.01)

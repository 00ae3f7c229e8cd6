"""What the service answers, and that it equals the package."""

import dataclasses
import io
import json
import signal
import socket
import threading
import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import soundfile

import undertone
from undertone.formats import TIMELINE_FORMATS, TIMELINE_SUFFIXES, timeline_to_dict, write_timeline
from undertone.serve.recordings import MEDIA_TYPES, Format


def rows(answer):
    return answer.json["predictions"]


# ---- clips ----


def test_predict_is_what_the_package_says(service, recognizer, clip):
    (row,) = rows(service.post("/v1/predict", ("clip.wav", clip)))
    expected = recognizer.predict(clip)
    assert row["filename"] == "clip.wav"
    assert row["emotion"] == expected.emotion
    assert (row["start_s"], row["end_s"]) == (0.0, round(expected.end_s, 3))
    assert row["probs"] == {label: round(prob, 6) for label, prob in expected.probs.items()}
    assert row["error"] is None


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_every_format_and_rate(service, recognizer, encode, make_speech, format):
    content = encode(make_speech(5, 1.0, sample_rate=48_000), 48_000, format=format)
    (row,) = rows(service.post("/v1/predict", content))
    assert row["probs"] == {label: round(prob, 6) for label, prob in recognizer.predict(content).probs.items()}


def test_several_files_keep_their_order_and_a_bad_one_is_a_row(service, recognizer, encode, make_speech):
    contents = [encode(make_speech(seed, duration_s)) for seed, duration_s in ((1, 3.0), (2, 0.5))]
    answer = service.post(
        "/v1/predict", ("long.wav", contents[0]), ("bad.wav", b"no sound"), ("short.wav", contents[1])
    )
    assert answer.status == 200
    assert [row["filename"] for row in rows(answer)] == ["long.wav", "bad.wav", "short.wav"]
    first, bad, last = rows(answer)
    assert (first["end_s"], last["end_s"]) == (3.0, 0.5)
    assert bad["emotion"] is None and bad["probs"] == {} and "is text" in bad["error"]
    assert first["emotion"] == recognizer.predict(contents[0]).emotion


def test_no_usable_file_is_422_with_rows(service):
    answer = service.post("/v1/predict", ("a.wav", b"no sound"), ("b.wav", b""))
    assert answer.status == 422
    assert answer.error["code"] == "unusable_sound"
    assert [row["error"] is not None for row in rows(answer)] == [True, True]


def test_many_at_a_time_get_their_own_answers(service, recognizer, encode, make_speech):
    contents = [encode(make_speech(seed, 0.3 + 0.2 * seed)) for seed in range(6)]
    answers = [None] * len(contents)

    def ask(index):
        answers[index] = service.post("/v1/predict", contents[index])

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for content, answer in zip(contents, answers, strict=True):
        (row,) = rows(answer)
        expected = recognizer.predict(content).probs
        assert list(row["probs"].values()) == pytest.approx(list(expected.values()), abs=2e-6)


def test_explain_is_what_the_package_says(service, recognizer, clip):
    answer = service.post("/v1/explain?emotion=anger", clip).json
    expected = undertone.explain(recognizer, clip, emotion="anger").to_dict()
    assert answer.keys() == expected.keys()
    assert answer["times_s"] == expected["times_s"]
    np.testing.assert_allclose(answer["importance"], expected["importance"], atol=2e-6)


def test_explain_refuses_what_it_cannot_explain(service, encode, make_speech, clip):
    assert service.post("/v1/explain?emotion=envy", clip).error["code"] == "no_such_emotion"
    assert service.post("/v1/explain", clip, clip).error["code"] == "one_file"
    assert "30 s" in service.post("/v1/explain", encode(make_speech(0, 31.0))).error["message"]


# ---- models, operations ----


def test_models_and_cards(service, recognizer):
    answer = service.get("/v1/models").json
    assert answer["default"] == "tiny"
    (summary,) = answer["models"]
    assert summary["labels"] == list(recognizer.labels)
    assert service.get("/v1/models/tiny").json == json.loads(recognizer.card.to_json())
    assert service.get("/v1/models/huge").status == 404


def test_a_model_that_is_not_served_is_404(service, clip):
    answer = service.post("/v1/predict?model=../../etc/passwd", clip)
    assert (answer.status, answer.error["code"]) == (404, "no_such_model")


def test_metrics_count_what_was_asked(service, clip):
    before = service.metric("undertone_sound_seconds_total")
    service.post("/v1/predict", clip)
    assert service.metric("undertone_sound_seconds_total") == pytest.approx(before + 1.2)
    assert service.metric("undertone_decoders") == 2


def test_headers_that_browsers_need(service):
    headers = service.get("/").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers
    assert "server" not in headers


def test_log_lines_hold_no_name_and_no_token(service, clip):
    service.post("/v1/predict?model=tiny", ("jane-doe-4711.wav", clip))
    text = service.log_path.read_text()
    assert "jane" not in text and service.token not in text and "127.0.0.1" not in text
    line = next(line for line in reversed(service.log()) if line["message"] == "request" and line["sound_s"] > 1)
    assert (line["route"], line["status"], line["sound_s"]) == ("/v1/predict", 200, 1.2)
    assert line["ms"] > 0 and len(line["request_id"]) == 16


def test_the_request_id_is_in_the_answer_and_in_the_log(service):
    request_id = service.get("/healthz").headers["x-request-id"]
    wait_until(lambda: any(line.get("request_id") == request_id for line in service.log()))


def test_no_file_stays(service, clip):
    service.post("/v1/predict", clip)
    assert [path.name for path in service.log_path.parent.iterdir()] == ["log"]  # its temporary and working folder


def test_keep_alive_serves_several_requests_on_a_connection(service, clip, make_form):
    body = make_form(clip)
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.token}\r\n"
    head += f"Content-Type: multipart/form-data; boundary=x-boundary-x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection((service.host, service.port), timeout=10) as connection:
        for _ in range(3):
            connection.sendall(head.encode() + body)
            assert _read_answer(connection).startswith(b"HTTP/1.1 200")


def _read_answer(connection):
    content = b""
    while b"\r\n\r\n" not in content:
        content += connection.recv(65_536)
    head, _, body = content.partition(b"\r\n\r\n")
    n_bytes = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < n_bytes:
        body += connection.recv(65_536)
    return head


# ---- stopping ----


def test_sigterm_lets_running_work_end_and_takes_no_more(tmp_path, serving, model_path, clip, make_form):
    with serving(tmp_path, model_path) as service:
        decoders = service.decoders()
        assert decoders
        body = make_form(clip)
        head = "POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x-boundary-x\r\n"
        with socket.create_connection((service.host, service.port), timeout=10) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-10])
            wait_until(lambda: service.metric("undertone_requests_at_work") == 1)
            service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not answers(service))
            connection.sendall(body[-10:])
            assert _read_answer(connection).startswith(b"HTTP/1.1 200")
        assert service.process.wait(10) == 0
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in decoders))


def answers(service):
    try:
        return service.get("/healthz").status == 200
    except OSError:
        return False


def wait_until(condition, timeout_s=10.0):
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s, "it did not happen"
        time.sleep(0.02)


# ---- timelines ----


@pytest.fixture(scope="session")
def call(make_speech):
    """A stereo recording of 20 s at 8 kHz: two speakers who take turns."""
    channels = np.zeros((20 * 8_000, 2), np.float32)
    for turn in range(6):
        start = round((0.5 + 3.2 * turn) * 8_000)
        sound = make_speech(turn, 2.4, sample_rate=8_000)
        channels[start : start + len(sound), turn % 2] = sound * (1 if turn % 2 else 3)
    file = io.BytesIO()
    soundfile.write(file, channels, 8_000, format="WAV")
    return file.getvalue()


@pytest.fixture(scope="module")
def single(model_path):
    """The recognizer as it is served: on one thread; with more, the last digit can be another."""
    return undertone.load_model(model_path, threads=1)


@pytest.mark.parametrize("channels", ["mix", "split"])
def test_timeline_is_what_the_package_says(service, single, call, channels):
    answer = service.post(f"/v1/timeline?channels={channels}", ("call.wav", call))
    assert answer.status == 200, answer.body
    expected = timeline_to_dict(undertone.timeline(single, call, channels=channels))
    assert answer.json == {**expected, "path": "call.wav"}
    assert len(expected["segments"]) > 3
    assert {segment["channel"] for segment in expected["segments"]} == ({None} if channels == "mix" else {0, 1})


@pytest.mark.parametrize("format", sorted(TIMELINE_FORMATS))
def test_timeline_in_every_format(service, single, call, format):
    answer = service.post(f"/v1/timeline?format={format}", ("Gespräch 1.wav", call))
    assert answer.status == 200
    timeline = dataclasses.replace(undertone.timeline(single, call), path="Gespräch 1.wav")
    expected = io.StringIO()
    write_timeline(timeline, expected, format)
    assert answer.body.decode() == expected.getvalue()
    if format == "json":
        assert "content-disposition" not in answer.headers
    else:
        suffix = TIMELINE_SUFFIXES.get(format, f".{format}")
        assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''Gespr%C3%A4ch%201{suffix}"


def test_formats_of_the_service_are_those_of_the_package():
    assert set(get_args(Format)) == set(MEDIA_TYPES) == set(TIMELINE_FORMATS)


def test_timeline_refuses_what_it_cannot_read(service, call, encode, make_speech):
    assert service.post("/v1/timeline?format=mp3", call).error["code"] == "invalid_parameter"
    assert service.post("/v1/timeline", b"no sound").error["code"] == "unusable_sound"
    assert service.post("/v1/timeline", encode(make_speech(0, 41.0))).error["limit"] == "max_timeline_s"
    stereo = io.BytesIO()
    soundfile.write(stereo, np.zeros((21 * 16_000, 2)), 16_000, format="FLAC")
    assert service.post("/v1/timeline", stereo.getvalue()).status == 200
    assert service.post("/v1/timeline?channels=split", stereo.getvalue()).error["limit"] == "max_timeline_s"


def test_silence_has_an_empty_timeline(service, encode):
    answer = service.post("/v1/timeline", encode(np.zeros(48_000, np.float32))).json
    assert answer["segments"] == []
    assert answer["duration_s"] == 3.0

"""What strangers send: a clear refusal each, nothing hangs, and the next request is answered (fixture ``service``)."""

import os
import signal
import socket
import struct
import threading
import time

import numpy as np
import pytest


def error_of(answer):
    """The error of a refused upload, whose row carries it too."""
    assert answer.status == 422, answer.body
    assert answer.json["predictions"][0]["error"] == answer.error["message"]
    return answer.error


def connect(service):
    return socket.create_connection((service.host, service.port), timeout=20)


def head(service, *headers, path="/v1/predict"):
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {service.token}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


MULTIPART = "Content-Type: multipart/form-data; boundary=x-boundary-x"


def read_all(connection):
    """Everything until the service closes the connection."""
    content = b""
    try:
        while piece := connection.recv(65_536):
            content += piece
    except ConnectionResetError:
        pass
    return content


# ---- sounds ----


def without_length(flac):
    """The same FLAC file with a header that does not know its length."""
    changed = bytearray(flac)
    assert changed[:4] == b"fLaC"
    changed[4 + 4 + 13] &= 0xF0  # the upper 4 of 36 bits
    changed[4 + 4 + 14 : 4 + 4 + 18] = bytes(4)
    return bytes(changed)


@pytest.mark.parametrize("format", ["FLAC", "OGG"])
def test_a_bomb_is_refused_by_its_header(service, encode, format):
    bomb = encode(np.zeros(600 * 8_000, np.float32), 8_000, format=format)
    assert len(bomb) < 200_000
    error = error_of(service.post("/v1/predict", bomb))
    assert error["limit"] == "max_clip_s"
    assert "600.0 s by its header" in error["message"]


def test_a_bomb_that_hides_its_length_is_refused_while_decoding(service, encode):
    bomb = without_length(encode(np.zeros(600 * 8_000, np.float32), 8_000, format="FLAC"))
    error = error_of(service.post("/v1/predict", bomb))
    assert error["limit"] == "max_clip_s"
    assert "goes on" in error["message"]


def riff(tag, n_channels, sample_rate, bits, data, extra=b""):
    block = n_channels * bits // 8 or 256
    fmt = struct.pack("<HHIIHH", tag, n_channels, sample_rate, sample_rate * block, block % 65_536, bits) + extra
    chunks = b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


NAN = struct.pack("<f", float("nan"))
SOUNDS = {
    "adpcm": (riff(2, 1, 8_000, 4, bytes(2_000), struct.pack("<HH", 2, 256)), "ADPCM"),
    "ima-adpcm": (riff(17, 1, 8_000, 4, bytes(2_000), struct.pack("<HH", 2, 256)), "ADPCM"),
    "1000-channels": (riff(1, 1_000, 16_000, 16, bytes(200_000)), "channels"),
    "nan": (riff(3, 1, 16_000, 32, NAN * 8_000), "NaN"),
    "zip-as-wav": (b"PK\x03\x04" + bytes(1_000), "zip"),
    "json-as-wav": (b'{"a": ' * 1_000, "text"),
    "empty": (b"", "empty"),
    "no-samples": (riff(1, 1, 16_000, 16, b""), "no samples"),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_a_sound_that_is_none_is_refused_by_name(service, name):
    content, word = SOUNDS[name]
    error = error_of(service.post("/v1/predict", (f"{name}.wav", content)))
    assert word in error["message"]
    assert "limit" not in error


def test_a_bad_sound_is_refused_where_one_is_taken(service):
    content, word = SOUNDS["adpcm"]
    answer = service.post("/v1/explain", content)
    assert answer.status == 422
    assert word in answer.error["message"]


# ---- names ----


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../../etc/passwd", "passwd"),
        ("C:\\\\calls\\\\jane.wav", "jane.wav"),
        ("/abs/clip.wav", "clip.wav"),
        ("a\x1b[31m\x00.wav", "a[31m.wav"),
        ("x" * 4_000, "x" * 255),
        ("..", ".."),
        ("", ""),
    ],
)
def test_a_path_in_the_file_name_leads_nowhere(service, clip, name, shown):
    (row,) = service.post("/v1/predict", (name, clip)).json["predictions"]
    assert row["filename"] == shown
    assert row["error"] is None


# ---- bodies ----


def test_a_large_body_is_refused_by_its_header(service):
    with connect(service) as connection:
        connection.sendall(head(service, MULTIPART, "Content-Length: 3000000"))
        answer = connection.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 413") and b"max_upload_mb" in answer + connection.recv(65_536)


def test_an_endless_chunked_body_is_cut_off(service):
    chunk = b"10000\r\n" + bytes(65_536) + b"\r\n"
    with connect(service) as connection:
        connection.sendall(head(service, MULTIPART, "Transfer-Encoding: chunked"))
        n_sent = 0
        with pytest.raises(OSError):  # the service hangs up
            while n_sent < 100_000_000:
                connection.sendall(chunk)
                n_sent += len(chunk)
        assert n_sent < 30_000_000  # what it took, and what was on its way


def test_the_sender_of_a_large_chunked_body_reads_why(service, clip, make_form):
    def pieces():
        yield make_form(*[clip] * 2)
        for _ in range(40):
            yield bytes(65_536)

    answer = service.request("POST", "/v1/predict", pieces(), {"Content-Type": MULTIPART.partition(": ")[2]})
    assert (answer.status, answer.error["limit"]) == (413, "max_upload_mb")


def test_a_slow_body_times_out(service):
    with connect(service) as connection:
        connection.sendall(head(service, MULTIPART, "Content-Length: 100000"))
        started_s = time.monotonic()
        stop = threading.Event()
        threading.Thread(target=drip, args=(connection, stop), daemon=True).start()
        answer = read_all(connection)
        stop.set()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"upload_timeout_s" in answer
    assert time.monotonic() - started_s < 10


def drip(connection, stop):
    while not stop.wait(0.1):
        try:
            connection.sendall(b"x")
        except OSError:
            return


def test_a_body_that_breaks_off(service):
    with connect(service) as connection:
        connection.sendall(head(service, MULTIPART, "Content-Length: 100000") + b"--x-boundary-x")


@pytest.mark.parametrize("content_type", ["application/json", "audio/wav", "text/plain", "", "multipart/mixed"])
def test_a_wrong_content_type_is_415(service, clip, content_type):
    answer = service.request("POST", "/v1/predict", clip, {"Content-Type": content_type})
    assert (answer.status, answer.error["code"]) == (415, "not_multipart")


def test_huge_json_is_refused(service):
    body = b"[" * 1_900_000
    answer = service.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
    assert answer.status == 415
    answer = service.post("/v1/predict", body)
    assert "is text" in error_of(answer)["message"]


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/explain"])
def test_a_broken_form_is_400(service, path):
    broken = [
        b"",
        b"--x-boundary-x",
        b"--x-boundary-x--",
        b"no boundary",
        b"--x-boundary-x\r\n\r\nbroken",
        b"\r\n" * 5_000,
    ]
    broken.append(b'--x-boundary-x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nno end')
    headers = {"Content-Type": MULTIPART.partition(": ")[2]}
    answers = [service.request("POST", path, body, headers) for body in broken]
    assert {answer.status for answer in answers} <= {400, 422}
    assert {answer.error["code"] for answer in answers} <= {"malformed", "no_file"}


def test_a_form_without_the_field_is_422(service, clip, make_form):
    headers = {"Content-Type": MULTIPART.partition(": ")[2]}
    answer = service.request("POST", "/v1/predict", make_form(clip, field="sound"), headers)
    assert (answer.status, answer.error["code"]) == (422, "no_file")


def test_too_many_files_are_413(service, clip):
    answer = service.post("/v1/predict", *[clip] * 4)
    assert (answer.status, answer.error["limit"]) == (413, "max_files")


# ---- heads ----


def test_an_endless_head_is_cut_off(service):
    with connect(service) as connection:
        connection.sendall(b"POST /v1/predict HTTP/1.1\r\nX-Long: ")
        with pytest.raises(OSError):
            for _ in range(2_000):
                connection.sendall(b"x" * 65_536)
                time.sleep(0.001)


def test_too_many_headers_are_refused(service):
    with connect(service) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n")
        assert read_all(connection)[:12] in (b"HTTP/1.1 400", b"")


def test_two_lengths_are_refused(service):
    with connect(service) as connection:
        connection.sendall(head(service, MULTIPART, "Content-Length: 10", "Transfer-Encoding: chunked") + b"0\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 400")


def test_no_http_at_all(service):
    with connect(service) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 10)
        assert read_all(connection).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd"]
)
def test_static_files_are_those_of_the_page(service, path):
    assert service.get(path).status == 404


# ---- who asks ----


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny", "/metrics"])
@pytest.mark.parametrize(
    "given", [None, "Bearer wrong", "Bearer ", "Basic a-token-for-tests", "Bearer a-token-for-test\xe9"]
)
def test_the_token_is_asked_for(service, path, given):
    answer = service.request("GET", path, headers={"Authorization": given} if given else {}, token=False)
    assert (answer.status, answer.error["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_token_is_asked_for_before_a_body_is_read(service, clip):
    answer = service.post("/v1/predict", clip, token=False)
    assert answer.status == 401
    assert service.get("/v1/models?token=a-token-for-tests", token=False).status == 401  # addresses end up in logs


def test_the_page_and_the_health_are_open(service):
    for path in ("/", "/healthz", "/openapi.json"):
        assert service.get(path, token=False).status == 200


def test_pages_of_other_sites_may_not_ask(service, clip):
    answer = service.post("/v1/predict", clip, headers={"Origin": "https://evil.example"})
    assert (answer.status, answer.error["code"]) == (403, "foreign_origin")
    own = {"Origin": service.address}
    assert service.post("/v1/predict", clip, headers=own).status == 200


# ---- too much at a time ----


def test_too_many_requests_are_429_at_once(service, clip):
    held = [connect(service) for _ in range(8)]
    try:
        for connection in held:
            connection.sendall(head(service, MULTIPART, "Content-Length: 100000") + b"--x-boundary-x")
        wait_until(lambda: service.metric("undertone_requests_at_work") == 8)
        answer = service.post("/v1/predict", clip)
        assert (answer.status, answer.error["limit"]) == (429, "max_requests")
        assert int(answer.headers["retry-after"]) >= 1
    finally:
        for connection in held:
            connection.close()
    wait_until(lambda: service.metric("undertone_requests_at_work") == 0)


def test_too_many_bytes_at_a_time_are_429(service, clip):
    held = [connect(service) for _ in range(2)]
    try:
        for connection in held:
            connection.sendall(head(service, MULTIPART, "Content-Length: 2000000") + bytes(1_490_000))
        wait_until(lambda: service.metric("undertone_upload_bytes") > 2_970_000)
        answer = service.post("/v1/predict", clip)
        assert (answer.status, answer.error["limit"]) == (429, "max_uploads_mb")
        assert "retry-after" in answer.headers
    finally:
        for connection in held:
            connection.close()
    wait_until(lambda: service.metric("undertone_upload_bytes") == 0)


def wait_until(condition, timeout_s=10.0):
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_s, "it did not happen"
        time.sleep(0.01)


# ---- decoders that die or hang ----


@pytest.fixture
def stopped_decoders(service):
    """All decoders stand still, as if a file kept them busy."""
    pids = service.decoders()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield pids
    for pid in pids:
        if os.path.exists(f"/proc/{pid}"):  # noqa: PTH110 - no path of ours
            os.kill(pid, signal.SIGCONT)


def ask_meanwhile(service, *files, path="/v1/predict"):
    """Send a request from a thread; returns it and the list its answer goes to."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(service.post(path, *files)))
    thread.start()
    wait_until(lambda: service.metric("undertone_requests_at_work") >= 1)
    time.sleep(0.1)  # the job is with the decoder
    return thread, answers


def test_a_decoder_killed_during_a_request_is_replaced_and_the_request_answered(service, stopped_decoders, clip):
    thread, answers = ask_meanwhile(service, clip)
    before = service.metric("undertone_decoders_lost_total")
    for pid in stopped_decoders[1:]:
        os.kill(pid, signal.SIGCONT)
    os.kill(stopped_decoders[0], signal.SIGKILL)
    thread.join(10)
    assert [answer.status for answer in answers] == [200]
    wait_until(lambda: service.metric("undertone_decoders_lost_total") == before + 1)


def test_all_decoders_killed_during_a_request_is_a_clear_error(service, stopped_decoders, clip):
    thread, answers = ask_meanwhile(service, clip)
    for pid in stopped_decoders:
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    thread.join(10)
    assert [answer.status for answer in answers] in ([422], [200])  # the second try may find a decoder that is new
    if answers[0].status == 422:
        assert "crashed" in answers[0].error["message"]


def test_a_decoder_that_hangs_is_replaced(service, stopped_decoders, clip):
    error = error_of(service.post("/v1/predict", clip))
    assert error["limit"] == "decode_timeout_s"


def test_an_idle_decoder_that_dies_is_replaced(service):
    pids = service.decoders()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(set(service.decoders()) - set(pids)) == len(pids))


def test_a_decoder_killed_during_a_timeline_is_a_clear_error(service, stopped_decoders, clip):
    thread, answers = ask_meanwhile(service, clip, path="/v1/timeline")
    for pid in stopped_decoders:
        os.kill(pid, signal.SIGKILL)
    thread.join(10)
    assert answers[0].status == 422
    assert "crashed" in answers[0].error["message"]


def test_a_decoder_that_hangs_in_a_timeline_is_replaced(service, stopped_decoders, clip):
    answer = service.post("/v1/timeline", clip)
    assert (answer.status, answer.error["limit"]) == (422, "decode_timeout_s")


@pytest.mark.parametrize("path", ["/v1/timeline", "/v1/explain"])
def test_who_hangs_up_is_not_worked_for(service, stopped_decoders, clip, make_form, path):
    body = make_form(clip)
    with connect(service) as connection:
        connection.sendall(head(service, MULTIPART, f"Content-Length: {len(body)}", path=path) + body)
        wait_until(lambda: service.metric("undertone_requests_at_work") == 1)
        time.sleep(0.1)
    wait_until(lambda: service.metric("undertone_requests_at_work") == 0, timeout_s=1.5)


@pytest.mark.parametrize("start", [b"", b"POST /v1/predict HTTP/1.1\r\nHost:"])
def test_a_head_that_never_comes_is_not_waited_for(service, start):
    with connect(service) as connection:
        connection.sendall(start)
        assert read_all(connection) == b""

"""Downloads from a local server that truncates, refuses, limits, lies and hangs up. No network."""

import hashlib
import http.server
import io
import json
import signal
import threading
import time
import zipfile
from dataclasses import dataclass, field

import pytest

from undertone.lab.corpora import CORPORA, CorpusError
from undertone.lab.corpora import download as sources
from undertone.lab.corpora.download import DownloadError, RegistrationRequired, download
from undertone.lab.corpora.transfer import CHUNK_BYTES, Client, RemoteFile, fetch_files, unpack

pytest.importorskip("pooch")

CONTENT = bytes(range(256)) * 1200  # 307,200 bytes: several chunks
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


@dataclass
class Server:
    """What the local server holds, how it misbehaves, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list] = field(default_factory=dict)  # path -> one fault per request, then none
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: Server

    def log_message(self, *args):
        pass

    def do_GET(self):
        state, path = self.server_state, self.path
        state.requests.append((path, self.headers.get("Range")))
        faults = state.faults.get(path, [])
        fault = faults.pop(0) if faults else None
        if isinstance(fault, tuple):  # status, headers
            return self.answer(fault[0], b"sorry", fault[1])
        if path not in state.files:
            return self.answer(404, b"not here")
        body, start = state.files[path], 0
        if state.ranges and (asked := self.headers.get("Range")):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        if fault == "from zero":
            return self.answer(206, body, {"Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"})
        headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        self.answer(206 if start else 200, body[start:], headers, fault)
        return None

    def answer(self, status, body, headers=None, fault=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if fault != "no length":
            self.send_header("Content-Length", str(len(body)))
        if fault in ("no length", "drop", "reset") or isinstance(fault, int):
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if fault == "wrong bytes":
            body = bytes(len(body))
        n_sent = {"drop": len(body) // 2, "reset": 0}.get(fault, fault if isinstance(fault, int) else len(body))
        self.wfile.write(body[:n_sent])


@pytest.fixture
def server():
    state = Server()
    handler = type("BoundHandler", (Handler,), {"server_state": state})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def client(server, pauses):
    return Client(base_url=server.url, sleep=pauses.append)


def fetch(client, folder, *, path="clip.wav", checksum: str | None = MD5, n_bytes: int | None = len(CONTENT)):
    file = RemoteFile(path, ("https://example.org/clip.wav",), checksum, n_bytes)
    fetch_files([file], folder, client=client, progress=False)
    return folder / path


def left_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- one file ----


@pytest.mark.parametrize("n_bytes", [len(CONTENT), None])
@pytest.mark.parametrize("checksum", [MD5, "sha256:" + hashlib.sha256(CONTENT).hexdigest(), None])
def test_a_file_arrives_whole(server, client, tmp_path, checksum, n_bytes):
    server.files["/clip.wav"] = CONTENT
    assert fetch(client, tmp_path, checksum=checksum, n_bytes=n_bytes).read_bytes() == CONTENT
    assert left_in(tmp_path) == ["clip.wav"]


def test_a_file_that_is_there_is_not_fetched_again(server, client, tmp_path):
    server.files["/clip.wav"] = CONTENT
    for _ in range(2):
        fetch(client, tmp_path)
    assert len(server.requests) == 1


def test_a_damaged_file_is_replaced(server, client, tmp_path):
    server.files["/clip.wav"] = CONTENT
    (tmp_path / "clip.wav").write_bytes(CONTENT[:-1])
    assert fetch(client, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["drop", "reset"])
def test_a_dropped_connection_is_resumed(server, client, tmp_path, fault):
    server.files["/clip.wav"] = CONTENT
    server.faults["/clip.wav"] = [fault, fault]
    assert fetch(client, tmp_path).read_bytes() == CONTENT
    asked = [asked for _, asked in server.requests]
    assert len(asked) == 3
    assert asked[1] == (f"bytes={9 * CHUNK_BYTES}-" if fault == "drop" else None)  # of 153,600 bytes sent


def test_a_server_without_ranges_starts_over(server, client, tmp_path):
    server.files["/clip.wav"] = CONTENT
    server.faults["/clip.wav"] = ["drop"]
    server.ranges = False
    assert fetch(client, tmp_path).read_bytes() == CONTENT


def test_a_server_that_continues_elsewhere_starts_over(server, client, tmp_path):
    server.files["/clip.wav"] = CONTENT
    server.faults["/clip.wav"] = ["from zero"]  # answers 206 with bytes that were not asked for
    (tmp_path / ".clip.wav.part").write_bytes(CONTENT[:100_000])
    assert fetch(client, tmp_path, checksum=None, n_bytes=None).read_bytes() == CONTENT


def test_an_earlier_run_is_continued(server, client, tmp_path):
    server.files["/clip.wav"] = CONTENT
    (tmp_path / ".clip.wav.part").write_bytes(CONTENT[:100_000])
    assert fetch(client, tmp_path).read_bytes() == CONTENT
    assert server.requests == [("/clip.wav", "bytes=100000-")]
    assert left_in(tmp_path) == ["clip.wav"]


@pytest.mark.parametrize("n_bytes", [len(CONTENT), None])
@pytest.mark.parametrize("old", [b"x" * 1000, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 5)])
def test_a_foreign_partial_file_is_dropped(server, client, tmp_path, old, n_bytes):
    server.files["/clip.wav"] = CONTENT
    (tmp_path / ".clip.wav.part").write_bytes(old)
    assert fetch(client, tmp_path, n_bytes=n_bytes).read_bytes() == CONTENT
    assert left_in(tmp_path) == ["clip.wav"]


def test_wrong_bytes_are_an_error_and_deleted(server, client, tmp_path):
    server.files["/clip.wav"] = CONTENT
    server.faults["/clip.wav"] = ["wrong bytes"]
    with pytest.raises(DownloadError, match="other bytes than published"):
        fetch(client, tmp_path)
    assert left_in(tmp_path) == []


def test_an_endless_file_is_cut_off(server, client, tmp_path):
    server.files["/clip.wav"] = CONTENT
    server.faults["/clip.wav"] = ["no length"]
    with pytest.raises(DownloadError, match="more than the expected 1,000 bytes"):
        fetch(client, tmp_path, n_bytes=1000)
    assert left_in(tmp_path) == []


class FakeSession:
    """Answers each request with chunks, as an HTTP library would that does not compare lengths itself."""

    url, status_code, reason = "https://example.org/clip.wav", 200, "OK"

    def __init__(self, headers, chunks):
        self.headers, self.chunks, self.n_read = headers, chunks, 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def get(self, url, **options):
        return self

    def iter_content(self, n_bytes):
        for chunk in self.chunks:
            self.n_read += 1
            yield chunk


def test_a_silent_truncation_is_noticed_without_a_checksum(tmp_path, pauses):
    client = Client(session=FakeSession({"Content-Length": "100"}, [b"x" * 40]), sleep=pauses.append)
    with pytest.raises(DownloadError, match="ended after 40 of 100 bytes"):
        fetch(client, tmp_path, checksum=None, n_bytes=None)
    assert not (tmp_path / "clip.wav").exists()


def test_an_endless_answer_is_not_read_to_its_end(tmp_path):
    session = FakeSession({}, [b"x" * 1000] * 1000)
    with pytest.raises(DownloadError, match="more than the expected 5,000 bytes"):
        fetch(Client(session=session), tmp_path, n_bytes=5000)
    assert session.n_read == 6


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_missing_file_is_an_error_at_once(server, client, tmp_path, pauses, status):
    server.faults["/clip.wav"] = [(status, {})]
    with pytest.raises(DownloadError, match=f"https://example.org/clip.wav answered {status}"):
        fetch(client, tmp_path)
    assert (pauses, left_in(tmp_path)) == ([], [])


def test_too_many_requests_waits_as_told(server, client, tmp_path, pauses):
    server.files["/clip.wav"] = CONTENT
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 50))
    server.faults["/clip.wav"] = [
        (429, {"Retry-After": "7"}), (429, {"Retry-After": later}), (429, {"Retry-After": "9999"}), (429, {}),
        (429, {"Retry-After": "soon"}),
    ]  # fmt: skip
    assert fetch(client, tmp_path).read_bytes() == CONTENT
    assert pauses == [7.0, pytest.approx(50, abs=3), 300.0, 16.0, 32.0]


def test_server_errors_are_tried_with_growing_pauses_then_given_up(server, client, tmp_path, pauses):
    server.faults["/clip.wav"] = [(503, {})] * 20
    with pytest.raises(DownloadError, match=r"503.*gave up after 6 attempts.*run the same command later"):
        fetch(client, tmp_path)
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0]


def test_progress_renews_patience(server, client, tmp_path):
    server.files["/clip.wav"] = CONTENT
    server.faults["/clip.wav"] = [40_000] * 7  # bytes sent each time before it drops
    assert fetch(client, tmp_path).read_bytes() == CONTENT


def test_a_given_up_download_keeps_what_arrived(server, client, tmp_path):
    server.files["/clip.wav"] = CONTENT
    server.faults["/clip.wav"] = ["drop"] + [(500, {})] * 6
    with pytest.raises(DownloadError, match="500"):
        fetch(client, tmp_path)
    assert left_in(tmp_path) == [".clip.wav.part"]
    assert fetch(client, tmp_path).read_bytes() == CONTENT


def test_no_server_is_a_clear_error(tmp_path, pauses):
    with pytest.raises(DownloadError, match="no connection"):
        fetch(Client(base_url="http://127.0.0.1:9", sleep=pauses.append), tmp_path)


def test_stop_ends_a_download_and_keeps_what_arrived(server, client, tmp_path):
    server.files["/clip.wav"] = CONTENT
    server.faults["/clip.wav"] = [(429, {"Retry-After": "1"})]
    client.sleep = lambda pause_s: client.stop()
    with pytest.raises(DownloadError, match="stopped"):
        fetch(client, tmp_path)


@pytest.fixture
def sigint_raises():
    """Ctrl-C as in a terminal: a shell has it ignored in what it runs in the background, test runs included."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint_raises")
def test_ctrl_c_does_not_wait_for_the_server(server, tmp_path):
    server.faults["/clip.wav"] = [(429, {"Retry-After": "300"})]
    started_s = time.monotonic()
    main = threading.main_thread().ident
    threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        fetch(Client(base_url=server.url), tmp_path)
    assert time.monotonic() - started_s < 10


# ---- several files ----


def test_a_mirror_stands_in(server, client, tmp_path):
    server.files["/mirror.wav"] = CONTENT
    urls = ("https://example.org/gone.wav", "https://mirror.example.org/mirror.wav")
    fetch_files([RemoteFile("clip.wav", urls, MD5)], tmp_path, client=client, progress=False)
    assert (tmp_path / "clip.wav").read_bytes() == CONTENT


def test_one_missing_file_does_not_keep_the_others_out(server, client, tmp_path):
    names = [f"{i}.wav" for i in range(30)]
    server.files = {f"/{name}": name.encode() for name in names if name != "3.wav"}
    files = [RemoteFile(name, (f"https://example.org/{name}",)) for name in names]
    with pytest.raises(DownloadError, match=r"3\.wav answered 404"):
        fetch_files(files, tmp_path, client=client, progress=False)
    assert len(left_in(tmp_path)) == 29


def test_a_dead_source_is_given_up_early(server, client, tmp_path):
    files = [RemoteFile(f"{i}.wav", (f"https://example.org/{i}.wav",)) for i in range(500)]
    with pytest.raises(DownloadError, match="files failed"):
        fetch_files(files, tmp_path, client=client, progress=False)
    assert len(server.requests) < 30


@pytest.mark.parametrize("path", ["../clip.wav", "/etc/clip.wav", "a/../../clip.wav", "C:\\clip.wav", "a\\b.wav", ""])
def test_unsafe_names_are_refused_before_anything_is_fetched(server, client, tmp_path, path):
    with pytest.raises(DownloadError, match="not a safe file name"):
        fetch(client, tmp_path / "inside", path=path)
    assert (server.requests, left_in(tmp_path)) == ([], [])


def test_progress_is_drawn_only_when_asked(server, client, tmp_path, capfd):
    server.files["/clip.wav"] = CONTENT
    file = RemoteFile("clip.wav", ("https://example.org/clip.wav",), MD5, len(CONTENT))
    fetch_files([file], tmp_path / "a", client=client, title="CORPUS")  # not a terminal
    assert capfd.readouterr() == ("", "")
    fetch_files([file], tmp_path / "b", client=client, title="CORPUS", progress=True)
    assert "CORPUS" in capfd.readouterr().err


# ---- zips ----


def make_zip(members: dict[str, bytes], *, links=()) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o120777 if name in links else 0o100644) << 16
            opened.writestr(info, content)
    return buffer.getvalue()


def test_unpack_takes_clips_only(tmp_path):
    members = {
        "Actor_01/a.wav": b"a",
        "__MACOSX/._a.wav": b"x",
        "Actor_01/.b.wav": b"x",
        "run.sh": b"x",
        "read.TXT": b"r",
    }
    (tmp_path / "corpus.zip").write_bytes(make_zip(members))
    unpack(tmp_path / "corpus.zip", tmp_path / "out")
    assert left_in(tmp_path / "out") == ["Actor_01/a.wav", "read.TXT"]


@pytest.mark.parametrize(
    ("members", "links", "message"),
    [
        ({"ok.wav": b"a", "../evil.wav": b"x"}, (), "not a safe file name"),
        ({"ok.wav": b"a", "/tmp/evil.wav": b"x"}, (), "not a safe file name"),
        ({"ok.wav": b"a", "link.wav": b"/etc/passwd"}, ("link.wav",), "symbolic link"),
        ({"ok.wav": b"a", "bomb.wav": bytes(50_000_000)}, (), "50,000,001 bytes"),
    ],
)
def test_a_hostile_zip_writes_nothing(tmp_path, members, links, message):
    (tmp_path / "corpus.zip").write_bytes(make_zip(members, links=links))
    with pytest.raises(DownloadError, match=message):
        unpack(tmp_path / "corpus.zip", tmp_path / "out")
    assert left_in(tmp_path) == ["corpus.zip"]


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path):
    honest = make_zip({"bomb.wav": bytes(50_000_000)})
    lying = honest.replace((50_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    (tmp_path / "corpus.zip").write_bytes(lying)
    with pytest.raises(DownloadError, match="damaged"):
        unpack(tmp_path / "corpus.zip", tmp_path / "out")
    assert left_in(tmp_path) == ["corpus.zip"]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"<html>", lambda data: b""])
def test_a_damaged_zip_is_refused(tmp_path, damage):
    (tmp_path / "corpus.zip").write_bytes(damage(make_zip({"a.wav": CONTENT})))
    with pytest.raises(DownloadError, match="damaged"):
        unpack(tmp_path / "corpus.zip", tmp_path / "out")


# ---- each corpus, from a server with the official paths ----


def test_ravdess(server, client, tmp_path, monkeypatch):
    archive = make_zip({f"Actor_{name[-2:]}/{name}.wav": b"" for name in CORPORA["ravdess"].official_names()})
    path = "/records/1188976/files/Audio_Speech_Actors_01-24.zip?download=1"
    server.files[path] = archive
    monkeypatch.setattr(sources, "ZENODO_MD5", "md5:" + hashlib.md5(archive).hexdigest())
    monkeypatch.setattr(sources, "ZENODO_BYTES", len(archive))
    server.faults[path] = ["drop", (429, {"Retry-After": "1"})]
    assert download("RAVDESS", tmp_path, client=client).is_complete
    assert not list((tmp_path / "RAVDESS").glob("*.zip"))
    n_requests = len(server.requests)
    assert download("ravdess", tmp_path, client=client).is_complete
    assert len(server.requests) == n_requests  # it was complete


def test_ravdess_with_other_bytes_is_refused(server, client, tmp_path):
    server.files["/records/1188976/files/Audio_Speech_Actors_01-24.zip?download=1"] = make_zip({"a.wav": b""})
    with pytest.raises(DownloadError, match="other bytes than published"):
        download("ravdess", tmp_path, client=client)
    assert left_in(tmp_path) == []


def test_crema_d_comes_clip_by_clip(server, client, tmp_path, monkeypatch):
    media, raw = "/media/CheyneyComputerScience/CREMA-D/master/", "/CheyneyComputerScience/CREMA-D/master/"
    mirror = "/cs-cooper-lab/crema-d-mirror/-/raw/main/"
    clips = {f"{name}.wav": name.encode() for name in ("1001_DFA_ANG_XX", "1002_DFA_ANG_XX", "1003_DFA_ANG_XX")}
    rows = [
        {"file": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": str(len(content))}
        for name, content in clips.items()
    ]
    demographics, votes = b"ActorID", b'"FileName","VoiceVote","VoiceLevel"\n"1001_DFA_ANG_XX","A","50"\n'
    tables = {"VideoDemographics.csv": demographics, "processedResults/summaryTable.csv": votes}
    monkeypatch.setattr(sources, "read_crema_d_checksums", lambda: rows)
    monkeypatch.setattr(
        sources,
        "CREMA_D_TABLES",
        {path: hashlib.sha256(content).hexdigest() for path, content in tables.items()},
    )
    server.files = {media + "AudioWAV/" + name: content for name, content in clips.items()}
    server.files |= {raw + path: content for path, content in tables.items()}
    pointer = b"version https://git-lfs.github.com/spec/v1\n"  # what GitHub sends for a file outside LFS media
    server.files[media + "AudioWAV/1002_DFA_ANG_XX.wav"] = pointer
    with pytest.raises(DownloadError, match="1002_DFA_ANG_XX"):
        download("crema-d", tmp_path, client=client)
    server.files[mirror + "AudioWAV/1002_DFA_ANG_XX.wav"] = clips["1002_DFA_ANG_XX.wav"]
    server.requests.clear()
    [counts] = download("crema-d", tmp_path, client=client).corpora
    assert counts.n_utterances == 3
    assert len(server.requests) == 2  # GitHub, then the mirror; the rest was there
    assert CORPORA["crema-d"].parse(tmp_path / "CREMA-D")[0].voted_emotion == ("anger",)


def test_crema_d_checksums_are_those_of_the_official_clips():
    rows = sources.read_crema_d_checksums()
    assert {row["file"].removesuffix(".wav") for row in rows} == CORPORA["crema-d"].official_names()
    assert all(len(bytes.fromhex(row["sha256"])) == 32 and int(row["bytes"]) > 44 for row in rows)
    files = sources.list_crema_d(Client())
    assert len(files) == 7_442 + 2
    assert files[2].urls[0] == (
        "https://media.githubusercontent.com/media/CheyneyComputerScience/CREMA-D/master/AudioWAV/1001_DFA_ANG_XX.wav"
    )


def dataverse_entry(number: int, name: str, content: bytes, folder: str | None = "OAF_Fear") -> dict:
    md5 = hashlib.md5(content).hexdigest()
    entry = {
        "label": name,
        "dataFile": {
            "id": number,
            "filename": name,
            "filesize": len(content),
            "md5": md5,
            "checksum": {"type": "MD5", "value": md5},
        },
    }
    return entry | ({"directoryLabel": folder} if folder else {})


TESS_LIST = "/api/datasets/:persistentId/versions/:latest-published/files?persistentId=doi%3A10.5683%2FSP2%2FE8H2MF"


def test_tess_is_listed_by_the_dataverse(server, client, tmp_path):
    clips = {1: ("OAF_back_fear.wav", b"back"), 2: ("OAF_bar_fear.wav", b"bar")}
    entries = [dataverse_entry(number, *clip) for number, clip in clips.items()]
    archive = make_zip({"YAF_sad/YAF_back_sad.wav": b"sad"})
    entries += [dataverse_entry(3, "more.zip", archive, None), dataverse_entry(4, "readme.pdf", b"pdf")]
    server.files[TESS_LIST] = json.dumps({"status": "OK", "data": entries}).encode()
    server.files |= {f"/api/access/datafile/{number}": content for number, (_, content) in clips.items()}
    server.files["/api/access/datafile/3"] = archive
    server.faults[TESS_LIST] = [(502, {}), "drop"]
    [counts] = download("tess", tmp_path, client=client).corpora
    assert counts.n_utterances == 3
    assert left_in(tmp_path / "TESS") == [
        "OAF_Fear/OAF_back_fear.wav", "OAF_Fear/OAF_bar_fear.wav", "YAF_sad/YAF_back_sad.wav",
    ]  # fmt: skip


@pytest.mark.parametrize("answer", [b"<html>maintenance</html>", b'{"status": "ERROR"}', b'{"data": [{}]}', b"[]"])
def test_tess_list_that_is_none(server, client, tmp_path, answer):
    server.files[TESS_LIST] = answer
    with pytest.raises(DownloadError, match="try again later"):
        download("tess", tmp_path, client=client)


def test_tess_with_hostile_names(server, client, tmp_path):
    entries = [dataverse_entry(1, "OAF_back_fear.wav", b"x", folder="../../outside")]
    server.files[TESS_LIST] = json.dumps({"data": entries}).encode()
    with pytest.raises(DownloadError, match="not a safe file name"):
        download("tess", tmp_path, client=client)
    assert left_in(tmp_path) == []


def test_emo_db(server, client, tmp_path):
    server.files["/download/download.zip"] = make_zip(
        {"wav/03a01Fa.wav": b"", "erkennung.txt": b"", "lablaut/03a01Fa.lab": b""}
    )
    report = download("emo-db", tmp_path, client=client)
    assert not report.is_complete
    assert "1 of 535 clips" in report.summary()
    assert left_in(tmp_path / "EMO-DB") == ["erkennung.txt", "wav/03a01Fa.wav"]


def test_a_damaged_zip_is_fetched_afresh_next_time(server, client, tmp_path):
    server.files["/download/download.zip"] = b"<html>moved</html>"
    with pytest.raises(DownloadError, match="damaged"):
        download("emo-db", tmp_path, client=client)
    server.files["/download/download.zip"] = make_zip({"wav/03a01Fa.wav": b""})
    assert download("emo-db", tmp_path, client=client).corpora[0].n_utterances == 1


def test_savee_says_how_to_register(tmp_path):
    with pytest.raises(RegistrationRequired, match=r"register at http://.*\n.*\n.*SAVEE/AudioData/DC/a01.wav"):
        download("savee", tmp_path)
    assert left_in(tmp_path) == []


def test_unknown_corpus(tmp_path):
    with pytest.raises(CorpusError, match="iemocap"):
        download("iemocap", tmp_path)

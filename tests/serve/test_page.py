"""The page in headless Chromium, against a real service: what a visitor does, sees, hears of, and takes away.

Every test ends with the proof that no request left the host, that nothing was logged as an error (the service's
content security policy included) and that no script failed. Screenshots of each state are in build/screenshots.
"""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import soundfile
import soxr

import undertone

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "src" / "undertone" / "serve" / "page"
DEMO = ROOT / "demo"
SCREENSHOTS = ROOT / "build" / "screenshots"
TOKEN = "a-token-for-the-page"
WAIT_MS = 20_000
PHONE = {"width": 360, "height": 740}
FORMATS = ("csv", "json", "jsonl", "textgrid", "vtt", "audacity", "rttm", "html")


# ---- a service and a browser for all tests ----


@pytest.fixture(scope="module")
def browser(microphone_path):
    if not (chromium := os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")):
        reason = "no chromium; install it (Debian: apt install chromium) or name one in CHROMIUM"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    sync_api = pytest.importorskip("playwright.sync_api")
    arguments = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone_path}",
    ]
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium, args=arguments, chromium_sandbox=os.geteuid() != 0
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory, model_path):
    with serve(tmp_path_factory.mktemp("page"), "--model", "undertone-small", "--model", str(model_path)) as address:
        yield address


class serve:
    """Context manager (folder, *arguments, token=None) -> address of an ``undertone serve``."""

    def __init__(self, folder, *arguments, token=None):
        self.log = (folder / "log").open("wb")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("UNDERTONE_")}
        environment |= {"OMP_NUM_THREADS": "1"} | ({"UNDERTONE_TOKEN": token} if token else {})
        command = [sys.executable, "-m", "undertone", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, env=environment, cwd=folder)

    def __enter__(self):
        line = self.process.stdout.readline().decode()
        match = re.search(r"http://\S+", line)
        assert match, Path(self.log.name).read_text()
        return match[0].rstrip("/") + "/"

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(15)
        self.process.stdout.close()
        self.log.close()


class Visit:
    """A page in a context of its own, and all that it asked for and complained about."""

    def __init__(self, browser, address, **options):
        self.address = address
        self.allowed = []  # patterns of console messages that the test expects
        self.requests, self.complaints, self.sockets = [], [], []
        options = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"} | options
        self.context = browser.new_context(permissions=["microphone"], **options)
        self.context.set_default_timeout(WAIT_MS)
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page = self.context.new_page()
        self.page.on("websocket", self._hear_socket)
        self.page.on("console", self._hear_console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.open()

    def _hear_socket(self, socket):
        frames = []
        self.sockets.append((socket.url, frames))
        socket.on("framesent", lambda frame: frames.append(frame))  # a built-in method is refused

    def _hear_console(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self):
        self.page.goto(self.address)
        self.page.wait_for_selector("#open-card:enabled, #token[open]")

    def choose(self, *paths):
        self.page.set_input_files("#picker", [str(path) for path in paths])

    def wait_for_clip(self):
        self.page.wait_for_selector("#clip-view:not([hidden])")
        self.page.wait_for_selector("#clip-progress", state="hidden")

    def until(self, expression, argument=None):
        """Wait until a script's value is true; the security policy forbids what Playwright does for it."""
        give_up_s = time.monotonic() + WAIT_MS / 1000
        while not self.page.evaluate(expression, argument):
            assert time.monotonic() < give_up_s, expression
            self.page.wait_for_timeout(30)

    def until_said(self, start):
        self.until("start => document.getElementById('status').textContent.startsWith(start)", start)

    def text(self, selector):
        return self.page.inner_text(selector)

    @property
    def emotion(self):
        return self.text("#clip-verdict .emotion").strip()

    def posted(self, path):
        """Queries of the requests to a path, in order."""
        found = [urlsplit(url) for url in self.requests]
        return [parse_qs(url.query) for url in found if url.path.endswith(path)]

    def look(self, name):
        """Keep screenshots (phone: in one theme); axe finds nothing serious, nothing is wider than the screen."""
        from axe_playwright_python.sync_playwright import Axe

        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        width = self.page.viewport_size["width"]
        faults = []
        for theme in ("light", "dark") if width > 500 else ("light",):
            self.page.emulate_media(color_scheme=theme)
            self.page.screenshot(path=SCREENSHOTS / f"{name}-{width}-{theme}.png", full_page=True)
            rules = {} if theme == "light" else {"runOnly": ["color-contrast"]}  # all else is the same in both
            violations = Axe().run(self.page, options={"resultTypes": ["violations"], **rules}).response["violations"]
            faults += [
                (theme, fault["id"], [node["target"] for node in fault["nodes"]])
                for fault in violations
                if fault["impact"] in ("serious", "critical")
            ]
        assert not faults
        self.assert_fits(name)

    def assert_fits(self, name):
        excess = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert excess <= 0, f"{name} is {excess} px wider than the screen"

    def close(self):
        self.context.close()
        host = urlsplit(self.address).netloc
        asked = [url for url in self.requests if not url.startswith(("blob:", "data:"))]
        asked += [url for url, _ in self.sockets]
        assert asked and not [url for url in asked if urlsplit(url).netloc != host]
        unexpected = [text for text in self.complaints if not any(re.search(part, text) for part in self.allowed)]
        assert not unexpected


@pytest.fixture
def visiting(browser, address):
    """Function (**options of the browser's context) -> Visit."""
    visits = []

    def start(address=address, **options):
        visits.append(Visit(browser, address, **options))
        return visits[-1]

    yield start
    for visit in visits:
        visit.close()


@pytest.fixture
def visit(visiting):
    return visiting()


# ---- sounds ----


def demo_waveform(name, sample_rate):
    waveform, original_rate = soundfile.read(DEMO / name, dtype="float32")
    waveform = soxr.resample(waveform, original_rate, sample_rate)
    return 0.6 * waveform / np.abs(waveform).max()


@pytest.fixture(scope="module")
def microphone_path(tmp_path_factory):
    """What the browser takes for its microphone, over and over."""
    path = tmp_path_factory.mktemp("microphone") / "microphone.wav"
    sound = np.concatenate([demo_waveform("loud-fast.wav", 48_000), demo_waveform("bright.flac", 48_000)])
    soundfile.write(path, sound, 48_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def long_path(tmp_path_factory):
    """A recording of two channels and more than half a minute: left speaks first, then right, in turn."""
    clips = [demo_waveform(path.name, 16_000) for path in sorted(DEMO.iterdir())] * 2
    pieces = []
    for index, clip in enumerate(clips):
        piece = np.zeros((len(clip) + 6_400, 2), np.float32)
        piece[: len(clip), index % 2] = clip
        pieces.append(piece)
    path = tmp_path_factory.mktemp("long") / "call.wav"
    soundfile.write(path, np.concatenate(pieces), 16_000, subtype="PCM_16")
    return path


@pytest.fixture
def broken_path(tmp_path):
    path = tmp_path / "broken.wav"
    path.write_bytes(b"RIFF\x00\x00\x00\x00WAVEjunk")
    return path


def post(address, path, **query):
    """The service's own answer to the same recording, without a browser."""
    url, recording = address + path, query.pop("recording")
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="'
        + recording.name.encode()
        + b'"\r\n\r\n'
        + recording.read_bytes()
        + b"\r\n--x--\r\n"
    )
    url += "?" + "&".join(f"{name}={value}" for name, value in query.items())
    request = urllib.request.Request(url, body, {"Content-Type": "multipart/form-data; boundary=x"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read()


# ---- one recording ----


def test_welcome(visit):
    visit.look("welcome")
    assert "not what a person feels" in visit.text(".limits")
    assert visit.page.title() == "undertone"


def test_example_within_one_click(visit):
    visit.page.get_by_role("button", name="slow and quiet").click()
    visit.wait_for_clip()
    assert visit.emotion == undertone.predict(DEMO / "slow-quiet.opus").emotion
    assert "synthetic" in visit.text("#clip-meta")


def test_upload(visit):
    path = DEMO / "loud-fast.wav"
    visit.choose(path)
    visit.wait_for_clip()
    expected = undertone.predict(path)
    assert visit.emotion == expected.emotion
    rows = [row.split("\n") for row in visit.page.locator("#clip-bars li").all_inner_texts()]
    assert [name for name, _ in rows] == sorted(expected.probs, key=lambda label: -expected.probs[label])
    assert [int(value.removesuffix(" %")) for _, value in rows] == [
        int(100 * prob + 0.5) for prob in sorted(expected.probs.values(), reverse=True)
    ]
    assert expected.emotion in visit.text("#status")  # is read out
    visit.look("clip")


def test_hear_it(visit):
    visit.choose(DEMO / "loud-fast.wav")
    visit.wait_for_clip()
    page, wave = visit.page, visit.page.get_by_role("slider", name="Position in the recording")
    page.get_by_role("button", name="Play", exact=True).click()
    page.get_by_role("button", name="Pause").wait_for()
    visit.until("document.getElementById('wave').getAttribute('aria-valuenow') > 0.2")
    page.get_by_role("button", name="Pause").click()
    box = wave.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    visit.until("document.getElementById('wave').getAttribute('aria-valuenow') > 1.1")
    wave.focus()
    page.keyboard.press(" ")  # pauses
    page.keyboard.press("Home")
    assert wave.get_attribute("aria-valuenow") == "0.00"
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    moved_s = float(wave.get_attribute("aria-valuenow"))
    assert 0.3 < moved_s < 0.6
    assert wave.get_attribute("aria-valuetext").startswith(f"0:00.{round(10 * moved_s)} of 0:02.1")


def test_waveform_has_the_colour_of_the_emotion(visit):
    visit.choose(DEMO / "loud-fast.wav")
    visit.wait_for_clip()
    counts = visit.page.evaluate("""() => {
        const canvas = document.querySelector("#lanes canvas");
        const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height - 24 * devicePixelRatio);
        const counts = {};
        for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) {
            const key = [data[i], data[i + 1], data[i + 2]].join();
            counts[key] = (counts[key] ?? 0) + 1;
        }
        return counts;
    }""")
    timeline = json.loads(post(visit.address, "v1/timeline", recording=DEMO / "loud-fast.wav", channels="mix"))
    emotion = max(timeline["segments"], key=lambda segment: segment["end_s"] - segment["start_s"])["emotion"]
    red, green, blue = palette("light")[emotion or "unsure"]
    assert max(counts, key=counts.get) == f"{red},{green},{blue}"


def test_drag_and_drop(visit):
    content = list((DEMO / "flat.flac").read_bytes())
    dropped = visit.page.evaluate_handle(
        """content => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(content)], "dropped.flac"));
            return transfer;
        }""",
        content,
    )
    visit.page.dispatch_event("body", "dragenter", {"dataTransfer": dropped})
    assert visit.page.is_visible("#dropping")
    visit.page.dispatch_event("body", "drop", {"dataTransfer": dropped})
    visit.wait_for_clip()
    assert visit.page.is_hidden("#dropping")
    assert visit.text("#clip-title") == "dropped.flac"
    assert visit.emotion == undertone.predict(DEMO / "flat.flac").emotion


def test_explanation(visit):
    page = visit.page
    visit.allowed = ["willReadFrequently"]  # the test's own look at the picture
    visit.choose(DEMO / "loud-fast.wav")
    visit.wait_for_clip()
    is_drawn = """() => {
        const canvas = document.getElementById("spectrum-overlay");
        return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some(value => value);
    }"""
    assert not page.evaluate(is_drawn)
    page.get_by_role("switch", name="What made the difference").check()
    page.wait_for_selector("#explain-choice:not([hidden])")
    assert page.evaluate(is_drawn)
    explanation = json.loads(post(visit.address, "v1/explain", recording=DEMO / "loud-fast.wav"))
    points = round(100 * np.max(explanation["importance"]))
    assert f"falls by {points} point" in visit.text("#spectrum-text")
    visit.look("explanation")
    page.select_option("#explain-emotion", "sadness")
    visit.until("document.getElementById('spectrum-text').textContent.includes('sadness')")
    assert visit.posted("v1/explain")[-1]["emotion"] == ["sadness"]
    page.get_by_role("switch").uncheck()
    assert not page.evaluate(is_drawn)


# ---- several files ----


def test_several_files(visit, broken_path):
    page, paths = visit.page, sorted(DEMO.iterdir())
    visit.choose(*paths, broken_path)
    visit.until_said("All 6 files done")
    names = page.locator("#files-table tbody th")
    assert names.all_inner_texts() == [path.name for path in [*paths, broken_path]]
    assert "damaged WAV" in page.locator("#files-table tr", has_text="broken.wav").inner_text()
    visit.look("files")

    predictions = {path.name: undertone.predict(path) for path in paths}
    page.get_by_role("button", name="Sure").click()
    by_confidence = sorted(paths, key=lambda path: -predictions[path.name].confidence)
    assert names.all_inner_texts() == [path.name for path in by_confidence] + ["broken.wav"]
    assert page.get_by_role("columnheader", name="Sure").get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="File", exact=True).click()
    assert names.all_inner_texts() == sorted(path.name for path in [*paths, broken_path])

    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    table = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert [row["path"] for row in table] == [path.name for path in [*paths, broken_path]]
    for row in table[:-1]:
        expected = predictions[row["path"]]
        assert row["emotion"] == expected.emotion
        assert float(row["anger"]) == pytest.approx(expected.probs["anger"], abs=1e-5)
        assert float(row["end_s"]) == pytest.approx(expected.end_s, abs=1e-3)
    assert "damaged" in table[-1]["error"]
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    assert [row["emotion"] for row in json.loads(download.value.path().read_text())[:-1]] == [
        row["emotion"] for row in table[:-1]
    ]

    page.get_by_role("button", name="slow-quiet.opus").click()
    visit.wait_for_clip()
    assert visit.emotion == predictions["slow-quiet.opus"].emotion
    page.get_by_role("button", name="Back to the table").click()
    assert page.is_visible("#files-table")


# ---- long recordings ----


def test_timeline(visit, long_path):
    page = visit.page
    visit.choose(long_path)
    visit.wait_for_clip()
    expected = json.loads(post(visit.address, "v1/timeline", recording=long_path, channels="mix"))["segments"]
    rows = page.locator("#segments-table tbody tr")
    assert rows.count() == len(expected) > 3
    emotions = [(segment["emotion"] or "not sure") for segment in expected]
    assert rows.locator(".emotion").all_inner_texts() == emotions
    seconds = dict.fromkeys(emotions, 0.0)
    for segment, emotion in zip(expected, emotions, strict=True):
        seconds[emotion] += segment["end_s"] - segment["start_s"]
    first = max(seconds, key=seconds.get)
    share = seconds[first] / sum(seconds.values())
    assert visit.emotion == first
    assert f"{int(100 * share + 0.5)} % of the speech" in visit.text("#clip-verdict")
    visit.look("timeline")

    rows.nth(2).get_by_role("button").click()  # plays that segment, and looks into it
    page.get_by_role("button", name="Pause").wait_for()
    now_s = float(page.get_attribute("#wave", "aria-valuenow"))
    assert expected[2]["start_s"] - 0.1 <= now_s < expected[2]["end_s"]
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("switch", name="What made the difference").check()
    page.wait_for_selector("#explain-choice:not([hidden])")

    page.get_by_role("button", name="Zoom in").click()
    page.get_by_role("button", name="Zoom in").click()
    visit.look("timeline-zoomed")
    page.select_option("#segments-filter", emotions[0])
    assert rows.count() == emotions.count(emotions[0])


def test_channels_apart(visit, long_path):
    page = visit.page
    visit.choose(long_path)
    visit.wait_for_clip()
    page.get_by_role("radio", name="Apart").check()
    visit.until_said("Channels apart.")
    expected = json.loads(post(visit.address, "v1/timeline", recording=long_path, channels="split"))["segments"]
    names = page.locator("#segments-table tbody td:nth-child(3)").all_inner_texts()
    assert names == [["left", "right"][segment["channel"]] for segment in expected]
    assert page.locator("#lanes canvas").count() == 2
    visit.look("channels")


def test_every_download(visit):
    path = DEMO / "bright.flac"
    visit.choose(path)
    visit.wait_for_clip()
    assert visit.page.locator("#download-list button").count() == len(FORMATS)
    for format in FORMATS:
        with visit.page.expect_download() as download:
            visit.page.locator(f"[data-format={format}]").click()
        content = download.value.path().read_bytes()
        assert download.value.suggested_filename.startswith("bright.")
        assert content
        assert content == post(visit.address, "v1/timeline", recording=path, channels="mix", format=format)
        visit.page.wait_for_selector(f"[data-format={format}]:enabled")


# ---- the microphone ----


def test_record(visit):
    page = visit.page
    page.get_by_role("button", name="Record a clip").click()
    stop = page.get_by_role("button", name="Stop and listen")
    stop.wait_for()
    sent = len(visit.requests)
    visit.until("parseFloat(document.getElementById('live-meta').textContent.slice(2)) > 2")
    visit.look("recording")
    assert len(visit.requests) == sent  # nothing is sent before one stops
    stop.click()
    visit.wait_for_clip()
    assert visit.text("#clip-title").startswith("recording-")
    assert visit.emotion in undertone.EMOTIONS
    assert not visit.sockets


def test_live(visit):
    page = visit.page
    page.get_by_role("button", name="Live").click()
    page.get_by_role("button", name="Stop").wait_for()
    page.wait_for_selector("#live-verdict .emotion .swatch")
    bars = page.locator("#live-bars .value")
    before = bars.all_inner_texts()
    values = "[...document.querySelectorAll('#live-bars .value')].map(value => value.innerText).join()"
    visit.until(f"before => {values} !== before", ",".join(before))
    visit.until("document.getElementById('live-meta').dataset.delayMs > 0")
    visit.look("live")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Open it as a recording").wait_for()
    ((url, frames),) = visit.sockets
    query = parse_qs(urlsplit(url).query)
    sample_rate = int(query["sample_rate"][0])
    assert sample_rate == page.evaluate("new AudioContext().sampleRate")
    assert json.loads(frames[-1]) == {"end": True}
    heard = np.frombuffer(b"".join(frames[:-1]), "<i2")
    assert np.abs(heard).max() > 3_000  # the microphone's sound, not silence
    visit.look("live-stopped")

    with page.expect_download() as download:
        page.get_by_role("button", name="Save the sound").click()
    kept, kept_rate = soundfile.read(download.value.path(), dtype="int16")
    assert kept_rate == sample_rate
    np.testing.assert_array_equal(kept, heard)
    page.get_by_role("button", name="Open it as a recording").click()
    visit.wait_for_clip()
    assert visit.emotion in (*undertone.EMOTIONS, "not sure")


@pytest.mark.parametrize(
    ("fault", "words"),
    [("NotAllowedError", "Allow it in the address bar"), ("NotFoundError", "There is no microphone here")],
)
def test_no_microphone(visit, fault, words):
    visit.page.evaluate(
        "fault => { navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', fault) } }", fault
    )
    visit.page.get_by_role("button", name="Live").click()
    visit.page.get_by_role("alert").get_by_text(words).wait_for()
    assert visit.page.is_visible(".welcome")


# ---- what goes wrong ----


def test_broken_file(visit, broken_path):
    visit.allowed = ["status of 422"]
    visit.choose(broken_path)
    alert = visit.page.get_by_role("alert").filter(has_text="broken.wav is a damaged WAV file")
    alert.wait_for()
    visit.look("error")
    alert.get_by_role("button", name="Close").click()
    assert visit.page.locator("#alert").inner_text() == ""
    visit.choose(DEMO / "flat.flac")  # and it goes on
    visit.wait_for_clip()
    assert visit.emotion == undertone.predict(DEMO / "flat.flac").emotion


def test_service_gone(visit):
    visit.allowed = ["ERR_CONNECTION_REFUSED"]
    visit.page.route("**/v1/predict*", lambda route: route.abort("connectionrefused"))
    visit.choose(DEMO / "flat.flac")
    visit.page.get_by_role("alert").get_by_text("did not answer").wait_for()


def test_busy_service_is_asked_again(visit):
    visit.allowed = ["status of 429"]
    refused = []

    def handle(route):
        if len(refused) == 2:
            return route.continue_()
        refused.append(route.request.url)
        error = json.dumps({"error": {"code": "busy", "message": "too much at a time"}})
        return route.fulfill(status=429, headers={"Retry-After": "1"}, body=error, content_type="application/json")

    visit.page.route("**/v1/predict*", handle)
    visit.choose(DEMO / "flat.flac")
    visit.page.get_by_text("The service is busy; trying again in 1 s.").wait_for()
    visit.wait_for_clip()
    assert visit.emotion == undertone.predict(DEMO / "flat.flac").emotion


def test_token(visiting, tmp_path):
    with serve(tmp_path, "--model", "undertone-small", token=TOKEN) as address:
        visit = visiting(address)
        visit.allowed = ["status of 401"]
        page = visit.page
        page.get_by_role("dialog", name="This service asks for a token").wait_for()
        visit.look("token")
        page.get_by_role("button", name="Not now").click()
        page.get_by_role("alert").get_by_text("This service needs its token").wait_for()
        page.get_by_role("button", name="slow and quiet").click()  # asks once more
        page.fill("#token-value", "a wrong one")
        page.keyboard.press("Enter")
        page.get_by_text("That token was not accepted.").wait_for()
        page.fill("#token-value", TOKEN)
        page.get_by_role("button", name="Go on").click()
        visit.wait_for_clip()  # and goes on with what was asked for
        assert visit.emotion == undertone.predict(DEMO / "slow-quiet.opus").emotion
        page.get_by_role("button", name="Live").click()
        page.wait_for_selector("#live-verdict .emotion .swatch")
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("button", name="Open it as a recording").wait_for()
        visit.open()  # the tab remembers it
        assert page.is_hidden("#token")


# ---- the model ----


def test_model_choice_and_card(visit, make_card):
    page = visit.page
    visit.choose(DEMO / "flat.flac")
    visit.wait_for_clip()
    page.get_by_role("combobox", name="Model").select_option("tiny")
    visit.wait_for_clip()
    assert visit.posted("v1/predict")[-1]["model"] == ["tiny"]
    shown = page.locator("#clip-bars .name").all_inner_texts()
    assert sorted(shown) == sorted(make_card().labels)

    page.get_by_role("combobox", name="Model").select_option("undertone-small")
    visit.wait_for_clip()
    page.get_by_role("button", name="About this model").click()
    card = undertone.load_model().card
    dialog = page.get_by_role("dialog", name="undertone-small")
    words = dialog.inner_text()
    for text in (
        card.not_fit_for,
        card.intended_use,
        card.licence,
        *card.scores,
        *(corpus.name for corpus in card.corpora),
    ):
        assert text in words
    for score in card.scores.values():
        assert f"{score['uar']:.3f}" in words
        assert score["command"] in words
        assert f"off by {100 * score['ece']:.1f} points" in words
        for name, lost in score["conditions"]["lost"].items():
            assert f"{name}: {round(100 * lost, 1) or 0:.1f}" in words
    visit.look("card")
    page.keyboard.press("Escape")
    assert dialog.is_hidden()


# ---- for everybody ----


def test_keyboard_alone(visit):
    page = visit.page
    focused = "document.activeElement.innerText || document.activeElement.id"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "Skip to the content"
    page.keyboard.press("Enter")
    reached = []
    while "loud and fast" not in reached:
        page.keyboard.press("Tab")
        reached.append(page.evaluate(focused))
        assert len(reached) < 10
    assert reached[:3] == ["Choose files", "Record a clip", "Live"]
    page.keyboard.press("Enter")
    visit.wait_for_clip()
    assert page.evaluate(focused) == "loud-fast.wav"  # the reader is at the result
    while page.evaluate("document.activeElement.id") != "explain":
        page.keyboard.press("Tab")
    page.keyboard.press(" ")
    page.wait_for_selector("#explain-choice:not([hidden])")


def test_theme_is_chosen_and_kept(visiting):
    visit = visiting(color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = visit.page.evaluate(background)
    visit.page.get_by_role("button", name="Dark").click()
    dark = visit.page.evaluate(background)
    assert dark != light
    assert visit.page.get_attribute("#theme", "aria-pressed") == "true"
    visit.open()
    assert visit.page.evaluate(background) == dark
    visit.page.get_by_role("button", name="Dark").click()
    assert visit.page.evaluate(background) == light


def test_no_motion_where_it_is_unwanted(visit):
    visit.choose(DEMO / "flat.flac")
    visit.page.wait_for_selector("#clip-view:not([hidden])")
    assert visit.page.evaluate("document.getAnimations().length") == 0


def test_phone(visiting, long_path, broken_path):
    visit = visiting(viewport=PHONE, is_mobile=True, has_touch=True, device_scale_factor=2)
    page = visit.page
    visit.look("welcome")
    visit.choose(long_path)
    visit.wait_for_clip()
    visit.look("timeline")
    page.get_by_role("radio", name="Apart").check()
    visit.until_said("Channels apart.")
    visit.assert_fits("channels")
    visit.choose(DEMO / "loud-fast.wav")
    visit.wait_for_clip()
    page.get_by_role("switch").check()
    page.wait_for_selector("#explain-choice:not([hidden])")
    visit.look("explanation")
    page.get_by_role("button", name="About").click()
    visit.look("card")
    page.keyboard.press("Escape")
    visit.choose(*sorted(DEMO.iterdir()), broken_path)
    visit.until_said("All 6")
    visit.look("files")
    page.get_by_role("button", name="Live").click()
    page.wait_for_selector("#live-verdict .emotion .swatch")
    visit.look("live")


# ---- the sound in the browser, against numpy and soundfile ----


def test_fourier_transform(visit):
    waveform = np.random.default_rng(0).uniform(-1, 1, 512)
    real, imaginary = visit.page.evaluate(
        """async waveform => {
            const {fft} = await import("./static/sound.js");
            const [real, imaginary] = [Float32Array.from(waveform), new Float32Array(waveform.length)];
            fft(real, imaginary);
            return [[...real], [...imaginary]];
        }""",
        waveform.tolist(),
    )
    np.testing.assert_allclose(np.array(real) + 1j * np.array(imaginary), np.fft.fft(waveform), atol=1e-4)


def test_spectrogram_shows_a_tone_where_it_is(visit):
    row = visit.page.evaluate(
        """async () => {
            const {spectrogram} = await import("./static/sound.js");
            const waveform = Float32Array.from({length: 16000}, (_, i) => Math.sin(2 * Math.PI * 1000 * i / 16000));
            const {levels, nRows, nColumns} = spectrogram(waveform, 50);
            const column = Array.from({length: nRows}, (_, row) => levels[row * nColumns + 25]);
            return column.indexOf(Math.max(...column)) / nRows;
        }"""
    )

    def mel(hz):
        return 2595 * np.log10(1 + hz / 700)

    assert row == pytest.approx(1 - mel(1000) / mel(8000), abs=0.02)


def test_wav_file_of_the_page(visit):
    waveform = [0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5]
    content = visit.page.evaluate(
        """async waveform => {
            const {toWav} = await import("./static/sound.js");
            return [...new Uint8Array(await toWav(Float32Array.from(waveform), 48000, "x.wav").arrayBuffer())];
        }""",
        waveform,
    )
    samples, sample_rate = soundfile.read(io.BytesIO(bytes(content)), dtype="int16")
    assert sample_rate == 48_000
    assert samples.tolist() == [0, 16384, -16383, 32767, -32767, 32767, -32768]


# ---- the files themselves, without a browser ----


def test_examples_are_those_of_the_repository():
    shipped = {path.name: path.read_bytes() for path in (PAGE / "examples").iterdir()}
    assert shipped == {path.name: path.read_bytes() for path in DEMO.iterdir()}


def test_nothing_inline_and_nothing_from_elsewhere():
    html = (PAGE / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\son\w+=|javascript:", html)
    for path in (*PAGE.glob("*.js"), *PAGE.glob("*.css"), PAGE / "index.html"):
        addresses = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+", path.read_text()))
        assert not addresses, path.name
    named = set(re.findall(r"static/(\w+\.js)", html))  # and so fetched at once, not one after the other
    assert {path.name for path in PAGE.glob("*.js")} == named | {"capture.js"}


def palette(theme):
    """Name of a colour -> (red, green, blue), as the style sheet has it."""
    found = re.findall(r"--([\w-]+): light-dark\(#(\w{6}), #(\w{6})\)", (PAGE / "page.css").read_text())
    return {name: tuple(bytes.fromhex(light if theme == "light" else dark)) for name, light, dark in found}


def linear(colour):
    share = np.array(colour) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    light, dark = sorted((linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def oklab(rgb):
    """Ottosson (2020), a space in which distances are about those that are seen."""
    to_lms = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
              [0.0883024619, 0.2817188376, 0.6299787005]]  # fmt: skip
    to_lab = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
              [0.0259040371, 0.7827717662, -0.8086757660]]  # fmt: skip
    return np.array(to_lab) @ np.cbrt(np.array(to_lms) @ np.clip(rgb, 0, 1))


# Machado, Oliveira and Fernandes (2009), severity 1.0
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_emotions_can_be_told_apart_by_colour(theme, deficiency):
    colours = palette(theme)
    seen = {
        emotion: oklab(np.array(DEFICIENCIES[deficiency]) @ linear(colours[emotion])) for emotion in undertone.EMOTIONS
    }
    common = undertone.EMOTIONS[:7]  # calm and boredom are rare, and never met together
    for index, one in enumerate(common):
        for other in common[:index]:
            assert np.linalg.norm(seen[one] - seen[other]) > 0.08, (one, other)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast(theme):
    """WCAG 2.2: 4.5 for text, 3 for what has to be seen to understand."""
    colours = palette(theme)
    for ground in ("paper", "raised"):
        for text in ("ink", "muted", "link", "fault"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for mark in (*undertone.EMOTIONS, "edge"):
            assert contrast(colours[mark], colours[ground]) >= 2.9, (mark, ground)

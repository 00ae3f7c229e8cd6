"""Timelines in every format, read back by other readers than the ones that wrote them."""

import csv
import html.parser
import io
import json
import os
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from undertone import formats
from undertone.player import clock
from undertone.timelines import Segment, Timeline

LABELS = ("anger", "happiness", "neutral")
ODD_NAMES = [
    "ü 猫 🎤.wav",
    "a,b;c.wav",
    'a"b""c.wav',
    "a\nb\r\nc.wav",
    "a\tb.wav",
    "<script>alert(1)</script>.wav",
    "</script><img src=x onerror=alert(1)>.wav",
    "<!-- --> {{CONTENT}}.wav",
    "--> NOTE.wav",
    "\u2028 \x1b[31m.wav",
    "not\udcfftext.wav",
    "a:b?c#d%41.wav",
    " ",
]


def segment(start_s, end_s, emotion, confidence=0.75, channel=None):
    rest = (1 - confidence) / 2
    probs = {label: confidence if label == (emotion or "neutral") else rest for label in LABELS}
    return Segment(start_s, end_s, emotion, confidence, probs, channel)


def mixed(path="call.wav"):
    segments = (
        segment(0.5, 2.0004, "anger", 0.9),
        segment(2.0004, 3.25, "neutral", 0.6000004),
        segment(61.0, 62.123456, None, 0.3400001),
        segment(3_700.25, 3_725.5, "happiness", 0.8),
    )
    peaks = np.array([[0.0, 0.5, 1.0, 0.25]], np.float32)
    return Timeline(path, 3_725.5, LABELS, segments, model="tiny", peaks=peaks)


def split(path="call.wav"):
    segments = (
        segment(0.0, 1.5, "anger", channel=0),
        segment(1.0, 2.5, "neutral", channel=1),
        segment(2.0, 4.0, None, 0.35, channel=0),
    )
    return Timeline(path, 4.0, LABELS, segments, n_channels=2, model="tiny", peaks=np.zeros((2, 3), np.float32))


def empty(path="call.wav"):
    return Timeline(path, 3.0, LABELS, ())


def written(timeline, format, **options):
    file = io.StringIO(newline="")
    formats.write_timeline(timeline, file, format, **options)
    text = file.getvalue()
    text.encode("utf-8")  # whatever the name holds
    return text


def test_an_unknown_format():
    with pytest.raises(ValueError, match="csv, json, jsonl, textgrid, vtt, audacity, rttm, html"):
        written(mixed(), "docx")


@pytest.mark.parametrize("format", formats.TIMELINE_FORMATS)
@pytest.mark.parametrize("timeline", [mixed(), split(), empty(), mixed(None)], ids=["mixed", "split", "empty", "array"])
def test_every_format_writes_every_timeline(format, timeline, tmp_path):
    with formats.open_output(tmp_path / "out") as file:
        formats.write_timeline(timeline, file, format)
    assert (tmp_path / "out").read_text(encoding="utf-8") == written(timeline, format)


# ---- CSV, JSON, JSON Lines ----


def test_csv_has_a_row_per_segment():
    rows = list(csv.DictReader(io.StringIO(written(mixed(), "csv"), newline="")))
    assert list(rows[0]) == ["path", "channel", "start_s", "end_s", "emotion", "confidence", *LABELS]
    assert [row["emotion"] for row in rows] == ["anger", "neutral", "", "happiness"]
    assert rows[0] == {
        "path": "call.wav",
        "channel": "",
        "start_s": "0.5",
        "end_s": "2.0",
        "emotion": "anger",
        "confidence": "0.9",
        "anger": "0.9",
        "happiness": "0.05",
        "neutral": "0.05",
    }
    assert [row["channel"] for row in csv.DictReader(io.StringIO(written(split(), "csv")))] == ["0", "1", "0"]


def test_csv_rows_of_several_recordings_follow_each_other():
    file = io.StringIO()
    formats.write_timeline_csv(mixed("a.wav"), file)
    formats.write_timeline_csv(mixed("b.wav"), file, header=False)
    paths = [row["path"] for row in csv.DictReader(io.StringIO(file.getvalue()))]
    assert paths == ["a.wav"] * 4 + ["b.wav"] * 4


def test_json_is_the_whole_timeline():
    content = json.loads(written(split(), "json"))
    assert content == formats.timeline_to_dict(split())
    assert [content[name] for name in ("path", "duration_s", "n_channels", "model")] == ["call.wav", 4.0, 2, "tiny"]
    assert content["labels"] == list(LABELS)
    assert content["segments"][2]["emotion"] is None
    assert set(content["segments"][0]) == {"channel", "start_s", "end_s", "emotion", "confidence", "probs"}
    first, second = content["totals"]
    assert (first["channel"], first["speech_s"], second["speech_s"]) == (0, 3.5, 1.5)
    assert first["shares"] == {"anger": pytest.approx(1.5 / 3.5, abs=1e-6)}
    assert first["not_sure"] == pytest.approx(2 / 3.5, abs=1e-6)
    assert first["longest_anger"]["end_s"] == 1.5
    assert second["longest_anger"] is None


def test_json_lines_are_the_segments():
    rows = [json.loads(line) for line in written(mixed(), "jsonl").split("\n")[:-1]]
    assert rows == [{"path": "call.wav", **row} for row in formats.timeline_to_dict(mixed())["segments"]]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_in_tables(name):
    readable = name.encode("utf-8", "backslashreplace").decode()
    assert {row["path"] for row in csv.DictReader(io.StringIO(written(mixed(name), "csv"), newline=""))} == {readable}
    assert json.loads(written(mixed(name), "json"))["path"] == name
    assert {json.loads(line)["path"] for line in written(mixed(name), "jsonl").split("\n")[:-1]} == {name}


# ---- Praat ----


@pytest.mark.parametrize("timeline", [mixed(), split(), empty()], ids=["mixed", "split", "empty"])
def test_textgrid_as_praat_itself_reads_it(timeline, tmp_path):
    parselmouth = pytest.importorskip("parselmouth")
    from parselmouth import praat

    path = tmp_path / "out.TextGrid"
    path.write_text(written(timeline, "textgrid"), encoding="utf-8")
    grid = parselmouth.read(str(path))
    assert praat.call(grid, "Get total duration") == timeline.duration_s
    assert praat.call(grid, "Get number of tiers") == len(timeline.channels())
    for tier, channel in enumerate(timeline.channels(), 1):
        read = []
        for index in range(1, praat.call(grid, "Get number of intervals", tier) + 1):
            text = praat.call(grid, "Get label of interval", tier, index)
            start_s = praat.call(grid, "Get start time of interval", tier, index)
            if text:
                read.append((text, start_s, praat.call(grid, "Get end time of interval", tier, index)))
        expected = [
            (segment.emotion or "not sure", round(segment.start_s, 3), round(segment.end_s, 3))
            for segment in timeline.channel(channel)
        ]
        assert read == [(text, pytest.approx(start_s), pytest.approx(end_s)) for text, start_s, end_s in expected]


def test_textgrid_as_praatio_reads_it(tmp_path):
    textgrid = pytest.importorskip("praatio.textgrid")
    path = tmp_path / "out.TextGrid"
    path.write_text(written(split(), "textgrid"), encoding="utf-8")
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True)
    assert grid.tierNames == ("emotion, channel 1", "emotion, channel 2")
    entries = [tuple(entry) for entry in grid.getTier("emotion, channel 1").entries]
    assert entries == [(0, 1.5, "anger"), (1.5, 2.0, ""), (2.0, 4.0, "not sure")]
    assert [entry.label for entry in grid.getTier("emotion, channel 2").entries] == ["", "neutral", ""]


def test_intervals_have_no_gaps_and_no_overlaps_after_rounding():
    rng = np.random.default_rng(0)
    edges_s = np.sort(rng.uniform(0, 20, 400))
    segments = tuple(segment(start_s, end_s, "anger") for start_s, end_s in pairwise(edges_s))
    intervals = formats._intervals(segments, 20.00049)
    assert (intervals[0][0], intervals[-1][1]) == ("0.000", "20.000")
    assert [start for start, _, _ in intervals[1:]] == [end for _, end, _ in intervals[:-1]]
    assert all(float(start) < float(end) for start, end, _ in intervals)


# ---- WebVTT ----


@pytest.mark.parametrize("timeline", [mixed(), split(), empty()], ids=["mixed", "split", "empty"])
def test_webvtt_as_webvtt_py_reads_it(timeline):
    webvtt = pytest.importorskip("webvtt")
    captions = list(webvtt.from_string(written(timeline, "vtt")))
    assert [caption.identifier for caption in captions] == [str(n + 1) for n in range(len(timeline.segments))]
    for caption, segment in zip(captions, timeline.segments, strict=True):
        assert caption.start_in_seconds == int(segment.start_s)
        assert caption.text == f"{segment.emotion or 'not sure'} {segment.confidence:.0%}"
        assert caption.voice == (None if segment.channel is None else f"Channel {segment.channel + 1}")


def test_webvtt_times():
    text = written(mixed(), "vtt")
    assert "\n00:00:00.500 --> 00:00:02.000\n" in text
    assert "\n01:01:40.250 --> 01:02:05.500\n" in text


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_in_webvtt(name):
    webvtt = pytest.importorskip("webvtt")
    text = written(mixed(name), "vtt")
    note = text.split("\n\n")[1]
    assert note.startswith("NOTE ")
    assert "-->" not in note
    assert note.isprintable()
    assert len(list(webvtt.from_string(text))) == 4


# ---- Audacity, RTTM ----


def test_audacity_labels():
    rows = [line.split("\t") for line in written(split(), "audacity").splitlines()]
    assert rows == [
        ["0.000000", "1.500000", "channel 1: anger 75%"],
        ["1.000000", "2.500000", "channel 2: neutral 75%"],
        ["2.000000", "4.000000", "channel 1: not sure 35%"],
    ]
    assert written(mixed(), "audacity").splitlines()[2] == "61.000000\t62.123456\tnot sure 34%"


def read_rttm(text):
    """As NIST's RT-09 plan has it: ten fields parted by blanks, the file's name without any."""
    for line in text.splitlines():
        kind, name, channel, start_s, duration_s, ortho, stype, speaker, confidence, lookahead = line.split(" ")
        assert (kind, ortho, stype, lookahead) == ("SPEAKER", "<NA>", "<NA>", "<NA>")
        assert re.fullmatch(r"\d+\.\d{3}", start_s)
        assert re.fullmatch(r"\d+\.\d{3}", duration_s)
        assert float(duration_s) > 0
        yield name, int(channel), float(start_s), float(duration_s), speaker, float(confidence)


def test_rttm():
    assert list(read_rttm(written(split(), "rttm"))) == [
        ("call", 1, 0.0, 1.5, "anger", 0.75),
        ("call", 2, 1.0, 1.5, "neutral", 0.75),
        ("call", 1, 2.0, 2.0, "not_sure", 0.35),
    ]
    assert [row[:2] for row in read_rttm(written(mixed(), "rttm"))] == [("call", 1)] * 4


@pytest.mark.parametrize("name", [*ODD_NAMES, None, "folder/of a/my call.wav", ".wav"])
def test_odd_names_in_rttm(name):
    (shown,) = {row[0] for row in read_rttm(written(mixed(name), "rttm"))}
    assert shown.isprintable()
    assert shown
    if name == "folder/of a/my call.wav":
        assert shown == "my_call"


# ---- the page ----


class Page(html.parser.HTMLParser):
    """What a page holds: elements, text by element, and the JSON inside."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._inside = [], {}, []
        self.feed(text)
        self.close()
        self.content = json.loads(self.text["script#content"])

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        if tag not in ("meta", "br", "link", "img", "input"):
            self._inside.append(tag + (f"#{attributes['id']}" if "id" in attributes else ""))

    def handle_endtag(self, tag):
        assert self._inside.pop().partition("#")[0] == tag, "elements that are not closed in order"

    def handle_data(self, data):
        if self._inside:
            self.text[self._inside[-1]] = self.text.get(self._inside[-1], "") + data

    def attributes(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def test_page_holds_the_timeline():
    page = Page(written(split(), "html"))
    expected = formats.timeline_to_dict(split())
    assert page.content["segments"] == expected["segments"]
    assert page.content["totals"] == expected["totals"]
    assert page.content["duration_s"] == 4.0
    assert page.content["peaks"] == [[0, 0, 0], [0, 0, 0]]
    assert page.text["h1"] == "call.wav"
    assert sum("data-index" in attributes for attributes in page.attributes("tr")) == 3
    assert not page._inside


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_cannot_break_the_page(name):
    plain, odd = Page(written(mixed(), "html")), Page(written(mixed(name), "html"))
    assert [tag for tag, _ in odd.elements] == [tag for tag, _ in plain.elements]
    shown = formats._one_line(name)
    assert odd.content["path"] == shown
    assert odd.text["title"].startswith(shown)


def test_page_asks_nothing_of_any_network():
    text = written(split(), "html")
    assert not re.search(r"https?://|//[a-z]|@import|url\(", text)
    page = Page(text)
    loading = [attributes for _, attributes in page.elements if "src" in attributes or "href" in attributes]
    assert [attributes.get("id") for attributes in loading] == ["audio"]
    policy = next(attributes["content"] for attributes in page.attributes("meta") if "http-equiv" in attributes)
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("name", ODD_NAMES)
def test_page_finds_the_sound_beside_it(name):
    from urllib.parse import unquote_to_bytes, urlsplit

    (audio,) = Page(written(mixed(f"folder/{name}"), "html")).attributes("audio")
    url = urlsplit(audio["src"])
    assert (url.scheme, url.netloc, url.query, url.fragment) == ("", "", "", "")
    assert os.fsdecode(unquote_to_bytes(url.path)) == f"./{Path('folder', name).name}"


def test_page_takes_another_address_of_the_sound():
    (audio,) = Page(written(mixed(), "html", audio="data:audio/wav;base64,UklGRg==")).attributes("audio")
    assert audio["src"] == "data:audio/wav;base64,UklGRg=="
    (audio,) = Page(written(mixed(None), "html")).attributes("audio")
    assert not audio["src"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00.0"), (9.99, "0:09.9"), (3_599.9, "59:59.9"), (36_000, "10:00:00.0")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def until(page, condition):
    """Wait for a condition on the page's own ``audio``; playwright's waiting needs what the page's policy forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never: {condition}")


@pytest.mark.slow
def test_page_in_a_browser(tmp_path, make_speech, write_sound):
    """Click and keys move and play the sound; nothing else is asked for, and nothing goes wrong."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not (chromium := os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no chromium; install it (Debian: apt install chromium) or name one in CHROMIUM")
    write_sound("call.wav", np.stack([make_speech(0, 4.0), make_speech(1, 4.0)], axis=1))
    page_path = tmp_path / "call.html"
    page_path.write_text(written(split(), "html"), encoding="utf-8")
    with playwright.sync_playwright() as started:
        arguments = ["--autoplay-policy=no-user-gesture-required", "--mute-audio"]
        browser = started.chromium.launch(executable_path=chromium, args=arguments, chromium_sandbox=os.geteuid() != 0)
        page = browser.new_page()
        asked, problems = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(page_path.as_uri())
        until(page, "audio.readyState >= 1")
        assert page.is_hidden("#missing")
        assert page.evaluate("document.querySelectorAll('#waves canvas').length") == 2
        page.focus("#waves")
        page.keyboard.press("End")
        assert page.get_attribute("#waves", "aria-valuenow") == "4.0"
        page.keyboard.press("Shift+ArrowLeft")
        assert page.get_attribute("#waves", "aria-valuenow") == "3.0"
        assert "channel 1: not sure 35 %" in page.inner_text("#now")
        page.keyboard.press("Home")
        page.click("tbody tr:nth-child(2) button")
        until(page, "audio.currentTime > 1.05")
        assert "on" in (page.get_attribute("tbody tr:nth-child(2)", "class") or "").split()
        until(page, "audio.paused")
        assert 2.3 < page.evaluate("document.getElementById('audio').currentTime") < 3.0
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.closest('tr').dataset.index") == "2"
        browser.close()
    assert problems == []
    assert {url.rpartition("/")[2] for url in asked} == {"call.html", "call.wav"}

"""Pictures: read back by readers of their own, with what they show where it belongs."""

import base64
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest

from undertone.audio import load_waveform
from undertone.explanation import Explanation, hz_to_mel
from undertone.picture import BLUE, RED, describe, spectrogram, strongest, to_html, to_png, to_svg

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def explanation():
    """Two seconds, four times and two bands: one red cell, one blue one of half its strength."""
    importance = np.array([[0.0, 0.3, 0.0, 0.0], [0.0, 0.0, 0.0, -0.15]])
    bands_hz = np.array([0.0, 1_767.8, 8_000.0])  # 8,000 Hz halved on the mel scale
    return Explanation("fear", 0.75, np.linspace(0, 2, 5), bands_hz, importance)


def decode(png):
    cv2 = pytest.importorskip("cv2")
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)


# ---- the spectrogram ----


@pytest.mark.parametrize("frequency_hz", [200.0, 1_000.0, 5_000.0])
def test_a_tone_is_a_line_at_its_mel(make_tone, frequency_hz):
    levels_db = spectrogram(make_tone(frequency_hz, 2.0))
    assert levels_db.shape == (160, 250)
    rows = levels_db[:, 10:-10].argmax(axis=0)
    expected = 160 * (1 - hz_to_mel(frequency_hz) / hz_to_mel(8_000))
    assert np.abs(rows + 0.5 - expected).max() <= 2


def test_a_sound_is_where_it_begins_and_ends(make_tone):
    levels_db = spectrogram(np.concatenate([np.zeros(16_000), make_tone(1_000.0, 1.0)]))
    loud = np.flatnonzero(levels_db.max(axis=0) > levels_db.max() - 20)
    assert (loud[0] / 250, (loud[-1] + 1) / 250) == pytest.approx((0.5, 1.0), abs=0.01)


def test_long_clips_have_no_more_columns_than_are_seen(make_tone):
    sound = np.zeros(480_000, np.float32)
    sound[240_000:240_100] = 1.0  # a click is not lost among what is left out
    levels_db = spectrogram(sound)
    assert levels_db.shape[1] <= 1_440
    assert levels_db.max() > 20


# ---- SVG ----


def test_svg_has_a_cell_for_each_number(explanation, make_tone):
    root = ElementTree.fromstring(to_svg(explanation, make_tone(440.0, 2.0), name="a <b> & c.wav"))
    cells = [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]
    assert len(cells) == 8
    shown = {rect.find(f"{SVG}title").text: rect for rect in cells}
    red = shown["0.50-1.00 s, 0-1,768 Hz: 75.0% -> 45.0%"]
    blue = shown["1.50-2.00 s, 1,768-8,000 Hz: 75.0% -> 90.0%"]
    assert red.get("fill") == "#{:02x}{:02x}{:02x}".format(*RED)
    assert blue.get("fill") == "#{:02x}{:02x}{:02x}".format(*BLUE)
    assert float(red.get("fill-opacity")) == pytest.approx(2 * float(blue.get("fill-opacity")))
    assert [float(rect.get("fill-opacity")) for rect in cells].count(0.0) == 6
    image = root.find(f"{SVG}image")
    left, width = float(image.get("x")), float(image.get("width"))
    assert float(red.get("x")) == pytest.approx(left + width / 4)
    assert float(red.get("y")) > float(blue.get("y"))  # low frequencies are below
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "Fear, 75%: what made the difference" in texts
    assert "a <b> & c.wav" in texts
    assert {"0", "0.2", "1.8", "2", "250", "8,000"} <= set(texts)


def test_svg_asks_nothing_of_the_network(explanation, make_tone):
    text = to_svg(explanation, make_tone(440.0, 2.0))
    assert re.findall(r'(?:href|src)="([^"]{,10})', text) == ["data:image"]
    png = base64.b64decode(re.search(r"base64,([^\"]+)", text)[1])
    assert decode(png).shape == (160, 250)


def test_little_differences_are_drawn_faintly(explanation, make_tone):
    faint = Explanation("fear", 0.75, explanation.times_s, explanation.bands_hz, explanation.importance / 300)
    root = ElementTree.fromstring(to_svg(faint, make_tone(440.0, 2.0)))
    assert max(float(rect.get("fill-opacity", 0)) for rect in root.iter(f"{SVG}rect")) < 0.1


@pytest.mark.parametrize("n_samples", [1, 100, 479_999])
def test_odd_lengths_and_silence_can_be_drawn(explanation, n_samples):
    times_s = np.linspace(0, n_samples / 16_000, 5)
    odd = Explanation("fear", 0.5, times_s, explanation.bands_hz, np.zeros((2, 4)))
    text = to_svg(odd, np.zeros(n_samples, np.float32))
    ElementTree.fromstring(text)
    assert "no cell makes a difference alone" in text
    assert "nan" not in text.replace("nance", "")
    png = decode(to_png(odd, np.zeros(n_samples, np.float32)))
    assert (png == 255).all()


# ---- PNG ----


def test_png_shows_cells_in_their_place(explanation):
    pixels = decode(to_png(explanation, np.zeros(32_000, np.float32)))[..., ::-1]  # RGB; silence is white
    assert pixels.shape == (320, 750, 3)
    height, width = pixels.shape[:2]
    middles = pixels[[height // 4, 3 * height // 4]][
        :, [width * time // 8 for time in (1, 3, 5, 7)]
    ]  # upper band first
    np.testing.assert_allclose(middles[1, 1], np.array(RED) * 0.8 + 255 * 0.2, atol=1)
    np.testing.assert_allclose(middles[0, 3], np.array(BLUE) * 0.4 + 255 * 0.6, atol=1)
    assert (np.delete(middles.reshape(8, 3), [3, 5], axis=0) == 255).all()


def test_png_says_what_it_shows(explanation, make_tone):
    png = to_png(explanation, make_tone(440.0, 2.0))
    assert b"tEXtTitle\0fear, 75.0%" in png
    assert b"0.50-1.00 s, 0-1,768 Hz: 75.0% -> 45.0%" in png


# ---- the page ----


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data.strip())


def test_the_page_plays_the_clip_and_ranks_the_cells(explanation, make_speech):
    waveform = make_speech(1, 2.0)
    page = Page(to_html(explanation, waveform, name="clip.wav"))
    source = next(attrs["src"] for tag, attrs in page.tags if tag == "audio")
    sound = load_waveform(base64.b64decode(source.removeprefix("data:audio/wav;base64,")))
    np.testing.assert_allclose(sound, waveform, atol=1 / 32_768)
    buttons = [attrs["data-start"] for tag, attrs in page.tags if tag == "button"]
    assert buttons == ["0.500"]  # the only cell that lowers it
    assert {"0.50-1.00 s", "0-1,768 Hz", "45.0%", "clip.wav"} <= set(page.words)
    links = [attrs.get(key) for _, attrs in page.tags for key in ("src", "href") if key in attrs]
    assert all(link.startswith("data:") for link in links)


# ---- words ----


def test_strongest_and_their_words(explanation):
    assert strongest(explanation, 5) == [(0, 1)]
    assert describe(explanation, 0, 1) == "0.50-1.00 s, 0-1,768 Hz: 75.0% -> 45.0%"

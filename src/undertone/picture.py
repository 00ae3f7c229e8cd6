"""An explanation as a picture: its importances over the clip's spectrogram, as SVG, as a page, or as plain pixels.

Frequency is drawn on the mel scale, on which all bands are equally wide. Red cells are those whose silencing lowers the
emotion's probability, blue ones raise it; the stronger the colour, the further. The scale reaches to the strongest
cell, but at least to one percentage point, so that noise does not look like a finding. All of it is made with numpy and
the standard library: every file stands for itself and asks nothing of the network.
"""

import base64
import io
import struct
import wave
import zlib
from collections.abc import Iterator
from html import escape

import numpy as np

from undertone.audio import SAMPLE_RATE
from undertone.explanation import HOP_LENGTH, N_FFT, Explanation, hz_to_mel, mel_to_hz, spectrum

RANGE_DB = 60.0  # of the spectrogram, below its loudest point
MIN_SCALE = 0.01  # the importance at full colour is at least this
STRONGEST_ALPHA = 0.8
RED, BLUE = (203, 24, 29), (33, 102, 172)
N_ROWS, MAX_COLUMNS = 160, 1_440  # of the spectrogram's pixels
TICKS_HZ = (0, 250, 500, 1_000, 2_000, 4_000, 8_000)
TICKS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
MAX_TICKS = 10
N_STRONGEST = 6  # rows of the page's table

# The SVG in its own units: the spectrogram, its sums beside and below it, words around them.
WIDTH, HEIGHT = 960, 520
LEFT, TOP, PLOT_WIDTH, PLOT_HEIGHT = 62, 74, 740, 300
SUM_SIZE, GAP = 70, 14
BELOW = TOP + PLOT_HEIGHT + GAP  # top of the sums over bands


def to_svg(explanation: Explanation, waveform: np.ndarray, *, name: str = "") -> str:
    """Return a picture with axes and with the sums over bands and over time; pointing at a cell tells its numbers.

    Parameters
    ----------
    waveform
        (n_samples,) float32 at 16 kHz: the clip that was explained.
    name
        What the heading calls the clip.
    """
    title = f"{explanation.emotion.capitalize()}, {explanation.prob:.0%}: what made the difference"
    image = base64.b64encode(_png(_grey(spectrogram(waveform)))).decode("ascii")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        ' aria-labelledby="title description" font-family="system-ui, sans-serif" font-size="13" fill="#222">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="description">{escape(f"{name} {_most(explanation)}".strip())}</desc>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(LEFT, 30, title, style='font-size="19" font-weight="600"'),
        _text(LEFT, 54, name, style='fill="#666"'),
        f'<image x="{LEFT}" y="{TOP}" width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}" preserveAspectRatio="none"'
        f' href="data:image/png;base64,{image}"/>',
        *_cells(explanation),
        *_time_axis(explanation),
        *_band_axis(),
        *_sums(explanation),
        *_legend(_most(explanation)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def to_html(explanation: Explanation, waveform: np.ndarray, *, name: str = "") -> str:
    """Return a page: the picture, the clip to hear (a click on a cell begins there), the strongest cells as a table."""
    sound = base64.b64encode(_wav(waveform)).decode("ascii")
    rows = "\n".join(
        f'<tr><td><button data-start="{explanation.times_s[time]:.3f}">{_seconds(explanation, time)}</button>'
        f"<td>{_hertz(explanation, band)}<td>{_points(explanation, band, time)}"
        for band, time in strongest(explanation, N_STRONGEST)
    )
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(f"{explanation.emotion.capitalize()}: {name}")}</title>
<style>
body {{ max-width: 60rem; margin: 1.5rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; color: #222;
  background: #fff }}
h1 {{ font-size: 1rem; position: absolute; clip-path: inset(50%) }}
svg {{ width: 100%; height: auto }}
[data-start] {{ cursor: pointer; font: inherit }}
audio {{ width: 100% }}
td, th {{ text-align: left; padding: 0.2rem 1.5rem 0.2rem 0; border-bottom: 1px solid #ddd }}
</style>
<main>
<h1>{escape(name)}</h1>
{to_svg(explanation, waveform, name=name)}
<audio controls src="data:audio/wav;base64,{sound}"></audio>
<h2>What mattered most</h2>
<table>
<tr><th scope="col">time<th scope="col">frequencies<th scope="col">{escape(explanation.emotion)} without it
{rows}
</table>
<p>Each cell was silenced alone, and the model asked again. This says what the model reacts to, not what a person
feels; and two cells that say the same can both look unimportant, because either is enough.
</main>
<script>
for (const cell of document.querySelectorAll("[data-start]"))
  cell.addEventListener("click", () => {{
    const sound = document.querySelector("audio");
    sound.currentTime = cell.dataset.start;
    sound.play();
  }});
</script>
</html>
"""


def to_png(explanation: Explanation, waveform: np.ndarray) -> bytes:
    """Return the spectrogram with its coloured cells as PNG, without axes or words; its metadata say what it shows.

    Time goes from the left edge to the right, 0 to 8,000 Hz from the lower edge to the upper one on the mel scale.
    """
    grey = np.repeat(_grey(spectrogram(waveform)), 2, axis=0)
    n_rows, n_columns = grey.shape
    grey = np.repeat(grey, -(-n_rows * 2 // n_columns), axis=1)  # short clips: at least twice as wide as high
    n_columns = grey.shape[1]
    n_bands, n_times = explanation.importance.shape
    strength = _strength(explanation)[::-1]  # the highest band on top, as the pixels
    strength = strength[np.arange(n_rows) * n_bands // n_rows][:, np.arange(n_columns) * n_times // n_columns]
    alpha = STRONGEST_ALPHA * np.abs(strength)[..., np.newaxis]
    colour = np.where(strength[..., np.newaxis] > 0, RED, BLUE)
    pixels = np.rint(grey[..., np.newaxis] * (1 - alpha) + colour * alpha).astype(np.uint8)
    texts = {
        "Title": f"{explanation.emotion}, {explanation.prob:.1%}: what made the difference",
        "Description": f"0 to {explanation.times_s[-1]:.2f} s to the right, 0 to 8,000 Hz upwards on the mel scale; "
        f"red: less probable without it, blue: more. {_most(explanation)}",
    }
    return _png(pixels, texts)


def strongest(explanation: Explanation, n: int) -> list[tuple[int, int]]:
    """Return up to ``n`` cells (band, time) whose silencing lowers the probability most, the strongest first."""
    ranked = np.argsort(-explanation.importance, axis=None, kind="stable")[:n]
    cells = (np.unravel_index(index, explanation.importance.shape) for index in ranked)
    return [(int(band), int(time)) for band, time in cells if explanation.importance[band, time] > 0]


def describe(explanation: Explanation, band: int, time: int) -> str:
    """Say in words what silencing a cell does: ``0.5-0.7 s, 0-171 Hz: 85.0% -> 71.2%``."""
    points = _points(explanation, band, time)
    return f"{_seconds(explanation, time)}, {_hertz(explanation, band)}: {explanation.prob:.1%} -> {points}"


def _most(explanation: Explanation) -> str:
    cells = strongest(explanation, 1)
    return f"most: {describe(explanation, *cells[0])}" if cells else "no cell makes a difference alone"


def spectrogram(waveform: np.ndarray) -> np.ndarray:
    """Return levels in dB, (N_ROWS, n_columns): the highest frequency on top, on the mel scale, 0 to 8,000 Hz."""
    first = N_FFT // 2 // HOP_LENGTH  # the first frame whose middle lies in the clip
    n_frames = max(1, -(-len(waveform) // HOP_LENGTH))
    power = np.abs(spectrum(waveform)[first : first + n_frames]) ** 2  # (n_frames, n_bins)
    step = -(-n_frames // MAX_COLUMNS)
    power = np.maximum.reduceat(power, np.arange(0, n_frames, step), axis=0)
    rows_hz = mel_to_hz((np.arange(N_ROWS) + 0.5) / N_ROWS * hz_to_mel(SAMPLE_RATE / 2))
    bins_hz = np.arange(power.shape[1]) * SAMPLE_RATE / N_FFT
    levels_db = 10 * np.log10(np.maximum(power, 1e-10))
    return np.stack([np.interp(rows_hz, bins_hz, column)[::-1] for column in levels_db], axis=1)


def _grey(levels_db: np.ndarray) -> np.ndarray:
    """Return pixels: white where it is quiet, black where it is loudest."""
    loudness = np.clip(1 + (levels_db - levels_db.max()) / RANGE_DB, 0, 1)
    if levels_db.max() == levels_db.min():  # silence
        loudness = np.zeros_like(loudness)
    return np.rint(255 * (1 - loudness)).astype(np.uint8)


def _strength(explanation: Explanation) -> np.ndarray:
    """Return importances as parts of the strongest one, [-1, 1]."""
    return explanation.importance / max(MIN_SCALE, np.abs(explanation.importance).max())


# ---- parts of the SVG ----


def _cells(explanation: Explanation) -> Iterator[str]:
    n_bands, n_times = explanation.importance.shape
    width, height = PLOT_WIDTH / n_times, PLOT_HEIGHT / n_bands
    for (band, time), strength in np.ndenumerate(_strength(explanation)):
        x, y = LEFT + time * width, TOP + PLOT_HEIGHT - (band + 1) * height
        alpha = STRONGEST_ALPHA * abs(strength)
        yield (
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}" fill="{_colour(strength)}"'
            f' fill-opacity="{alpha:.3f}" data-start="{explanation.times_s[time]:.3f}">'
            f"<title>{escape(describe(explanation, band, time))}</title></rect>"
        )


def _time_axis(explanation: Explanation) -> Iterator[str]:
    duration_s = float(explanation.times_s[-1])
    step_s = next((step for step in TICKS_S if duration_s / step <= MAX_TICKS), TICKS_S[-1])
    y = BELOW + SUM_SIZE
    for index in range(int(duration_s / step_s) + 1):
        x = LEFT + PLOT_WIDTH * index * step_s / duration_s
        yield f'<path d="M{x:.1f} {y}v5" stroke="#888"/>'
        yield _text(x, y + 19, f"{index * step_s:g}", style='text-anchor="middle"')
    yield _text(LEFT + PLOT_WIDTH + 12, y + 19, "s")


def _band_axis() -> Iterator[str]:
    for tick_hz in TICKS_HZ:
        y = TOP + PLOT_HEIGHT * (1 - hz_to_mel(tick_hz) / hz_to_mel(SAMPLE_RATE / 2))
        yield f'<path d="M{LEFT} {y:.1f}h-5" stroke="#888"/>'
        yield _text(LEFT - 9, y + 4.5, f"{tick_hz:,}", style='text-anchor="end"')
    yield _text(LEFT - 9, TOP - 12, "Hz", style='text-anchor="end"')


def _sums(explanation: Explanation) -> Iterator[str]:
    """Bars: sums over bands below the picture, sums over time at its right."""
    largest = max(MIN_SCALE, float(np.abs(explanation.by_time).max()), float(np.abs(explanation.by_band).max()))
    size = PLOT_WIDTH / len(explanation.by_time)
    for index, value in enumerate(explanation.by_time):
        length = SUM_SIZE * abs(value) / largest
        yield (
            f'<rect x="{LEFT + index * size + 1:.2f}" y="{BELOW + SUM_SIZE - length:.2f}" width="{size - 2:.2f}"'
            f' height="{length:.2f}" fill="{_colour(value)}"/>'
        )
    size, x = PLOT_HEIGHT / len(explanation.by_band), LEFT + PLOT_WIDTH + GAP
    for index, value in enumerate(explanation.by_band):
        yield (
            f'<rect x="{x}" y="{TOP + PLOT_HEIGHT - (index + 1) * size + 1:.2f}"'
            f' width="{SUM_SIZE * abs(value) / largest:.2f}" height="{size - 2:.2f}" fill="{_colour(value)}"/>'
        )
    yield f'<path d="M{LEFT} {BELOW + SUM_SIZE}h{PLOT_WIDTH}M{x} {TOP}v{PLOT_HEIGHT}" stroke="#888" fill="none"/>'
    yield _text(x, TOP - 12, "sums", style='fill="#666"')


def _legend(text: str) -> Iterator[str]:
    y = HEIGHT - 16
    yield f'<rect x="{LEFT}" y="{y - 11}" width="13" height="13" fill="{_colour(1)}"/>'
    yield _text(LEFT + 20, y, "less probable without it")
    yield f'<rect x="{LEFT + 190}" y="{y - 11}" width="13" height="13" fill="{_colour(-1)}"/>'
    yield _text(LEFT + 210, y, "more probable without it")
    yield _text(LEFT + PLOT_WIDTH, y, text, style='text-anchor="end"')


def _text(x: float, y: float, text: str, *, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _colour(value: float) -> str:
    red, green, blue = RED if value > 0 else BLUE
    return f"#{red:02x}{green:02x}{blue:02x}"


def _seconds(explanation: Explanation, time: int) -> str:
    return f"{explanation.times_s[time]:.2f}-{explanation.times_s[time + 1]:.2f} s"


def _hertz(explanation: Explanation, band: int) -> str:
    return f"{explanation.bands_hz[band]:,.0f}-{explanation.bands_hz[band + 1]:,.0f} Hz"


def _points(explanation: Explanation, band: int, time: int) -> str:
    return f"{explanation.prob - explanation.importance[band, time]:.1%}"


# ---- files inside the file ----


def _png(pixels: np.ndarray, texts: dict[str, str] | None = None) -> bytes:
    """Encode 8-bit pixels, (height, width) grey or (height, width, 3) RGB, as PNG (W3C, third edition)."""
    height, width = pixels.shape[:2]
    colour_type = 0 if pixels.ndim == 2 else 2
    rows = np.zeros((height, 1 + pixels[0].size), np.uint8)  # each begins with its filter: 0, none
    rows[:, 1:] = pixels.reshape(height, -1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0))]
    chunks += [(b"tEXt", f"{key}\0{text}".encode("latin-1")) for key, text in (texts or {}).items()]
    chunks += [(b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
    encoded = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(encoded)


def _wav(waveform: np.ndarray) -> bytes:
    """Encode a waveform as 16-bit WAV."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(SAMPLE_RATE)
        sound.writeframes(np.clip(np.rint(waveform * 32_768), -32_768, 32_767).astype("<i2").tobytes())
    return file.getvalue()

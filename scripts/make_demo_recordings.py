"""Make the recordings in demo/: a speech synthesiser speaks in five manners, since no corpus clip may be passed on.

espeak-ng (Debian: ``apt install espeak-ng``) has no emotions; what is set here is what they are heard by: pitch, how
much it moves, speed, loudness and pauses. The names say the manner, not what a model will answer: it was taught by
people.

    python scripts/make_demo_recordings.py [FOLDER]
"""

import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 16_000  # Hz, of the recordings; espeak-ng gives 22,050
FADE_S = 0.02


@dataclass(frozen=True)
class Manner:
    """How one recording is spoken."""

    name: str
    text: str
    voice: str  # espeak-ng voice and variant
    pitch: int  # 0-99
    words_per_minute: int
    pitch_range: int  # percent of the voice's own movement
    peak_db: float  # of full scale
    tilt: float  # > 0 dulls the voice as speaking softly does, < 0 sharpens it as pressing does
    suffix: str = ".flac"


MANNERS = (
    Manner("flat", "The kids are talking by the door.", "en-us+m3", 40, 155, 40, -9.0, 0.0),
    Manner("loud-fast", "I told you! Do not do that again!", "en-us+m7", 72, 215, 160, -0.5, -0.6, ".wav"),
    Manner("slow-quiet", "It is over ... and nobody came.", "en-gb+f2", 22, 105, 45, -26.0, 0.85, ".opus"),
    Manner("bright", "Look at that! We have won, all of us!", "en-gb+f4", 82, 185, 230, -3.0, -0.2),
    Manner(
        "hushed-rushed",
        "Wait. Wait! Did you hear that, behind the door?",
        "en-us+f3",
        88,
        235,
        110,
        -18.0,
        0.5,
    ),
)


def speak(manner: Manner) -> np.ndarray:
    """Return the sentence as espeak-ng speaks it, (n_samples,) float64 at SAMPLE_RATE."""
    text = f'<speak><prosody range="{manner.pitch_range}%">{manner.text}</prosody></speak>'
    command = ["espeak-ng", "--stdout", "-m", "-v", manner.voice]
    command += ["-p", str(manner.pitch), "-s", str(manner.words_per_minute), text]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    waveform, sample_rate = soundfile.read(io.BytesIO(wav))
    return soxr.resample(waveform, sample_rate, SAMPLE_RATE)


def colour(waveform: np.ndarray, manner: Manner) -> np.ndarray:
    """Tilt the spectrum with a first-order filter, set the peak and fade both ends."""
    if manner.tilt > 0:
        tilted = np.zeros_like(waveform)
        state = 0.0
        for index, sample in enumerate(waveform):
            state = manner.tilt * state + (1 - manner.tilt) * sample
            tilted[index] = state
    else:
        tilted = np.append(waveform[0], waveform[1:] + manner.tilt * waveform[:-1])
    tilted *= 10 ** (manner.peak_db / 20) / np.abs(tilted).max()
    n_fade = round(FADE_S * SAMPLE_RATE)
    ramp = np.linspace(0, 1, n_fade)
    tilted[:n_fade] *= ramp
    tilted[-n_fade:] *= ramp[::-1]
    return tilted


def main() -> None:
    """Write the recordings and print what they are."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "demo")
    folder.mkdir(exist_ok=True)
    for manner in MANNERS:
        waveform = colour(speak(manner), manner)
        path = folder / f"{manner.name}{manner.suffix}"
        subtype = "OPUS" if manner.suffix == ".opus" else "PCM_16"
        kind = "OGG" if manner.suffix == ".opus" else None
        soundfile.write(path, waveform, SAMPLE_RATE, subtype=subtype, format=kind)
        print(f"{path.name:<20} {len(waveform) / SAMPLE_RATE:.1f} s  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

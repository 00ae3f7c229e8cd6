"""SAVEE: 4 British men aged 27-31, TIMIT sentences, 7 emotions, 480 clips at 44.1 kHz.

Haq & Jackson (2010), Multimodal Emotion Recognition. Free for research after registering.
Source: http://kahlan.eps.surrey.ac.uk/savee/ (no direct download).

A file is ``AudioData/DC/a01.wav``: speaker folder, emotion code, number. Sadness (``sa``) and surprise
(``su``) have two letters, the others one. Mirrors flatten the folders into the name, ``DC_a01.wav``;
``utterance_id`` always has this form. 15 clips per emotion and speaker, neutral 30.

Sentences. Per emotion 3 are common to all emotions, 2 specific to it and 10 generic; the 3 common and the
12 specific ones were also spoken as neutral. The file names do not say which is which, but the clips do:
aligning them pairwise (dynamic time warping of MFCCs, mean of the four speakers) puts every pair below at a
distance of 3.2-3.9 and every other sentence at 4.1 or more. 01-03 are common in every emotion, 04-05
specific, and ``n16``-``n30`` repeat them in the order of ``NEUTRAL_REPEATS``. A sentence has the id of its
first file (``savee/a04``), the common ones ``savee/common-1`` to ``savee/common-3``; the text is the same
for all speakers.
"""

import re
from itertools import product
from pathlib import Path

from undertone.lab.corpora.utterance import Corpus, Utterance, find_clips, parse_clips

EMOTIONS = {
    "a": "anger",
    "d": "disgust",
    "f": "fear",
    "h": "happiness",
    "n": "neutral",
    "sa": "sadness",
    "su": "surprise",
}
SPEAKERS = ("DC", "JE", "JK", "KL")
CODES = tuple(f"{emotion}{number:02d}" for emotion in EMOTIONS for number in range(1, 31 if emotion == "n" else 16))
N_COMMON = 3  # numbers 01-03 of every emotion
# The neutral clips n16, n17, ... n30 repeat the common and the emotion-specific sentences, in this order.
_REPEATED = "n01 n02 n03 a04 a05 d04 d05 f04 f05 su04 su05 sa04 sa05 h04 h05"
NEUTRAL_REPEATS = {f"n{number}": code for number, code in enumerate(_REPEATED.split(), start=16)}
NAME = re.compile(
    rf"(?:({'|'.join(SPEAKERS)})_)?(sa|su|[adfhn])(0[1-9]|[12]\d|30)",
    re.IGNORECASE | re.ASCII,
)


def parse(folder: Path) -> list[Utterance]:
    """Read all clips below ``folder``, sorted by name."""
    return parse_clips(folder, find_clips(folder), _parse_name, example="DC/a01.wav or DC_a01.wav")


def _parse_name(path: Path) -> Utterance | None:
    match = NAME.fullmatch(path.stem)
    if match is None:
        return None
    speaker = (match[1] or path.parent.name).upper()
    code = match[2].lower() + match[3]
    if speaker not in SPEAKERS or code not in CODES:
        return None
    return Utterance(
        path=path,
        corpus="savee",
        speaker_id=f"savee/{speaker}",
        sex="male",
        emotion=EMOTIONS[match[2].lower()],
        sentence_id=_sentence_id(code),
        name=f"{speaker}_{code}",
    )


def _sentence_id(code: str) -> str:
    spoken = NEUTRAL_REPEATS.get(code, code)
    number = int(spoken[-2:])
    return f"savee/common-{number}" if number <= N_COMMON else f"savee/{spoken}"


def official_names() -> frozenset[str]:
    """Return the 480 clip names in their flat form, ``DC_a01``."""
    return frozenset(f"{speaker}_{code}" for speaker, code in product(SPEAKERS, CODES))


CORPUS = Corpus(
    name="savee",
    folder="SAVEE",
    title="Surrey Audio-Visual Expressed Emotion (audio)",
    licence="free for research, after registering",
    licence_url="http://kahlan.eps.surrey.ac.uk/savee/Register.html",
    non_commercial=True,
    citation=(
        "Haq, S., & Jackson, P. J. B. (2010). Multimodal Emotion Recognition. In W. Wang (ed.), "
        "Machine Audition: "
        "Principles, Algorithms and Systems, IGI Global, 398-423. "
        "https://doi.org/10.4018/978-1-61520-919-4.ch017"
    ),
    source_url="http://kahlan.eps.surrey.ac.uk/savee/",
    n_speakers=4,
    emotion_counts={emotion: 120 if emotion == "neutral" else 60 for emotion in EMOTIONS.values()},
    speaker_counts={f"savee/{speaker}": 120 for speaker in SPEAKERS},
    parse=parse,
    official_names=official_names,
    speaker_at=(0, 2),
)

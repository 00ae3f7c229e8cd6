"""SAVEE: 4 British men aged 27-31, TIMIT sentences, 7 emotions, 480 clips at 44.1 kHz.

Haq & Jackson (2010), Multimodal Emotion Recognition. Free for research after registering.
Source: http://kahlan.eps.surrey.ac.uk/savee/ (no direct download).

A file is ``AudioData/DC/a01.wav``: speaker folder, emotion code, number. Sadness (``sa``) and surprise (``su``) have
two letters, the others one. Mirrors flatten the folders into the name, ``DC_a01.wav``; ``utterance_id`` always has this
form. 15 clips per emotion and speaker, neutral 30.

Sentences. Numbers 01-03 of every emotion are the three sentences common to all, so they share the ids
``savee/common-1`` to ``savee/common-3``. The others are named by their file (``savee/a04``), the same text for all four
speakers. 12 of the neutral ones repeat the two sentences specific to each of the other emotions; the names do not say
which is which, so that link is not in the ids.
"""

import re
from itertools import chain, product
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
N_COMMON = 3  # numbers 01-03 of every emotion
NAME = re.compile(
    rf"(?:({'|'.join(SPEAKERS)})_)?(sa|su|[adfhn])(0[1-9]|[12]\d|30)",
    re.IGNORECASE,
)


def parse(folder: Path) -> list[Utterance]:
    """Read all clips below ``folder``, sorted by name."""
    return parse_clips(folder, find_clips(folder), _parse_name, example="DC/a01.wav or DC_a01.wav")


def _parse_name(path: Path) -> Utterance | None:
    match = NAME.fullmatch(path.stem)
    speaker = (match and match[1] or path.parent.name).upper()
    if match is None or speaker not in SPEAKERS:
        return None
    emotion, number = match[2].lower(), match[3]
    common = int(number) <= N_COMMON
    return Utterance(
        path=path,
        corpus="savee",
        speaker_id=f"savee/{speaker}",
        sex="male",
        emotion=EMOTIONS[emotion],
        sentence_id=f"savee/common-{int(number)}" if common else f"savee/{emotion}{number}",
        name=f"{speaker}_{emotion}{number}",
    )


def official_names() -> frozenset[str]:
    """Return the 480 clip names in their flat form, ``DC_a01``."""
    codes = chain(product(EMOTIONS, range(1, 16)), product(("n",), range(16, 31)))
    return frozenset(f"{speaker}_{code}{number:02d}" for code, number in codes for speaker in SPEAKERS)


CORPUS = Corpus(
    name="savee",
    folder="SAVEE",
    title="Surrey Audio-Visual Expressed Emotion (audio)",
    licence="free for research, after registering",
    licence_url="http://kahlan.eps.surrey.ac.uk/savee/Register.html",
    non_commercial=True,
    citation=(
        "Haq, S., & Jackson, P. J. B. (2010). Multimodal Emotion Recognition. In W. Wang (ed.), Machine Audition: "
        "Principles, Algorithms and Systems, IGI Global, 398-423. https://doi.org/10.4018/978-1-61520-919-4.ch017"
    ),
    source_url="http://kahlan.eps.surrey.ac.uk/savee/",
    n_speakers=4,
    emotion_counts={emotion: 120 if emotion == "neutral" else 60 for emotion in EMOTIONS.values()},
    speaker_counts={f"savee/{speaker}": 120 for speaker in SPEAKERS},
    parse=parse,
    official_names=official_names,
)

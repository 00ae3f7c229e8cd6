"""EMO-DB: 10 German actors, 10 sentences, 7 emotions, 535 clips at 16 kHz.

Burkhardt et al. (2005), https://doi.org/10.21437/Interspeech.2005-446. Freely available.
Source: http://emodb.bilderbar.info.

A file name has four fields without separators, ``03a01Fa.wav``: speaker, sentence, the emotion's German
initial, version. Versions are the takes kept from a recording session: the letters count them, with gaps.
The clips are the takes that at least 80 % of listeners recognised, so names follow no grid and only counts
can be checked.
"""

import re
from pathlib import Path

from undertone.lab.corpora.utterance import Corpus, Utterance, find_clips, parse_clips

EMOTIONS = {
    "W": "anger",  # Wut
    "L": "boredom",  # Langeweile
    "E": "disgust",  # Ekel
    "A": "fear",  # Angst
    "F": "happiness",  # Freude
    "T": "sadness",  # Trauer
    "N": "neutral",
}
SPEAKERS = {  # sex, age in years
    "03": ("male", 31),
    "08": ("female", 34),
    "09": ("female", 21),
    "10": ("male", 32),
    "11": ("male", 26),
    "12": ("male", 30),
    "13": ("female", 32),
    "14": ("female", 35),
    "15": ("male", 25),
    "16": ("female", 31),
}
SENTENCES = ("a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10")
NAME = re.compile(rf"({'|'.join(SPEAKERS)})({'|'.join(SENTENCES)})([WLEAFTN])([a-z])", re.IGNORECASE | re.ASCII)


def parse(folder: Path) -> list[Utterance]:
    """Read all clips below ``folder``, sorted by name."""
    return parse_clips(folder, find_clips(folder), _parse_name, example="wav/03a01Fa.wav")


def _parse_name(path: Path) -> Utterance | None:
    match = NAME.fullmatch(path.stem)
    if match is None:
        return None
    speaker, sentence, emotion, version = match[1], match[2].lower(), match[3].upper(), match[4].lower()
    sex, age = SPEAKERS[speaker]
    return Utterance(
        path=path,
        corpus="emo-db",
        speaker_id=f"emo-db/{speaker}",
        sex=sex,
        emotion=EMOTIONS[emotion],
        sentence_id=f"emo-db/{sentence}",
        repetition=ord(version) - ord("a") + 1,
        age=age,
        name=f"{speaker}{sentence}{emotion}{version}",
    )


CORPUS = Corpus(
    name="emo-db",
    folder="EMO-DB",
    title="Berlin Database of Emotional Speech",
    licence="freely available (CC0 1.0 in its authors' audb edition)",
    licence_url="http://emodb.bilderbar.info",
    non_commercial=False,
    citation=(
        "Burkhardt, F., Paeschke, A., Rolfes, M., Sendlmeier, W., & Weiss, B. (2005). A database "
        "of German emotional "
        "speech. Interspeech 2005, 1517-1520. https://doi.org/10.21437/Interspeech.2005-446"
    ),
    source_url="http://emodb.bilderbar.info",
    n_speakers=10,
    speaker_at=(0, 2),
    emotion_counts={
        "anger": 127,
        "disgust": 46,
        "fear": 69,
        "happiness": 71,
        "neutral": 79,
        "sadness": 62,
        "boredom": 81,
    },
    speaker_counts={
        f"emo-db/{speaker}": count
        for speaker, count in zip(SPEAKERS, (49, 58, 43, 38, 55, 35, 61, 69, 56, 71), strict=True)
    },
    parse=parse,
)

"""TESS: 2 Canadian actresses, 200 words in one carrier sentence, 7 emotions, 2,800 clips at 24,414 Hz.

Pichora-Fuller & Dupuis (2020), https://doi.org/10.5683/SP2/E8H2MF. CC BY-NC-ND 4.0.
Source: Borealis Dataverse; also https://tspace.library.utoronto.ca/handle/1807/24487.

A file name has three fields, ``OAF_back_angry.wav``: speaker (OAF, 64 years old; YAF, 26), the word in "Say
the word ...", emotion (``ps`` = pleasant surprise). Folder names differ in case and spelling from copy to
copy, so the label is read off the file name alone. One official file is misnamed ``OA_bite_neutral``; its
``utterance_id`` says OAF like the others. A common mirror nests the whole set a second time in itself:
every clip is read once. Two official files are AIFF-C under a ``.wav`` name (``YAF_neat_fear``,
``YAF_germ_angry``); they are read by their content.
"""

import re
from itertools import product
from pathlib import Path

from undertone.lab.corpora.utterance import Corpus, Utterance, find_clips, parse_clips

EMOTIONS = {
    "angry": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happiness",
    "neutral": "neutral",
    "ps": "surprise",
    "sad": "sadness",
}
AGES = {"OAF": 64, "YAF": 26}  # years
_WORDS = """
    back bar base bath bean beg bite boat bone book bought burn cab calm came cause chain chair chalk chat
    check cheek chief choice cool dab date dead death deep dime dip ditch dodge dog doll door fail fall far
    fat fit five food gap gas gaze germ get gin goal good goose gun half hall hash hate have haze hire hit
    hole home hurl hush jail jar join judge jug juice keen keep keg kick kill king kite knock late laud lean
    learn lease lid life limb live loaf long lore lose lot love luck make match merge mess met mill mob mode
    mood moon mop mouse nag name near neat nice note numb pad page pain pass pearl peg perch phone pick pike
    pole pool puff rag raid rain raise rat reach read red ring ripe road room rose rot rough rush said sail
    search seize sell shack shall shawl sheep shirt should shout size soap soup sour south sub such sure
    take talk tape team tell thin third thought thumb time tip tire ton tool tough turn vine voice void vote
    wag walk wash week wheat when which whip white wife wire witch yearn yes young youth
"""
WORDS = tuple(_WORDS.split())  # 200
NAME = re.compile(rf"(OAF?|YAF)_({'|'.join(WORDS)})_({'|'.join(EMOTIONS)})", re.IGNORECASE | re.ASCII)


def parse(folder: Path) -> list[Utterance]:
    """Read all clips below ``folder``, sorted by name."""
    return parse_clips(folder, find_clips(folder), _parse_name, example="OAF_angry/OAF_back_angry.wav")


def _parse_name(path: Path) -> Utterance | None:
    match = NAME.fullmatch(path.stem)
    if match is None:
        return None
    speaker = "YAF" if match[1].upper() == "YAF" else "OAF"
    word, emotion = match[2].lower(), match[3].lower()
    return Utterance(
        path=path,
        corpus="tess",
        speaker_id=f"tess/{speaker}",
        sex="female",
        emotion=EMOTIONS[emotion],
        sentence_id=f"tess/{word}",
        age=AGES[speaker],
        name=f"{speaker}_{word}_{emotion}",
    )


def official_names() -> frozenset[str]:
    """Return the 2,800 clip names: every combination of speaker, word and emotion."""
    return frozenset("_".join(fields) for fields in product(AGES, WORDS, EMOTIONS))


CORPUS = Corpus(
    name="tess",
    folder="TESS",
    title="Toronto emotional speech set",
    licence="CC BY-NC-ND 4.0",
    licence_url="https://creativecommons.org/licenses/by-nc-nd/4.0/",
    non_commercial=True,
    citation=(
        "Pichora-Fuller, M. K., & Dupuis, K. (2020). Toronto emotional speech set (TESS). Borealis. "
        "https://doi.org/10.5683/SP2/E8H2MF"
    ),
    source_url="https://doi.org/10.5683/SP2/E8H2MF",
    n_speakers=2,
    emotion_counts=dict.fromkeys(EMOTIONS.values(), 400),
    speaker_counts={f"tess/{speaker}": 1_400 for speaker in AGES},
    parse=parse,
    official_names=official_names,
    speaker_at=(0, 3),
)

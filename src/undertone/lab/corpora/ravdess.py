"""RAVDESS: 24 North American actors, 2 sentences, 8 emotions, 1,440 speech clips at 48 kHz.

Livingstone & Russo (2018), https://doi.org/10.1371/journal.pone.0196391. CC BY-NC-SA 4.0.
Source: https://zenodo.org/records/1188976, ``Audio_Speech_Actors_01-24.zip``.

A file name has seven two-digit fields, ``03-01-06-01-02-01-12.wav``: modality (03 = audio only), vocal
channel (01 = speech), emotion, intensity, statement, repetition, actor (even = female). Song and video
clips are left out. Neutral has one intensity, so 96 clips; the other seven emotions have 192 each. Many
mirrors ship a second copy of every clip in folders by emotion: where there are ``Actor_NN`` folders, only
these are read.
"""

import re
from itertools import product
from pathlib import Path

from undertone.lab.corpora.utterance import Corpus, Utterance, find_clips, parse_clips

EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happiness",
    "04": "sadness",
    "05": "anger",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
}
INTENSITIES = {"01": "normal", "02": "strong"}
ACTORS = tuple(f"{actor:02d}" for actor in range(1, 25))
SPEECH_AUDIO_ONLY = ("03", "01")  # modality, vocal channel
ACTOR_FOLDER = re.compile(r"actor_\d+", re.IGNORECASE)
NAME = re.compile(r"(\d\d)-(\d\d)-(0[1-8])-(0[12])-(0[12])-(0[12])-(0[1-9]|1\d|2[0-4])", re.ASCII)


def parse(folder: Path) -> list[Utterance]:
    """Read all speech clips below ``folder``, sorted by name."""
    clips = find_clips(folder)
    by_actor = [path for path in clips if ACTOR_FOLDER.fullmatch(path.parent.name)]
    return parse_clips(folder, by_actor or clips, _parse_name, example="Actor_01/03-01-01-01-01-01-01.wav")


def _parse_name(path: Path) -> Utterance | None:
    match = NAME.fullmatch(path.stem)
    if match is None or match.group(1, 2) != SPEECH_AUDIO_ONLY:
        return None
    emotion, intensity, statement, repetition, actor = match.groups()[2:]
    return Utterance(
        path=path,
        corpus="ravdess",
        speaker_id=f"ravdess/{actor}",
        sex="female" if int(actor) % 2 == 0 else "male",
        emotion=EMOTIONS[emotion],
        sentence_id=f"ravdess/{statement}",
        intensity=INTENSITIES[intensity],
        repetition=int(repetition),
    )


def official_names() -> frozenset[str]:
    """Return the 1,440 clip names: every combination of the fields, except a strong neutral."""
    fields = product(EMOTIONS, INTENSITIES, ("01", "02"), ("01", "02"), ACTORS)
    return frozenset("03-01-" + "-".join(field) for field in fields if field[:2] != ("01", "02"))


CORPUS = Corpus(
    name="ravdess",
    folder="RAVDESS",
    title="Ryerson Audio-Visual Database of Emotional Speech and Song (speech, audio only)",
    licence="CC BY-NC-SA 4.0",
    licence_url="https://creativecommons.org/licenses/by-nc-sa/4.0/",
    non_commercial=True,
    citation=(
        "Livingstone, S. R., & Russo, F. A. (2018). The Ryerson Audio-Visual Database of "
        "Emotional Speech and Song "
        "(RAVDESS). PLoS ONE 13(5): e0196391. https://doi.org/10.1371/journal.pone.0196391"
    ),
    source_url="https://zenodo.org/records/1188976",
    n_speakers=24,
    emotion_counts={emotion: 96 if emotion == "neutral" else 192 for emotion in EMOTIONS.values()},
    speaker_counts={f"ravdess/{actor}": 60 for actor in ACTORS},
    parse=parse,
    official_names=official_names,
    speaker_at=(18, 20),
)

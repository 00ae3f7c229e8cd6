"""CREMA-D: 91 North American actors aged 20-74, 12 sentences, 6 emotions, 7,442 clips at 16 kHz.

Cao et al. (2014), https://doi.org/10.1109/TAFFC.2014.2336244. Open Database License 1.0, contents DbCL 1.0.
Source: https://github.com/CheyneyComputerScience/CREMA-D (git LFS).

A file name has four fields, ``1001_DFA_ANG_XX.wav``: actor, sentence, emotion, intensity (LO, MD, HI; XX =
unspecified: only sentence IEO was spoken at three intensities). 20 combinations were never published. Sex
and age of the actors are ``VideoDemographics.csv`` of the same source. ``summaryTable.csv``, where it lies
in the folder, says which emotion the listeners heard from the voice alone; a tie such as ``A:H`` names more
than one.

Known defects: ``1076_MTI_SAD_XX`` is silent, and three pairs of clips with different labels are the same
recording (see ``duplicates.py``).
"""

import csv
import re
from collections import Counter
from functools import partial
from itertools import product
from pathlib import Path

from undertone.lab.corpora.utterance import Corpus, CorpusError, Utterance, find_clips, parse_clips

EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happiness",
    "NEU": "neutral",
    "SAD": "sadness",
}
VOTES = {code[0]: emotion for code, emotion in EMOTIONS.items()}
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": None, "X": None}

# Sex and age of actors 1001, 1002, ... 1091
_DEMOGRAPHICS = """
    M51 F21 F21 F42 M29 F58 F38 F46 F24 F27 M32 F23 F22 M24 M32 M61 M42 F25 M29 F61 F30 M22 M22 F59 F48
    M33 M44 F57 F33 F42 M31 M30 M31 M74 M48 M49 F45 M21 M51 M42 M42 M37 F25 M40 M22 F22 F22 M38 F25 M62
    M56 F33 F35 F36 F57 F52 M25 F36 M21 F28 F51 M56 F33 M53 M38 M25 M66 M34 M27 M25 M41 F33 F24 F31 F40
    F25 M20 F21 F21 M21 M30 F20 M45 F46 M34 M33 M62 M23 F24 M50 F29
"""
ACTORS = {
    str(1001 + index): ("female" if entry[0] == "F" else "male", int(entry[1:]))
    for index, entry in enumerate(_DEMOGRAPHICS.split())
}
# Sentences that an actor did not record, and two single clips that are not there either.
_MISSING_SENTENCES = {("1008", "WSI"), ("1009", "MTI"), ("1019", "ITH")}
_MISSING_CLIPS = {"1002_TIE_NEU_XX", "1076_ITS_NEU_XX"}

NAME = re.compile(
    rf"({'|'.join(ACTORS)})_({'|'.join(SENTENCES)})_({'|'.join(EMOTIONS)})_(LO|MD|HI|XX?)",
    re.IGNORECASE | re.ASCII,
)


def parse(folder: Path) -> list[Utterance]:
    """Read all clips below ``folder``, sorted by name; of a clip in AudioWAV and AudioMP3 the WAV is taken.

    Raises
    ------
    CorpusError
        If there are no clips, or ``summaryTable.csv`` lies in the folder and cannot be read.
    """
    votes = _load_votes(folder)
    parse_name = partial(_parse_name, votes=votes)
    return parse_clips(folder, find_clips(folder), parse_name, example="AudioWAV/1001_DFA_ANG_XX.wav")


def _parse_name(path: Path, votes: dict[str, tuple[tuple[str, ...], float]]) -> Utterance | None:
    match = NAME.fullmatch(path.stem)
    if match is None:
        return None
    actor, sentence, emotion, intensity = match[0].upper().split("_")
    name = f"{actor}_{sentence}_{emotion}_{'XX' if intensity == 'X' else intensity}"
    sex, age = ACTORS[actor]
    voted_emotion, voted_level = votes.get(name, ((), None))
    return Utterance(
        path=path,
        corpus="crema-d",
        speaker_id=f"crema-d/{actor}",
        sex=sex,
        emotion=EMOTIONS[emotion],
        sentence_id=f"crema-d/{sentence}",
        intensity=INTENSITIES[intensity],
        age=age,
        voted_emotion=voted_emotion,
        voted_level=voted_level,
        name=name,
    )


def _load_votes(folder: Path) -> dict[str, tuple[tuple[str, ...], float]]:
    """Clip name -> the emotions with most votes from the voice alone, and their mean level (0-100)."""
    tables = sorted(folder.rglob("summaryTable.csv"), key=lambda path: (len(path.parts), path))
    if not tables:
        return {}
    try:
        with tables[0].open(newline="", encoding="utf-8") as file:
            return {row["FileName"]: _parse_vote(row) for row in csv.DictReader(file)}
    except (KeyError, ValueError, AttributeError) as error:
        raise CorpusError(
            f"{tables[0]} is not CREMA-D's summaryTable.csv ({error!r}); download it again, or remove it to go without"
        ) from error


def _parse_vote(row: dict[str, str]) -> tuple[tuple[str, ...], float]:
    levels = [float(level) for level in row["VoiceLevel"].split(":")]
    return tuple(VOTES[code] for code in row["VoiceVote"].split(":")), sum(levels) / len(levels)


def official_names() -> frozenset[str]:
    """Return the names of the 7,442 published clips."""
    return frozenset(
        f"{actor}_{sentence}_{emotion}_{intensity}"
        for actor, sentence, emotion in product(ACTORS, SENTENCES, EMOTIONS)
        for intensity in (("LO", "MD", "HI") if sentence == "IEO" and emotion != "NEU" else ("XX",))
        if (actor, sentence) not in _MISSING_SENTENCES
    ) - frozenset(_MISSING_CLIPS)


CORPUS = Corpus(
    name="crema-d",
    folder="CREMA-D",
    title="Crowd-sourced Emotional Multimodal Actors Dataset (audio)",
    licence="ODbL 1.0, contents DbCL 1.0",
    licence_url="https://opendatacommons.org/licenses/odbl/1-0/",
    non_commercial=False,
    citation=(
        "Cao, H., Cooper, D. G., Keutmann, M. K., Gur, R. C., Nenkova, A., & Verma, R. (2014). "
        "CREMA-D: Crowd-sourced "
        "Emotional Multimodal Actors Dataset. IEEE Transactions on Affective Computing 5(4), 377-390. "
        "https://doi.org/10.1109/TAFFC.2014.2336244"
    ),
    source_url="https://github.com/CheyneyComputerScience/CREMA-D",
    n_speakers=91,
    emotion_counts={emotion: 1_087 if emotion == "neutral" else 1_271 for emotion in EMOTIONS.values()},
    speaker_counts=dict(sorted(Counter(f"crema-d/{name[:4]}" for name in official_names()).items())),
    parse=parse,
    official_names=official_names,
    speaker_at=(0, 4),
)

"""One clip of a corpus, and what the five corpus files share: finding clips and describing a corpus.

A corpus is a folder of audio files whose names say who speaks what in which emotion. Any audio suffix is
read, because people convert their copies. A clip that is there more than once (two formats, or a mirror's
second folder) is read once: lossless before lossy, then the shorter path, then the first by name.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from undertone.audio import AUDIO_SUFFIXES
from undertone.emotions import EMOTIONS

LOSSY_SUFFIXES = (".opus", ".ogg", ".oga", ".mp3")  # in order of preference
CLIP_SUFFIXES = (*(suffix for suffix in AUDIO_SUFFIXES if suffix not in LOSSY_SUFFIXES), *LOSSY_SUFFIXES)


class CorpusError(ValueError):
    """A corpus that is missing or cannot be read; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One clip of acted speech with everything its corpus says about it.

    ``speaker_id`` and ``sentence_id`` start with the corpus name (``"ravdess/07"``, ``"crema-d/IEO"``): they
    stay unique when corpora are pooled. What a corpus does not say is None (or empty).
    """

    path: Path
    corpus: str
    speaker_id: str
    sex: str  # "female" | "male"
    emotion: str  # one of undertone.emotions.EMOTIONS
    sentence_id: str
    intensity: str | None = None
    repetition: int | None = None
    age: int | None = None  # years, at the time of recording
    voted_emotion: tuple[str, ...] = ()  # what CREMA-D's listeners heard; more than one after a tie
    voted_level: float | None = None  # the listeners' mean rating of that emotion's strength, 0-100
    source_id: str | None = None  # the utterance_id of the clip of which this one is an augmented copy
    name: str | None = None  # the clip's official name, where the file's own stem may differ from it

    @property
    def utterance_id(self) -> str:
        """Corpus and official clip name, ``"tess/OAF_back_angry"``: the same in every layout on disk."""
        return f"{self.corpus}/{self.name or self.path.stem}"


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is published about a corpus, and how to read a folder of it."""

    name: str  # "crema-d", as in Utterance.corpus
    folder: str  # "CREMA-D", its folder below the data root
    title: str
    licence: str
    licence_url: str
    non_commercial: bool
    citation: str
    source_url: str
    n_speakers: int
    emotion_counts: Mapping[str, int]  # official clips per emotion
    speaker_counts: Mapping[str, int]  # official clips per speaker_id
    parse: Callable[[Path], list[Utterance]]
    official_names: Callable[[], frozenset[str]] | None = None  # None: the names follow no rule
    speaker_at: tuple[int, int] = (0, 0)  # where a clip's official name says who speaks: start, end

    @property
    def n_utterances(self) -> int:
        """Official number of clips."""
        return sum(self.emotion_counts.values())

    @property
    def emotions(self) -> tuple[str, ...]:
        """The corpus's emotions in the order of ``EMOTIONS``."""
        return tuple(emotion for emotion in EMOTIONS if emotion in self.emotion_counts)

    def speaker_of(self, name: str) -> str:
        """Return the speaker_id in an official clip name."""
        return f"{self.name}/{name[slice(*self.speaker_at)]}"


def find_clips(folder: Path) -> list[Path]:
    """All audio files below ``folder``, sorted, without hidden files and the ``__MACOSX`` litter of zips.

    Links to folders are followed, since data often lives on another disk.

    Raises
    ------
    CorpusError
        If ``folder`` is no folder.
    """
    if not folder.is_dir():
        raise CorpusError(f"{folder} is not a folder; give the folder that holds the unpacked corpus")
    clips, seen = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link back up would walk for ever
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        clips += [Path(parent, name) for name in names if _is_clip(name)]
    return sorted(clips)


def _is_clip(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in CLIP_SUFFIXES


def parse_clips(
    folder: Path,
    paths: Iterable[Path],
    parse_name: Callable[[Path], Utterance | None],
    *,
    example: str,
) -> list[Utterance]:
    """Every clip that ``parse_name`` understands, once, sorted by ``utterance_id``.

    Raises
    ------
    CorpusError
        If no name is understood; ``example`` says what a name should look like.
    """
    copies: dict[str, list[Utterance]] = {}
    for path in paths:
        if utterance := parse_name(path):
            copies.setdefault(utterance.utterance_id, []).append(utterance)
    if not copies:
        raise CorpusError(
            f"no clip below {folder} has a name like {example}; is this the unpacked corpus, in its official naming?"
        )
    return [min(copies[utterance_id], key=_copy_rank) for utterance_id in sorted(copies)]


def _copy_rank(utterance: Utterance) -> tuple[int, int, str]:
    path = utterance.path
    return CLIP_SUFFIXES.index(path.suffix.lower()), len(path.parts), str(path)


def same_name(first: str, second: str) -> bool:
    """Whether two corpus or folder names agree apart from case and punctuation (``CREMAD``, ``crema-d``)."""
    return _letters(first) == _letters(second)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def count_by(utterances: Iterable[Utterance], field: str) -> dict[str, int]:
    """How many utterances have each value of ``field``."""
    return dict(Counter(getattr(utterance, field) for utterance in utterances))

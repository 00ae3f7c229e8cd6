"""Is the corpus on disk the one that was published? Clips, speakers and emotions against official counts."""

from collections.abc import Sequence
from dataclasses import dataclass

from undertone.lab.corpora.utterance import Corpus, Utterance, count_by

N_NAMES_SHOWN = 6  # missing clips or speakers named in the text before it is cut short


@dataclass(frozen=True)
class CorpusCounts:
    """One corpus: what is here, what is official, and what is missing.

    Attributes
    ----------
    emotions, speakers
        Emotion (or speaker_id) -> (clips here, clips official).
    missing_names
        Official names of the missing clips of speakers who are here; none for EMO-DB (no rule for its names).
    """

    corpus: str
    emotions: dict[str, tuple[int, int]]
    speakers: dict[str, tuple[int, int]]
    missing_names: tuple[str, ...]

    @property
    def n_utterances(self) -> int:
        """Clips here."""
        return sum(here for here, _ in self.emotions.values())

    @property
    def n_official(self) -> int:
        """Clips published."""
        return sum(official for _, official in self.emotions.values())

    @property
    def missing_speakers(self) -> tuple[str, ...]:
        """Speakers of whom there is no clip at all."""
        return tuple(speaker for speaker, (here, _) in self.speakers.items() if here == 0)

    @property
    def is_complete(self) -> bool:
        """Whether every emotion and every speaker has as many clips as were published."""
        counts = [*self.emotions.values(), *self.speakers.values()]
        return all(here == official for here, official in counts) and not self.missing_names

    def summary(self) -> str:
        """Return the counts as a few lines for people."""
        n_speakers = len(self.speakers)
        lines = [
            f"{self.corpus}: {self.n_utterances:,} of {self.n_official:,} clips, "
            f"{n_speakers - len(self.missing_speakers)} of {n_speakers} speakers"
            + (", complete" if self.is_complete else ""),
            "  " + ", ".join(f"{emotion} {_of(counts)}" for emotion, counts in self.emotions.items()),
        ]
        if self.missing_speakers:
            lines.append(f"  no clip of {_shorten([name.split('/')[1] for name in self.missing_speakers])}")
        partial = [
            f"{speaker.split('/')[1]} {_of(counts)}"
            for speaker, counts in self.speakers.items()
            if 0 < counts[0] != counts[1]
        ]
        if partial:
            lines.append(f"  speakers with other than the official clips: {_shorten(partial)}")
        if self.missing_names:
            lines.append(f"  missing clips: {_shorten(self.missing_names)}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Return everything as plain lists, dicts and numbers."""
        return {
            "corpus": self.corpus,
            "n_utterances": self.n_utterances,
            "n_official": self.n_official,
            "is_complete": self.is_complete,
            "emotions": _pairs(self.emotions),
            "speakers": _pairs(self.speakers),
            "missing_speakers": list(self.missing_speakers),
            "missing_names": list(self.missing_names),
        }


@dataclass(frozen=True)
class Counts:
    """The counts of several corpora."""

    corpora: tuple[CorpusCounts, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every corpus is complete."""
        return all(counts.is_complete for counts in self.corpora)

    def summary(self) -> str:
        """Return the counts of each corpus as a few lines for people."""
        return "\n".join(counts.summary() for counts in self.corpora)

    def to_json(self) -> dict[str, object]:
        """Return everything as plain lists, dicts and numbers."""
        return {"is_complete": self.is_complete, "corpora": [counts.to_json() for counts in self.corpora]}


def count_corpus(corpus: Corpus, utterances: Sequence[Utterance]) -> CorpusCounts:
    """Count the utterances of one corpus against what was published; those of other corpora are ignored."""
    own = [utterance for utterance in utterances if utterance.corpus == corpus.name and not utterance.source_id]
    emotions, speakers = count_by(own, "emotion"), count_by(own, "speaker_id")
    official = corpus.official_names() if corpus.official_names else frozenset()
    here = {utterance.utterance_id for utterance in own}
    absent = [name for name in sorted(official) if f"{corpus.name}/{name}" not in here]
    return CorpusCounts(
        corpus=corpus.name,
        emotions={emotion: (emotions.get(emotion, 0), corpus.emotion_counts[emotion]) for emotion in corpus.emotions},
        speakers={speaker: (speakers.get(speaker, 0), n) for speaker, n in corpus.speaker_counts.items()},
        missing_names=tuple(name for name in absent if corpus.speaker_of(name) in speakers),
    )


def _of(counts: tuple[int, int]) -> str:
    here, official = counts
    return f"{here:,}" if here == official else f"{here:,}/{official:,}"


def _shorten(names: Sequence[str]) -> str:
    shown = ", ".join(names[:N_NAMES_SHOWN])
    more = len(names) - N_NAMES_SHOWN
    return f"{shown} and {more:,} more" if more > 0 else shown


def _pairs(counts: dict[str, tuple[int, int]]) -> dict[str, dict[str, int]]:
    return {key: {"here": here, "official": official} for key, (here, official) in counts.items()}

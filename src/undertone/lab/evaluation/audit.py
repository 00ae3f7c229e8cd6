"""The audit: what crosses between train, dev and test, in counts and in words.

``audit_split`` looks at indices only, not at how they were made, so it would catch a mistake in ``splits`` as
well as in anybody else's table. Four things are compared, for each two parts: speakers, audio (by hash),
recordings (a clip and its augmented copies), and sentences. The first three are leaks. Shared sentences are a
note: acted corpora have a few sentences which everybody says, so they always cross.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from undertone.lab.evaluation.protocols import ProtocolError, get_protocol
from undertone.lab.evaluation.splits import Split, UtteranceLike, group_recordings

PAIRS = (
    ("train", "test"),
    ("dev", "test"),
    ("train", "dev"),
)  # looked up in the first for rows of the second
N_EXAMPLES = 4
_TEXTS = {
    "speaker": "of the {second} rows are by a speaker who is in {first} too",
    "audio": "of the {second} rows have exactly the audio of a row in {first}",
    "copy": "of the {second} rows have a copy of the same clip in {first}",
    "sentence": "of the {second} rows say a sentence that {first} has too",
}


class LeakError(ProtocolError):
    """A split that should keep its parts apart and does not; the message is the audit."""


@dataclass(frozen=True)
class Finding:
    """One thing that two parts share.

    ``n_rows`` of the ``n_total`` rows of part ``second`` meet it again in part ``first``; ``shared`` names
    the speakers, sentences or clips concerned, sorted.
    """

    kind: str  # "speaker" | "audio" | "copy" | "sentence"
    first: str
    second: str
    n_rows: int
    n_total: int
    shared: tuple[str, ...]

    @property
    def leaks(self) -> bool:
        """Whether this inflates a score (all kinds but ``sentence``)."""
        return self.kind != "sentence"

    def __str__(self) -> str:
        """One line: the share and the counts."""
        share = f"{100 * self.n_rows / self.n_total:.1f} %"
        text = _TEXTS[self.kind].format(first=self.first, second=self.second)
        return f"{share} {text} ({self.n_rows:,} of {self.n_total:,})"

    @property
    def examples(self) -> str:
        """The first few names, and how many more there are."""
        more = len(self.shared) - N_EXAMPLES
        return ", ".join(self.shared[:N_EXAMPLES]) + (f" and {more:,} more" if more > 0 else "")


@dataclass(frozen=True)
class Audit:
    """What an audit found. ``counts`` has rows and speakers of each part.

    ``expected_leak`` is the protocol's own description of what crosses (empty where nothing may).
    """

    name: str
    counts: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]
    audio_compared: bool
    speaker_disjoint: bool
    expected_leak: str = ""
    notes: tuple[str, ...] = ()

    @property
    def leaks(self) -> bool:
        """Whether a speaker, equal audio, or a copy of a clip is in two parts."""
        return any(finding.leaks for finding in self.findings)

    @property
    def banner(self) -> str:
        """The warning a report of this split carries on top; empty when nothing leaks."""
        if not self.leaks:
            return ""
        worst = [f for f in self.findings if f.leaks and (f.first, f.second) == ("train", "test")]
        sentences = [f"This split leaks ({self.name}).", self.expected_leak, *(f"{f}." for f in worst)]
        return " ".join(sentence for sentence in sentences if sentence)

    def check(self) -> None:
        """Stop a split that leaks although it is to keep speakers apart. Call this before any training.

        Raises
        ------
        LeakError
            With the whole audit as its message.
        """
        if self.leaks and self.speaker_disjoint:
            raise LeakError(f"{self.summary()}\nNothing was trained. Mend the split, or name a protocol that leaks.")

    def summary(self) -> str:
        """Say what was compared and what was found, for people."""
        lines = [f"Audit of {self.name}: {'IT LEAKS' if self.leaks else 'nothing leaks'}"]
        if self.leaks and self.expected_leak:
            lines.append(f"  {self.expected_leak}")
        lines += [
            f"  {part:5} {_count(n['rows'], 'row')}, {_count(n['speakers'], 'speaker')}"
            for part, n in self.counts.items()
        ]
        kinds = {finding.kind for finding in self.findings}
        lines += [f"  ok    {text}" for kind, text in self._promises() if kind not in kinds]
        for finding in self.findings:
            lines += [f"  {'LEAK' if finding.leaks else 'note'}  {finding}", f"        {finding.examples}"]
        return "\n".join(lines + [f"  note  {note}" for note in self._all_notes()])

    def to_json(self) -> dict[str, object]:
        """Everything, as plain dicts, lists, strings and numbers."""
        return {
            "name": self.name,
            "leaks": self.leaks,
            "banner": self.banner,
            "speaker_disjoint": self.speaker_disjoint,
            "audio_compared": self.audio_compared,
            "counts": self.counts,
            "findings": [
                {
                    "kind": finding.kind,
                    "leaks": finding.leaks,
                    "first": finding.first,
                    "second": finding.second,
                    "n_rows": finding.n_rows,
                    "n_total": finding.n_total,
                    "shared": list(finding.shared),
                    "text": str(finding),
                }
                for finding in self.findings
            ],
            "notes": list(self._all_notes()),
        }

    def _promises(self) -> list[tuple[str, str]]:
        audio = [("audio", "no audio is in two parts (compared by hash)")] if self.audio_compared else []
        return [
            ("speaker", "no speaker is in two parts"),
            *audio,
            ("copy", "no copy of a clip is in another part"),
        ]

    def _all_notes(self) -> tuple[str, ...]:
        missing = () if self.audio_compared else ("audio was not compared: no hashes were given",)
        return (*self.notes, *missing)


def audit_split(split: Split, utterances: Sequence[UtteranceLike], digests: Sequence[str] | None = None) -> Audit:
    """Audit one fold.

    Parameters
    ----------
    split
        Indices into ``utterances``.
    utterances, digests
        (n,) each: the clips, and the hash of each clip's decoded audio (None: audio is not compared, and the
        audit says so).
    """
    protocol = get_protocol(split.protocol)
    return audit_parts(
        split.parts,
        name=f"{split.protocol}, fold {split.fold}",
        clips=[utterance.utterance_id for utterance in utterances],
        speakers=[utterance.speaker_id for utterance in utterances],
        sentences=[utterance.sentence_id for utterance in utterances],
        recordings=group_recordings(utterances, digests),
        digests=digests,
        speaker_disjoint=protocol.speaker_disjoint,
        expected_leak=protocol.leaks,
        notes=split.notes,
    )


def audit_parts(
    parts: Mapping[str, np.ndarray],
    *,
    name: str,
    clips: Sequence[str],
    speakers: Sequence[str],
    sentences: Sequence[str] | None = None,
    recordings: np.ndarray | None = None,
    digests: Sequence[str] | None = None,
    speaker_disjoint: bool = True,
    expected_leak: str = "",
    notes: tuple[str, ...] = (),
) -> Audit:
    """Audit any table of clips, also one that was made elsewhere.

    Parameters
    ----------
    parts
        Row numbers of ``"train"``, ``"dev"`` and ``"test"``; a part may be absent or empty.
    name
        What to call the split in the text.
    clips, speakers, sentences
        (n,) name, speaker and sentence of each row.
    recordings
        (n,) equal numbers for rows of one recording (``group_recordings``); default: equal names.
    digests
        (n,) hash of each row's audio.
    speaker_disjoint
        Whether the split claims that nothing crosses; ``Audit.check`` then insists on it.

    Raises
    ------
    ValueError
        If the columns differ in length or a part points outside them.
    """
    columns = {"clips": clips, "speakers": speakers, "sentences": sentences}
    columns |= {"recordings": recordings, "digests": digests}
    _validate(parts, {column: len(values) for column, values in columns.items() if values is not None})
    said, names = np.asarray(speakers, dtype=object), np.asarray(clips, dtype=object)
    audio = None if digests is None else np.asarray(digests, dtype=object)
    one_recording = names if recordings is None else recordings
    findings = []
    for first, second in PAIRS:
        a, b = parts.get(first, _NO_ROWS), parts.get(second, _NO_ROWS)
        if not (len(a) and len(b)):
            continue
        by_speaker, by_recording = _meets(said, a, b), _meets(one_recording, a, b)
        by_audio = np.zeros(len(b), dtype=bool) if audio is None else _meets(audio, a, b)
        by_sentence = np.zeros(len(b), dtype=bool)
        if sentences is not None and (first, second) == ("train", "test"):
            by_sentence = _meets(np.asarray(sentences, dtype=object), a, b)
        compared = [("copy", by_recording & ~by_audio, names), ("audio", by_audio, names)]
        compared += [("speaker", by_speaker, said), ("sentence", by_sentence, sentences)]
        findings += [
            Finding(kind, first, second, int(hit.sum()), len(b), _names(values, b[hit]))
            for kind, hit, values in compared
            if hit.any()
        ]
    counts = {part: {"rows": len(rows), "speakers": len(set(said[rows]))} for part, rows in parts.items()}
    findings.sort(key=lambda finding: list(_TEXTS).index(finding.kind))
    return Audit(name, counts, tuple(findings), digests is not None, speaker_disjoint, expected_leak, notes)


_NO_ROWS = np.zeros(0, dtype=np.int64)


def _count(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def _meets(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    known = set(values[first].tolist())
    return np.array([value in known for value in values[second].tolist()], dtype=bool)


def _names(values: Sequence[str] | np.ndarray | None, rows: np.ndarray) -> tuple[str, ...]:
    return () if values is None else tuple(sorted({str(values[i]) for i in rows}))


def _validate(parts: Mapping[str, np.ndarray], lengths: dict[str, int]) -> None:
    if len(set(lengths.values())) != 1:
        raise ValueError(f"the columns differ in length: {lengths}")
    if unknown := sorted(set(parts) - {"train", "dev", "test"}):
        raise ValueError(f"parts are called train, dev and test, not {', '.join(unknown)}")
    n_rows = lengths["clips"]
    for part, rows in parts.items():
        if len(rows) and (min(rows) < 0 or max(rows) >= n_rows):
            raise ValueError(f"{part} points outside the {n_rows} rows of the table")

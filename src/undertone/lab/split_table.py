"""Somebody else's split, as a table: what of its test rows is in train, too.

For any project: a CSV with a row per clip (or per augmented copy) that says which part the row is in. Its audit is the
one that our own splits go through before every training.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from undertone.lab.corpora import Utterance
from undertone.lab.data import decode_utterances
from undertone.lab.evaluation import Audit, audit_parts, group_recordings

PARTS = {name: name for name in ("train", "dev", "test")} | dict.fromkeys(("val", "valid", "validation"), "dev")
REQUIRED, OPTIONAL = ("path", "speaker", "split"), ("source", "sentence")


class SplitTableError(ValueError):
    """A table that says no split; the message says what to change."""


def audit_table(table: Path, *, cache_dir: Path | None = None, audio: bool = False) -> Audit:
    """Audit a split that a CSV describes.

    Parameters
    ----------
    table
        CSV with the columns ``path``, ``speaker`` and ``split`` (train, dev or test; val, valid and validation are
        dev), and, where there are, ``source`` (path of the clip that this one is an altered copy of) and ``sentence``.
        Further columns, ``label`` for one, are not looked at.
    audio
        Also decode the clips (paths are taken from the table's folder) and compare their sound: one recording under two
        names, or two labels, is found then.

    Raises
    ------
    SplitTableError
        If a column or a value is missing, a part has another name, or, with ``audio``, a clip cannot be read.
    """
    rows = _read(table)
    clips = [_utterance(row, table.parent) for row in rows]
    digests = None
    if audio:
        waveforms = decode_utterances(clips, cache_dir)
        if waveforms.errors:
            line, error = min(waveforms.errors.items())
            raise SplitTableError(f"{table}, line {line + 2}: {error}")
        digests = waveforms.digests
    parts = {
        name: np.array([row for row, values in enumerate(rows) if PARTS[values["split"]] == name], dtype=np.int64)
        for name in ("train", "dev", "test")
    }
    return audit_parts(
        {name: part for name, part in parts.items() if part.size},
        name=str(table),
        clips=[row["path"] for row in rows],
        speakers=[clip.speaker_id for clip in clips],
        sentences=[clip.sentence_id for clip in clips] if "sentence" in rows[0] else None,
        recordings=group_recordings(clips, digests),
        digests=digests,
        notes=() if "source" in rows[0] else ("copies were told by their paths alone: there is no column 'source'",),
    )


def _read(table: Path) -> list[dict[str, str]]:
    """Rows of the table, with the columns that count, all of them filled but ``source``."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        try:
            reader = csv.DictReader(file)
            columns = [name for name in reader.fieldnames or () if name]
            rows = [
                {name: (row[name] or "").strip() for name in columns if name in REQUIRED + OPTIONAL} for row in reader
            ]
        except (csv.Error, UnicodeDecodeError) as error:
            raise SplitTableError(f"{table} is not a CSV file in UTF-8: {error}") from error
    if missing := [repr(name) for name in REQUIRED if name not in columns]:
        raise SplitTableError(
            f"{table} has no column {' and no column '.join(missing)}; it has: {', '.join(columns) or 'none'}"
        )
    if not rows:
        raise SplitTableError(f"{table} has no rows")
    for line, row in enumerate(rows, 2):
        row["split"] = row["split"].lower()
        if row["split"] not in PARTS:
            raise SplitTableError(f"{table}, line {line}: split is {row['split']!r}; there are: {', '.join(PARTS)}")
        if empty := [name for name in REQUIRED if not row[name]]:
            raise SplitTableError(f"{table}, line {line}: {empty[0]} is empty")
    return rows


def _utterance(row: Mapping[str, str], folder: Path) -> Utterance:
    source = row.get("source", "")
    return Utterance(
        path=folder / row["path"],
        corpus="table",
        speaker_id=row["speaker"],
        sex="",
        emotion="",
        sentence_id=row.get("sentence", ""),
        source_id=f"table/{source}" if source and source != row["path"] else None,
        name=row["path"],
    )

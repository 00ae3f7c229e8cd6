"""Utterances -> decoded waveforms -> batches with lengths.

Every clip is decoded once (through :mod:`undertone.audio`, the code that serving uses) and kept as int16 in one
memory-mapped file per corpus; a changed, added or removed clip makes a new file. Batches hold clips of similar length.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from undertone.audio import SAMPLE_RATE, AudioError, load_waveform
from undertone.lab.corpora import Utterance

FULL_SCALE = 32_768  # int16, as in audio.py: 16-bit files come back as they are
CACHE_FORMAT = 2  # raise it when decoding changes, so that old files are not read


def default_cache_dir() -> Path:
    """Where decoded clips are kept: ``UNDERTONE_CACHE``, else ``undertone`` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("UNDERTONE_CACHE") or Path(base) / "undertone")


@dataclass(frozen=True)
class Waveforms:
    """Decoded clips, mono int16 at 16 kHz, in the order of the utterances they were made from.

    Attributes
    ----------
    digests
        sha256 of each clip's samples: equal digests are the same audio. Empty where a clip could not be decoded.
    errors
        Index of each clip that could not be decoded (it has no samples) -> what is wrong with it.
    """

    clips: tuple[np.ndarray, ...]
    digests: tuple[str, ...]
    errors: dict[int, str]

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def n_samples(self) -> np.ndarray:
        """Samples per clip, (n,) int64."""
        return np.array([len(clip) for clip in self.clips], dtype=np.int64)

    @property
    def is_silent(self) -> np.ndarray:
        """Whether a clip was decoded and holds nothing but zeros, (n,) bool."""
        return np.array([len(clip) > 0 and not clip.any() for clip in self.clips], dtype=bool)

    def select(self, indices: Sequence[int] | np.ndarray) -> "Waveforms":
        """Return the clips at ``indices``, in that order."""
        chosen = [int(index) for index in indices]
        return Waveforms(
            tuple(self.clips[index] for index in chosen),
            tuple(self.digests[index] for index in chosen),
            {new: self.errors[old] for new, old in enumerate(chosen) if old in self.errors},
        )


def decode_utterances(
    utterances: Sequence[Utterance],
    cache_dir: Path | None = None,
    *,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Waveforms:
    """Decode clips, or read them back from the cache.

    Parameters
    ----------
    cache_dir
        Folder of the decoded clips, made if missing; None means :func:`default_cache_dir`.
    progress
        Called with (clips done, clips in all) while decoding.
    """
    cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir)
    cache_dir.mkdir(parents=True, exist_ok=True)
    n_threads = n_threads or os.cpu_count() or 1
    clips: list[np.ndarray] = [np.zeros(0, np.int16)] * len(utterances)
    digests, errors = [""] * len(utterances), {}
    done = 0
    for corpus in sorted({utterance.corpus for utterance in utterances}):
        rows = [row for row, utterance in enumerate(utterances) if utterance.corpus == corpus]
        paths = [utterances[row].path for row in rows]
        stored = cache_dir / f"{corpus}-{_fingerprint(paths)}"
        if not _beside(stored, ".json").exists():
            report = None if progress is None else lambda n, before=done: progress(before + n, len(utterances))
            _decode_to(stored, paths, n_threads, report)
        samples = np.load(_beside(stored, ".npy"), mmap_mode="r")
        index = json.loads(_beside(stored, ".json").read_text())
        for row, clip in zip(rows, index["clips"], strict=True):
            clips[row] = samples[clip["start"] : clip["end"]]
            digests[row] = clip["sha256"]
            if clip["error"]:
                errors[row] = clip["error"]
        done += len(rows)
        if progress is not None:
            progress(done, len(utterances))
    return Waveforms(tuple(clips), tuple(digests), errors)


def copy_utterances(
    utterances: Sequence[Utterance],
    waveforms: Waveforms,
    name: str,
    alter: Callable[[np.ndarray, np.random.Generator, list[np.ndarray]], np.ndarray],
    key: str,
    cache_dir: Path | None = None,
    *,
    n_threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Utterance], Waveforms]:
    """Altered copies of clips, each with its source's id, made once and kept like decoded clips.

    Parameters
    ----------
    name
        Word that follows the clip's name and ``#`` in the copy's ``utterance_id``.
    alter
        Function (waveform, rng, others) -> waveform. Its generator follows from the clip's audio alone: a copy is the
        same whatever else is in the list, and copies that begin with the same noise share it. ``others`` are clips
        of the same speaker.
    key
        What ``alter`` does, in words that change when it does.
    """
    cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir)
    cache_dir.mkdir(parents=True, exist_ok=True)
    content = [CACHE_FORMAT, name, key, list(waveforms.digests), [utterance.speaker_id for utterance in utterances]]
    stored = cache_dir / f"copies-{name}-{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}"
    speakers: dict[str, list[int]] = {}
    for row, utterance in enumerate(utterances):
        speakers.setdefault(utterance.speaker_id, []).append(row)

    def make(row: int) -> tuple[np.ndarray, str]:
        seed, own = int(waveforms.digests[row], 16), speakers[utterances[row].speaker_id]
        picked = np.random.default_rng([seed, 1]).integers(0, len(own), 8)  # apart: it draws by how many there are
        others = [to_float(waveforms.clips[own[k]]) for k in picked if own[k] != row]
        return to_int16(alter(to_float(waveforms.clips[row]), np.random.default_rng(seed), others)), ""

    if not _beside(stored, ".json").exists():
        report = None if progress is None else lambda done: progress(done, len(utterances))
        labels = [f"{utterance.utterance_id}#{name}" for utterance in utterances]
        _store(stored, labels, make, n_threads or os.cpu_count() or 1, report)
    samples = np.load(_beside(stored, ".npy"), mmap_mode="r")
    index = json.loads(_beside(stored, ".json").read_text())["clips"]
    copies = [
        replace(clip, name=f"{clip.name or clip.path.stem}#{name}", source_id=clip.utterance_id) for clip in utterances
    ]
    clips = tuple(samples[entry["start"] : entry["end"]] for entry, _ in zip(index, utterances, strict=True))
    return copies, Waveforms(clips, tuple(entry["sha256"] for entry in index), {})


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Full-scale int16 of a waveform in [-1, 1]; louder is clipped, never wrapped."""
    return np.clip(np.round(waveform * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def to_float(clip: np.ndarray) -> np.ndarray:
    """Waveform in [-1, 1], float32, of an int16 clip."""
    return clip.astype(np.float32) / FULL_SCALE


def _fingerprint(paths: Sequence[Path]) -> str:
    """Hash of the files' names, sizes and times: it changes whenever one does, or may be read that might not."""
    state = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:  # decoding will say so, for this clip alone
            state.append((str(path.absolute()), str(error), 0))
        else:
            allowed = os.access(path, os.R_OK)
            state.append((str(path.absolute()), status.st_size if allowed else "not readable", status.st_mtime_ns))
    return hashlib.sha256(json.dumps([CACHE_FORMAT, SAMPLE_RATE, state]).encode()).hexdigest()[:16]


def _decode_to(stored: Path, paths: Sequence[Path], n_threads: int, progress: Callable[[int], None] | None) -> None:
    def decode(row: int) -> tuple[np.ndarray, str]:
        try:
            return to_int16(load_waveform(paths[row])), ""
        except AudioError as error:
            return np.zeros(0, np.int16), str(error)

    _store(stored, [str(path) for path in paths], decode, n_threads, progress)


def _store(
    stored: Path,
    labels: Sequence[str],
    make: Callable[[int], tuple[np.ndarray, str]],
    n_threads: int,
    progress: Callable[[int], None] | None,
) -> None:
    """Write the clips that ``make`` gives for each row, one behind the other, and an index of them."""
    index, start = [], 0
    temporary = stored.with_name(f".{stored.name}.{os.getpid()}")
    bare = temporary.with_name(f"{temporary.name}.raw")
    try:
        with ThreadPoolExecutor(n_threads) as pool, bare.open("wb") as raw:
            for n_done, (label, (clip, error)) in enumerate(
                zip(labels, pool.map(make, range(len(labels))), strict=True), 1
            ):
                end = start + len(clip)
                digest = "" if error else hashlib.sha256(clip.tobytes()).hexdigest()
                index.append({"path": label, "start": start, "end": end, "sha256": digest, "error": error})
                raw.write(clip.tobytes())
                start = end
                if progress is not None:
                    progress(n_done)
    except BaseException:  # what is half decoded may be as large as a corpus
        bare.unlink(missing_ok=True)
        raise
    _add_header(bare, start, temporary)
    temporary.replace(_beside(stored, ".npy"))
    temporary.write_text(json.dumps({"clips": index}))
    temporary.replace(_beside(stored, ".json"))  # last: its presence says that both are complete


def _beside(stored: Path, suffix: str) -> Path:
    """Name of a file of ``stored``, whose own name may have dots in it."""
    return stored.with_name(stored.name + suffix)


def _add_header(raw: Path, n_samples: int, out: Path) -> None:
    """Make a ``.npy`` file of raw int16 samples, in blocks: together they may be larger than memory."""
    with raw.open("rb") as source, out.open("wb") as file:
        header = {"descr": "<i2", "fortran_order": False, "shape": (n_samples,)}
        np.lib.format.write_array_header_1_0(file, header)
        shutil.copyfileobj(source, file, 1 << 24)
    raw.unlink()


def bucket_batches(
    n_samples: np.ndarray, batch_size: int, *, rng: np.random.Generator | None = None, n_buckets: int = 8
) -> Iterator[np.ndarray]:
    """Yield batches of indices to clips of similar length.

    Parameters
    ----------
    n_samples : (n,) int64
        Length of each clip.
    rng
        Shuffles the clips and the batches; without it clips come sorted by length, as evaluation wants them.
    n_buckets
        Clips are sorted inside stretches of ``n / n_buckets``, so that batches are both mixed and evenly long.

    Examples
    --------
    >>> [batch.tolist() for batch in bucket_batches(np.array([5, 1, 4, 2]), 2)]
    [[1, 3], [2, 0]]
    """
    n = len(n_samples)
    if n == 0:
        return
    if rng is None:
        order = np.argsort(n_samples, kind="stable")
        yield from np.split(order, range(batch_size, n, batch_size))
        return
    order = rng.permutation(n)
    size = max(batch_size, -(-n // n_buckets // batch_size) * batch_size)
    stretches = [order[start : start + size] for start in range(0, n, size)]
    batches = []
    for stretch in stretches:
        by_length = stretch[np.argsort(n_samples[stretch], kind="stable")]
        batches += [batch for batch in np.split(by_length, range(batch_size, len(by_length), batch_size)) if len(batch)]
    for index in rng.permutation(len(batches)):
        yield batches[index]


def pad_batch(waveforms: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Waveforms padded with zeros, (batch, n_samples) float32, and their lengths, (batch,) int64."""
    lengths = np.array([len(waveform) for waveform in waveforms], dtype=np.int64)
    batch = np.zeros((len(waveforms), int(lengths.max(initial=1))), dtype=np.float32)
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = waveform
    return batch, lengths

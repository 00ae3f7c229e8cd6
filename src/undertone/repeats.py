"""Passages of a recording that were there before, sample for sample: a jingle, an announcement, the same clip again.

Sound is known by its *anchors*: samples that are the largest in amplitude within ``REACH`` samples to both sides, about
four in a second of speech, each with the ``AROUND`` samples beside it. Where an anchor stands depends on the sound
around it alone, not on where in the recording it lies nor on the blocks that the recording comes in. Anchors that come
again, one after the other and all equally long after their first time, are a passage.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from undertone.audio import SAMPLE_RATE

REACH = 2_048  # samples = 0.128 s
AROUND = 512  # samples = 32 ms to both sides of an anchor: no two moments of real sound have the same
MIN_LEVEL = 1e-3  # of full scale; softer sound has no anchors
MIN_PASSAGE_S = 0.5  # from the first anchor to the last
FEED_BLOCKS = 64  # of REACH samples, worked on at once


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage that was there before.

    Attributes
    ----------
    start_s, end_s
        Seconds from the start of the recording, both inside what is the same.
    earlier_s
        How much earlier its first time was, in seconds.
    """

    start_s: float
    end_s: float
    earlier_s: float


class RepeatFinder:
    """Finds the passages of one channel that come again: feed it blocks of any length.

    It keeps two numbers per anchor, about 20 MB for ten hours of speech.
    """

    def __init__(self) -> None:
        self._waiting: list[np.ndarray] = []  # blocks that are not worked on yet
        self._n_waiting = 0
        self._sound = np.zeros(REACH, np.float32)  # silence in front; then what is
        self._offset = -REACH  # of that, in the recording
        self._first: dict[bytes, int] = {}  # where each anchor's sound was for the first time
        self._passages: list[Passage] = []
        self._run = (0, 0, 0)  # first and last anchor, and lag, of the passage at hand, in samples

    def feed(self, block: np.ndarray) -> None:
        """Take the next (n,) samples at 16 kHz."""
        self._waiting.append(block)
        self._n_waiting += len(block)
        if self._n_waiting >= FEED_BLOCKS * REACH:
            self._sound = np.concatenate([self._sound, *self._waiting])
            self._waiting, self._n_waiting = [], 0
            self._read(len(self._sound) // REACH)

    def finish(self) -> list[Passage]:
        """Return the passages, in order; nothing can be fed any more."""
        self._sound = np.concatenate([self._sound, *self._waiting])
        n_blocks = -(-len(self._sound) // REACH) + 1  # and silence behind
        self._sound = np.pad(self._sound, (0, n_blocks * REACH - len(self._sound)))
        self._read(n_blocks)
        self._end_run()
        return self._passages

    def _read(self, n_blocks: int) -> None:
        """Take the anchors of all blocks but the first and the last, which are the others' surroundings."""
        for anchor in _find_anchors(self._sound[: n_blocks * REACH].reshape(n_blocks, REACH)):
            around = self._sound[anchor - AROUND : anchor + AROUND + 1]
            key = hashlib.blake2b(around.tobytes(), digest_size=8).digest()
            self._take(self._offset + anchor, key)
        n_done = (n_blocks - 2) * REACH
        self._sound, self._offset = self._sound[n_done:].copy(), self._offset + n_done

    def _take(self, position: int, key: bytes) -> None:
        first, _, lag = self._run
        now = position - self._first.setdefault(key, position)
        if now != lag:
            self._end_run()
            first = position
        self._run = (first, position, now)

    def _end_run(self) -> None:
        first, last, lag = self._run
        if lag and last - first >= MIN_PASSAGE_S * SAMPLE_RATE:
            self._passages.append(Passage(first / SAMPLE_RATE, last / SAMPLE_RATE, lag / SAMPLE_RATE))


def _find_anchors(blocks: np.ndarray) -> Iterator[int]:
    """Yield the anchors in all blocks but the first and the last, (n_blocks, REACH), in samples from the first's start.

    The largest sample of a block is one where none of the rest of its surroundings, in the blocks beside, is as large.
    """
    level = np.abs(blocks)
    columns = level.argmax(axis=1)
    largest = np.take_along_axis(level, columns[:, np.newaxis], axis=1)[:, 0]
    flat = level.reshape(-1)
    for row in (np.flatnonzero(largest[1:-1] >= MIN_LEVEL) + 1).tolist():
        anchor, start, end = row * REACH + int(columns[row]), row * REACH, (row + 1) * REACH
        if flat[anchor - REACH : start].max() < largest[row] >= flat[end : anchor + REACH + 1].max(initial=0):
            yield anchor

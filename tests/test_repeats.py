"""Passages that come again: found sample for sample, whatever the blocks, and nothing where nothing comes again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertone import repeats
from undertone.audio import SAMPLE_RATE
from undertone.repeats import REACH, RepeatFinder

rng = np.random.default_rng(0)
A, B, C = ((0.1 * rng.standard_normal(n)).astype(np.float32) for n in (30_000, 41_234, 28_111))
RECORDING = np.concatenate([A, B, C, B, A, A])  # the last three come again
STARTS = np.cumsum([0, *map(len, (A, B, C, B, A))]) / SAMPLE_RATE


def find(*blocks):
    finder = RepeatFinder()
    for block in blocks:
        finder.feed(block)
    return finder.finish()


def test_passages_lie_where_their_sound_was_before():
    found = find(RECORDING)
    edge_s = 0.5  # neighbours change what is the largest of its surroundings, and the next anchor is as far away
    for passage, start_s, first_s, part in zip(found, STARTS[3:], (STARTS[1], 0, 0), (B, A, A), strict=True):
        assert passage.earlier_s == pytest.approx(start_s - first_s, abs=1e-9)
        assert start_s <= passage.start_s < start_s + edge_s
        assert start_s + len(part) / SAMPLE_RATE - edge_s < passage.end_s <= start_s + len(part) / SAMPLE_RATE


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 150_000), min_size=1, max_size=40))
def test_blocks_change_nothing(sizes):
    bounds = np.cumsum(sizes)
    assert find(*np.split(RECORDING, bounds[bounds < len(RECORDING)])) == find(RECORDING)


def test_anchors_are_the_largest_of_their_surroundings():
    level = np.pad(np.abs(RECORDING), (REACH, 2 * REACH))
    blocks = level[: len(level) // REACH * REACH].reshape(-1, REACH)
    last = (len(blocks) - 1) * REACH
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(level, REACH), 2 * REACH + 1)
    expected = [p for p in np.flatnonzero(level == windows.max(axis=1)).tolist() if REACH <= p < last]
    assert list(repeats._find_anchors(blocks)) == expected
    assert len(expected) > 40


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(0),
        np.ones(1),
        np.zeros(5 * SAMPLE_RATE),
        np.ones(5 * SAMPLE_RATE),
        np.sin(2 * np.pi * 440 * np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE),
        np.tile(A[:3_000], 30),  # a loop: nothing in it is half a second long
        RECORDING[: len(A) + len(B) + len(C)],
        np.concatenate([1e-3 * A, 1e-3 * A]),  # too soft
        np.concatenate([A, A[:6_000], C]),  # too short
    ],
)
def test_nothing_is_found_where_nothing_comes_again(sound):
    assert find(sound.astype(np.float32)) == []


def test_what_is_nearly_the_same_is_not_the_same():
    assert find(A, A) != []
    assert find(A, A + np.float32(1e-4)) == []

"""Draws are pure functions of their purpose, fair, and the same for ever."""

import tracemalloc
from contextlib import suppress

import numpy as np
import pytest

from gmmpipe.randomness import checked_permutation, permutation, sample, uniforms


def test_draws_are_frozen() -> None:
    # What they decide (shards, crops, steps) must not change with a version of numpy.
    assert permutation(8, "shuffle", 0).tolist() == [6, 5, 7, 3, 2, 1, 4, 0]
    drawn = uniforms(4, "step", 0, 1, 2) * 1000
    assert drawn.astype(int).tolist() == [694, 260, 150, 790]


@pytest.mark.parametrize("length", [0, 1, 2, 1000])
def test_a_permutation_holds_every_number_once(length: int) -> None:
    assert sorted(permutation(length, "p", 1).tolist()) == list(range(length))


@pytest.mark.parametrize("length", [0, 1, 2, 1000])
def test_only_the_permutation_itself_is_taken_for_it(length: int) -> None:
    def is_permutation(order: np.ndarray, seed: int) -> bool:
        blocks = np.array_split(order, 3)
        with suppress(ValueError):
            read = list(checked_permutation(blocks, length, "p", seed))
            return np.array_equal(np.concatenate(read), order)
        return False

    order = permutation(length, "p", 1)
    assert is_permutation(order, 1)
    if length > 1:
        assert not is_permutation(order, 4)
        for wrong in (order[::-1], order * 0, order - 1, order + 1, np.sort(order)[::-1]):
            assert not is_permutation(wrong, 1) or np.array_equal(wrong, order)


@pytest.mark.parametrize(
    ("length", "size"),
    [(0, 3), (1, 1), (5, 0), (7, 7), (7, 9), (1000, 10), (300_000, 50), (2_500_000, 50_000)],
)
def test_a_sample_is_the_beginning_of_the_permutation(length: int, size: int) -> None:
    expected = permutation(length, "p", size)[:size]
    drawn = sample(length, size, "p", size)
    assert drawn.dtype == np.int64
    assert np.array_equal(drawn, expected)


def test_the_memory_of_a_sample_does_not_grow_with_what_it_is_of() -> None:
    peaks = []
    for length in (1_000_000, 8_000_000):
        tracemalloc.start()
        sample(length, 50_000, "p", 0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 20e6
    assert peaks[1] < 1.2 * peaks[0]


def test_every_part_of_the_purpose_matters() -> None:
    purposes = [("a", 0), ("a", 1), ("b", 0), ("a", 0, 0), ("a",), ("a", -1)]
    draws = {permutation(50, *purpose).tobytes() for purpose in purposes}
    assert len(draws) == len(purposes)


def test_any_first_place_of_a_permutation_is_as_likely() -> None:
    counts = np.bincount([permutation(4, "fair", n)[0] for n in range(4000)], minlength=4)
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)


def test_uniforms_fill_the_unit_interval() -> None:
    values = uniforms(100_000, "u")
    assert 0 <= values.min() < 1e-3
    assert 1 - 1e-3 < values.max() < 1
    assert abs(values.mean() - 0.5) < 5 / np.sqrt(12 * 100_000)

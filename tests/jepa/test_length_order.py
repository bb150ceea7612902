"""The order of batches by length: none is beyond its budget, and every utterance comes once."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmmpipe.jepa.batch_order import LENGTH_JITTER
from gmmpipe.jepa.length_order import LengthOrder, cut_by_length, plan_lengths
from helpers.batch_orders import (
    COUNTS,
    assert_any_step_finds_its_pool,
    batches_of,
    lengths_of,
)

LENGTHS = st.lists(st.integers(1, 40) | st.integers(1, 800), min_size=1, max_size=60)


def order_of(lengths: list[np.ndarray], max_frames: int, window: int, seed: int) -> LengthOrder:
    counts = np.array([len(shard) for shard in lengths])
    plan = plan_lengths(counts, lengths.__getitem__, max_frames, window, seed)
    return LengthOrder(counts, plan, seed)


def assert_fit(batches: list[list[int]], max_frames: int) -> None:
    """Each is within the budget, or one utterance that is longer."""
    for batch in batches:
        assert len(batch) * max(batch) <= max_frames or len(batch) == 1


@settings(max_examples=300, deadline=None)
@given(LENGTHS, st.integers(1, 2000), st.integers(0, 2**32 - 1))
def test_whatever_the_jitter_no_batch_is_beyond_the_budget(
    values: list[int], max_frames: int, seed: int
) -> None:
    lengths = np.array(values)
    ends = cut_by_length(lengths, max_frames)
    assert ends[-1] == len(lengths)
    assert min(np.diff([0, *ends])) >= 1
    draws = np.random.default_rng(seed)
    extremes = (np.zeros(len(lengths)), np.full(len(lengths), 1 - 2.0**-53))
    for jitter in (draws.random(len(lengths)), *extremes, draws.integers(0, 2, len(lengths))):
        by_length = np.argsort(lengths * (1 + LENGTH_JITTER * jitter), kind="stable")
        batches = [part.tolist() for part in np.split(lengths[by_length], ends[:-1])]
        assert_fit(batches, max_frames)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(1, 40))
def test_no_other_cuts_make_fewer_batches(values: list[int], max_frames: int) -> None:
    """Of lengths raised by the jitter, against all ways to cut the sorted list."""
    lengths = np.sort(np.array(values))
    highest = np.minimum(lengths * (1 + LENGTH_JITTER), lengths[-1])

    def fits(cuts: tuple[int, ...]) -> bool:
        return all(
            len(part) * part[-1] <= max_frames or len(part) == 1 for part in np.split(highest, cuts)
        )

    inner = range(1, len(lengths))
    fewest = next(
        number + 1
        for number in range(len(lengths))
        if any(fits(cuts) for cuts in itertools.combinations(inner, number))
    )
    assert len(cut_by_length(lengths, max_frames)) == fewest


def test_the_shortest_utterances_are_no_small_remainder() -> None:
    assert cut_by_length(np.full(9, 10), 80) == [4, 9]
    assert cut_by_length(np.full(17, 10), 80) == [4, 9, 17]


def test_lengths_that_divide_the_budget_fill_it() -> None:
    """The longest is not raised: eight utterances of 15 s fit into 120 s."""
    assert cut_by_length(np.full(16, 750), 6000) == [8, 16]


@pytest.mark.parametrize("max_frames", [1, 400, 2000, 10**6])
@pytest.mark.parametrize("window", [1, 10, 1000])
def test_an_epoch_has_every_utterance_once_within_the_budget(max_frames: int, window: int) -> None:
    lengths = lengths_of(COUNTS)
    order = order_of(lengths, max_frames, window, seed=0)
    expected = [(shard, at) for shard, count in enumerate(COUNTS) for at in range(count)]
    epochs = [batches_of(order, epoch, lengths) for epoch in (0, 1, 7)]
    for batches in epochs:
        assert len(batches) == order.steps_per_epoch
        assert sorted(pair for batch in batches for pair in batch) == expected
        assert_fit([[int(lengths[s][p]) for s, p in batch] for batch in batches], max_frames)
        assert min(map(len, batches)) == order.smallest_batch
    if order.steps_per_epoch > 1:
        assert epochs[0] != epochs[1]


def test_any_step_of_a_pool_finds_it() -> None:
    order = order_of(lengths_of(COUNTS), 900, 10, seed=5)
    assert_any_step_finds_its_pool(order)


def test_batches_are_full_and_other_utterances_meet_in_each_epoch() -> None:
    lengths = lengths_of(np.full(8, 1024))
    order = order_of(lengths, 6000, 4096, seed=0)
    first, second = (batches_of(order, epoch, lengths) for epoch in (0, 1))
    real = sum(int(shard.sum()) for shard in lengths)
    assert real / (6000 * order.steps_per_epoch) > 0.9
    batch_of = {pair: number for number, batch in enumerate(second) for pair in batch}
    spread = [len({batch_of[pair] for pair in batch}) for batch in first]
    assert np.median(spread) >= 4

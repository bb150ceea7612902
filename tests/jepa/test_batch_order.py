"""The order of batches: every utterance once an epoch, of about one length, and found at once."""

import numpy as np
import pytest

from gmmpipe.jepa.batch_order import BatchOrder
from helpers.batch_orders import (
    COUNTS,
    assert_any_step_finds_its_pool,
    batches_of,
    lengths_of,
)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 16, 47, 48, 100])
@pytest.mark.parametrize("pool_utterances", [1, 10, 1000])
def test_an_epoch_has_every_utterance_once_in_even_batches(
    batch_size: int, pool_utterances: int
) -> None:
    order = BatchOrder(COUNTS, batch_size, pool_utterances, seed=0)
    expected = [(shard, at) for shard, count in enumerate(COUNTS) for at in range(count)]
    lengths = lengths_of(COUNTS)
    for epoch in (0, 1, 7):
        batches = batches_of(order, epoch, lengths)
        assert sorted(pair for batch in batches for pair in batch) == expected
        sizes = {len(batch) for batch in batches}
        assert len(batches) == order.steps_per_epoch == -(-48 // batch_size)
        assert max(sizes) <= batch_size
        assert min(sizes) == order.smallest_batch >= max(sizes) - 1


def test_epochs_and_seeds_differ() -> None:
    lengths = lengths_of(COUNTS)
    orders = [BatchOrder(COUNTS, 4, 16, seed) for seed in (0, 1)]
    epochs = [batches_of(order, epoch, lengths) for order in orders for epoch in (0, 1)]
    assert all(epochs[a] != epochs[b] for a in range(4) for b in range(a))
    again = batches_of(BatchOrder(COUNTS, 4, 16, 1), 1, lengths)
    assert again == epochs[3]


def test_any_step_of_a_pool_finds_it() -> None:
    order = BatchOrder(COUNTS, 3, 10, seed=5)
    assert_any_step_finds_its_pool(order)


def test_a_batch_is_of_about_one_length() -> None:
    counts = np.full(16, 1024)
    lengths = lengths_of(counts)
    order = BatchOrder(counts, 64, 16384, seed=0)
    real = padded = 0
    steps = batches_of(order, 0, lengths)
    for batch in steps:
        frames = [lengths[shard][position] for shard, position in batch]
        real += sum(frames)
        padded += len(frames) * max(frames)
    assert 1 - real / padded < 0.05
    # And yet the batches come in no order of length.
    longest = [max(lengths[s][p] for s, p in batch) for batch in steps]
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.2


def test_which_utterances_meet_changes_from_epoch_to_epoch() -> None:
    counts = np.full(8, 1024)
    lengths = lengths_of(counts)
    order = BatchOrder(counts, 32, 8192, seed=0)
    first, second = (batches_of(order, epoch, lengths) for epoch in (0, 1))
    batch_of = {pair: number for number, batch in enumerate(second) for pair in batch}
    spread = [len({batch_of[pair] for pair in batch}) for batch in first]
    assert np.median(spread) >= 5


def test_a_step_of_fifty_thousand_hours_needs_a_pool_of_shards_only() -> None:
    counts = np.full(15_000, 1024)
    order = BatchOrder(counts, 256, 16384, seed=0)
    assert order.steps_per_epoch == 60_000
    pool = order.pool_of(3 * order.steps_per_epoch + 31_234)
    assert len(pool.shards) == 16384
    assert len(np.unique(pool.shards)) <= 17


def test_the_batches_of_one_seed_stay_what_they_are() -> None:
    """Changing them changes every training run from here on: that is for the changelog."""
    counts = np.array([3, 0, 5, 2])
    lengths = [np.arange(count) * 37 % 101 + 5 * shard for shard, count in enumerate(counts, 1)]
    order = BatchOrder(counts, 4, 8, seed=0)
    expected = ["31 24 22", "20 23 21", "00 30 01 02", "20 30 21", "31 24 22", "00 23 01 02"]
    batches = batches_of(order, 0, lengths) + batches_of(order, 1, lengths)
    assert [" ".join(f"{s}{p}" for s, p in batch) for batch in batches] == expected

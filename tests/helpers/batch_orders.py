"""The order of batches: made-up lengths, and what every kind of order must do with them."""

import numpy as np

from gmmpipe.jepa.batch_order import Order

COUNTS = np.array([7, 0, 12, 5, 1, 9, 3, 0, 11])
"""Utterances of the shards; some hold rejects alone."""


def lengths_of(counts: np.ndarray) -> list[np.ndarray]:
    """Frames of each utterance of each shard, as skewed as those of real corpora."""
    draws = np.random.default_rng(0)
    return [np.exp(draws.normal(5.2, 0.7, count)).astype(np.int64) + 1 for count in counts]


def batches_of(order: Order, epoch: int, lengths: list[np.ndarray]) -> list[list[tuple]]:
    """The (shard, position) pairs of every batch of an epoch."""
    batches, step = [], epoch * order.steps_per_epoch
    while step < (epoch + 1) * order.steps_per_epoch:
        pool = order.pool_of(step)
        assert pool.steps.start == step
        pairs = list(zip(pool.shards.tolist(), pool.positions.tolist(), strict=True))
        num_frames = np.array([lengths[shard][position] for shard, position in pairs])
        here = order.batches(pool, num_frames)
        assert len(here) == len(pool.steps)
        batches += [[pairs[at] for at in batch] for batch in here]
        step = pool.steps.stop
    return batches


def assert_any_step_finds_its_pool(order: Order) -> None:
    """Whichever step of a pool is asked for, it is the same pool."""
    for step in range(5 * order.steps_per_epoch):
        pool = order.pool_of(step)
        assert step in pool.steps
        other = order.pool_of(pool.steps[-1])
        assert other.steps == pool.steps
        assert np.array_equal(other.shards, pool.shards)
        assert np.array_equal(other.positions, pool.positions)

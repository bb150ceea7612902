"""Batches of at most so many frames, padding included, rather than of so many utterances.

How many batches that makes depends on the lengths of the utterances. So that a step is still found
by arithmetic, the pools are made once, the same for all epochs: consecutive parts of epoch 0's
sequence. An epoch permutes them, and the utterances meet others within their pool. The number of
batches of each pool is counted once, which takes the sidecars of all shards; after that, finding a
step takes the sidecars of one pool's shards.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmpipe.jepa.batch_order import LENGTH_JITTER, Order, Pool
from gmmpipe.randomness import permutation


@dataclass(frozen=True)
class LengthPlan:
    """What is counted once for all epochs.

    Args:
        max_frames: the largest size of a batch over all ranks: its utterances times the longest.
        steps_per_pool: int64 [pools].
        smallest_batch: utterances of the smallest batch.
    """

    max_frames: int
    steps_per_pool: NDArray[np.int64]
    smallest_batch: int


def plan_lengths(
    utterances_per_shard: NDArray[np.int64],
    frames_of: Callable[[int], NDArray[np.int64]],
    max_frames: int,
    pool_utterances: int,
    seed: int,
) -> LengthPlan:
    """Count the batches of every pool.

    Args:
        utterances_per_shard: int64 [shards].
        frames_of: gives the frames of each utterance of a shard, int64 [utterances].
        max_frames: see `LengthPlan`.
        pool_utterances: about how many utterances are sorted by length together.
        seed: of the order.
    """
    num_pools = max(1, round(int(utterances_per_shard.sum()) / pool_utterances))
    unknown = LengthPlan(max_frames, np.ones(num_pools, dtype=np.int64), 1)
    order = LengthOrder(utterances_per_shard, unknown, seed)
    steps, smallest = [], []
    for number in range(num_pools):
        shards, positions = order.utterances_of(number)
        sizes = np.diff([0, *cut_by_length(frames_at(shards, positions, frames_of), max_frames)])
        steps.append(len(sizes))
        smallest.append(int(sizes.min()))
    return LengthPlan(max_frames, np.array(steps, dtype=np.int64), min(smallest))


def frames_at(
    shards: NDArray[np.int64],
    positions: NDArray[np.int64],
    frames_of: Callable[[int], NDArray[np.int64]],
) -> NDArray[np.int64]:
    """Frames of each utterance, int64 [n], given its shard and its position there, int64 [n]."""
    num_frames = np.empty(len(shards), dtype=np.int64)
    for shard in np.unique(shards).tolist():
        here = shards == shard
        num_frames[here] = frames_of(shard)[positions[here]]
    return num_frames


class LengthOrder(Order):
    """Steps of at most so many frames.

    Args:
        utterances_per_shard: int64 [shards].
        plan: of these shards and this seed.
        seed: the seed of every draw.
    """

    def __init__(
        self, utterances_per_shard: NDArray[np.int64], plan: LengthPlan, seed: int
    ) -> None:
        super().__init__(utterances_per_shard, seed)
        self._plan = plan
        self.steps_per_epoch = int(plan.steps_per_pool.sum())
        self.smallest_batch = plan.smallest_batch

    def pool_of(self, step: int) -> Pool:
        """The pool that a step belongs to; each epoch has every pool once."""
        epoch, within = divmod(step, self.steps_per_epoch)
        steps = self._plan.steps_per_pool
        order = permutation(len(steps), "pools", self._seed, epoch)
        ends = np.cumsum(steps[order])
        place = int(np.searchsorted(ends, within, side="right"))
        number, end = int(order[place]), epoch * self.steps_per_epoch + int(ends[place])
        return Pool(range(end - int(steps[number]), end), *self.utterances_of(number))

    def utterances_of(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shards and positions of the utterances of a pool."""
        total, pools = self._epoch_utterances, len(self._plan.steps_per_pool)
        return self._utterances(total * number // pools, total * (number + 1) // pools)

    def cuts(self, pool: Pool, num_frames: NDArray[np.int64]) -> list[int]:
        """The same in every epoch, whatever lengths the jitter makes of these."""
        return cut_by_length(num_frames, self._plan.max_frames)[:-1]


def cut_by_length(num_frames: NDArray[np.int64], max_frames: int) -> list[int]:
    """Cut utterances, sorted by their jittered lengths, into the fewest batches that always fit.

    A batch fits if its utterances times the longest are at most `max_frames`; an utterance that is
    longer is a batch of its own. Beginning with the longest, each batch takes all that it can. The
    two batches of the shortest share their utterances evenly, so that none is a small remainder.

    A jittered length is at most `LENGTH_JITTER` above the true one, so the n-th shortest of them
    is at most that much above the n-th shortest of the true lengths. Cuts that fit for those, none
    taken to be above the longest, fit for whatever jitter is drawn.

    Args:
        num_frames: frames of each utterance, in any order, int64 [n], n at least 1.
        max_frames: the budget of a batch.

    Returns:
        Where each batch ends, shortest first; the last is n.
    """
    lengths = np.sort(num_frames)
    highest = np.minimum(lengths * (1.0 + LENGTH_JITTER), lengths[-1])
    ends = [len(lengths)]
    while ends[-1] > 0:
        ends.append(max(0, ends[-1] - max(1, int(max_frames / highest[ends[-1] - 1]))))
    if len(ends) > 2:
        ends[-2] = max(ends[-2], ends[-3] // 2)
    return ends[-2::-1]

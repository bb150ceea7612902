"""Which utterances make which batch: pure arithmetic, the same for any number of ranks.

The utterances of all epochs form one endless sequence, as a fit's frames do: each epoch permutes
the shards, and the utterances within their shard. An epoch of N utterances is cut into
ceil(N / batch) steps of equal size, give or take one utterance, so that no step is a small
remainder. Consecutive steps form a pool, whose utterances are sorted by length and cut into
batches; the batches are shuffled. So finding any step takes only the sidecars of one pool's shards.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmpipe.randomness import permutation, uniforms
from gmmpipe.store.frame_order import FrameOrder

LENGTH_JITTER = 0.03
"""Lengths are raised by up to this share before they are sorted; otherwise the same utterances
would meet in every epoch. Padding grows by about half of this share."""


@dataclass(frozen=True)
class Pool:
    """Consecutive steps whose utterances are sorted by length together.

    Args:
        steps: their numbers of the endless sequence.
        shards: which shard each utterance of the pool is in, int64 [n].
        positions: its position in that shard's index, int64 [n].
    """

    steps: range
    shards: NDArray[np.int64]
    positions: NDArray[np.int64]


class Order(ABC):
    """Steps of the endless sequence, as utterances.

    Args:
        utterances_per_shard: int64 [shards].
        seed: the seed of every draw.
    """

    steps_per_epoch: int
    smallest_batch: int
    """Utterances of the smallest step."""

    def __init__(self, utterances_per_shard: NDArray[np.int64], seed: int) -> None:
        self._seed = seed
        self._utterances_per_shard = utterances_per_shard
        self._sequence = FrameOrder(utterances_per_shard, seed)  # its frames are utterances here
        self._epoch_utterances = self._sequence.epoch_frames

    def epoch_of(self, step: int) -> int:
        """The epoch that a step belongs to."""
        return step // self.steps_per_epoch

    @abstractmethod
    def pool_of(self, step: int) -> Pool:
        """The pool that a step belongs to; no pool reaches across epochs."""

    @abstractmethod
    def cuts(self, pool: Pool, num_frames: NDArray[np.int64]) -> list[int]:
        """Where one batch ends and the next begins among the utterances sorted by length.

        Args:
            pool: of this order.
            num_frames: frames of each of its utterances, int64 [n].
        """

    def batches(self, pool: Pool, num_frames: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The batch of each step of a pool, as numbers of its utterances, shortest first.

        Args:
            pool: of this order.
            num_frames: frames of each of its utterances, int64 [n].
        """
        purpose = (self._seed, pool.steps.start)
        longer = 1.0 + LENGTH_JITTER * uniforms(len(num_frames), "batch lengths", *purpose)
        by_length = np.argsort(num_frames * longer, kind="stable")
        batches = np.split(by_length, self.cuts(pool, num_frames))
        return [batches[at] for at in permutation(len(batches), "batches", *purpose).tolist()]

    def _utterances(self, begin: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shards and positions of the utterances [begin, end) of the endless sequence."""
        shards, positions = [], []
        for part in self._sequence.ranges(begin, end):
            count = int(self._utterances_per_shard[part.shard])
            order = self._sequence.utterance_order(part.epoch, part.shard, count)
            positions.append(order[part.start : part.stop])
            shards.append(np.full(part.stop - part.start, part.shard, dtype=np.int64))
        return np.concatenate(shards), np.concatenate(positions)


class BatchOrder(Order):
    """Steps of about equally many utterances.

    Args:
        utterances_per_shard: int64 [shards].
        batch_size: the largest number of utterances of a step, over all ranks.
        pool_utterances: about how many utterances are sorted by length together.
        seed: the seed of every draw.
    """

    def __init__(
        self,
        utterances_per_shard: NDArray[np.int64],
        batch_size: int,
        pool_utterances: int,
        seed: int,
    ) -> None:
        super().__init__(utterances_per_shard, seed)
        self._pool_steps = max(1, pool_utterances // batch_size)
        self.steps_per_epoch = -(-self._epoch_utterances // batch_size)
        self.smallest_batch = self._epoch_utterances // self.steps_per_epoch

    def pool_of(self, step: int) -> Pool:
        """The pool that a step belongs to; no pool reaches across epochs."""
        epoch, within = divmod(step, self.steps_per_epoch)
        first = within - within % self._pool_steps
        beyond = min(first + self._pool_steps, self.steps_per_epoch)
        begin, start = epoch * self._epoch_utterances, epoch * self.steps_per_epoch
        shards, positions = self._utterances(
            begin + self._bound(first), begin + self._bound(beyond)
        )
        return Pool(range(start + first, start + beyond), shards, positions)

    def cuts(self, pool: Pool, num_frames: NDArray[np.int64]) -> list[int]:
        """The sizes of the batches do not depend on the lengths."""
        first = pool.steps.start % self.steps_per_epoch
        within = range(first + 1, first + len(pool.steps))
        return [self._bound(step) - self._bound(first) for step in within]

    def _bound(self, step: int) -> int:
        """How many utterances of an epoch come before one of its steps."""
        return self._epoch_utterances * step // self.steps_per_epoch

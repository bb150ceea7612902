"""The endless line of frames: every epoch's shards and their utterances in a seeded order.

Each epoch permutes the shards, and the utterances within each shard. The second permutation matters
where a range ends inside a shard: shards are sorted by key, so the first half of one may be of one
speaker alone.

The frame at a position is a function of the frame counts of the shards and the seed alone. So no
position is ever saved, and any number of ranks sees the same data.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gmmpipe.randomness import permutation


@dataclass(frozen=True)
class FrameRange:
    """Frames [start, stop) of a shard in the order of an epoch, for a buffer from `at` on."""

    epoch: int
    shard: int
    start: int
    stop: int
    at: int


class FrameOrder:
    """Positions on the endless line, as ranges of shards.

    Args:
        frames_per_shard: int64 [shards].
        seed: decides the order of the shards and utterances in each epoch.
    """

    def __init__(self, frames_per_shard: NDArray[np.int64], seed: int) -> None:
        self._frames_per_shard = frames_per_shard
        self._seed = seed
        self.epoch_frames = int(frames_per_shard.sum())
        assert self.epoch_frames > 0, "a store without frames has no order"
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def ranges(self, start: int, stop: int) -> Iterator[FrameRange]:
        """The frames at positions [start, stop), in order, as maximal ranges of single shards."""
        position = start
        while position < stop:
            epoch, within = divmod(position, self.epoch_frames)
            order, first = self._epoch(epoch)
            place = int(np.searchsorted(first, within, side="right")) - 1
            begin = within - int(first[place])
            count = min(stop - position, int(first[place + 1]) - within)
            yield FrameRange(epoch, int(order[place]), begin, begin + count, position - start)
            position += count

    def utterance_order(self, epoch: int, shard: int, num_utterances: int) -> NDArray[np.int64]:
        """The order of a shard's utterances in an epoch, int64 [num_utterances]."""
        return permutation(num_utterances, "utterances", self._seed, epoch, shard)

    def _make_epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shards' order in an epoch, and where each begins on the epoch's line."""
        order = permutation(len(self._frames_per_shard), "epoch", self._seed, epoch)
        first = np.concatenate([[0], np.cumsum(self._frames_per_shard[order])]).astype(np.int64)
        return order, first

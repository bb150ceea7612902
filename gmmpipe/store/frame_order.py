"""The endless line of frames: every epoch's shards and their utterances in a seeded order.

Each epoch permutes the shards, and the utterances within each shard. The second permutation matters
where a range ends inside a shard: shards are sorted by key, so the first half of one may be of one
speaker alone.

A store whose recordings stay together may have one speaker alone in many shards. There an epoch
goes over the shards several times, and takes another part of each shard's utterances each time.

The frame at a position is a function of the frame counts of the shards, the number of parts and the
seed alone. So no position is ever saved, and any number of ranks sees the same data.
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
        num_parts: how often an epoch goes over the shards.
    """

    def __init__(self, frames_per_shard: NDArray[np.int64], seed: int, num_parts: int = 1) -> None:
        self._frames_per_shard = frames_per_shard
        self._num_parts = num_parts
        self._seed = seed
        self.epoch_frames = int(frames_per_shard.sum())
        assert self.epoch_frames > 0, "a store without frames has no order"
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def ranges(self, start: int, stop: int) -> Iterator[FrameRange]:
        """The frames at positions [start, stop), in order, as maximal ranges of single shards."""
        position = start
        while position < stop:
            epoch, within = divmod(position, self.epoch_frames)
            order, begins, first = self._epoch(epoch)
            place = int(np.searchsorted(first, within, side="right")) - 1
            begin = int(begins[place]) + within - int(first[place])
            count = min(stop - position, int(first[place + 1]) - within)
            yield FrameRange(epoch, int(order[place]), begin, begin + count, position - start)
            position += count

    def utterance_order(self, epoch: int, shard: int, num_utterances: int) -> NDArray[np.int64]:
        """The order of a shard's utterances in an epoch, int64 [num_utterances]."""
        return permutation(num_utterances, "utterances", self._seed, epoch, shard)

    def _make_epoch(
        self, epoch: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """An epoch's parts: their shards, where they begin there and on the epoch's line."""
        counts, parts = self._frames_per_shard, self._num_parts
        orders, begins, lengths = [], [], []
        for part in range(parts):
            numbers = (epoch, part) if part else (epoch,)
            order = permutation(len(counts), "epoch", self._seed, *numbers)
            begin, end = counts[order] * part // parts, counts[order] * (part + 1) // parts
            orders.append(order)
            begins.append(begin)
            lengths.append(end - begin)
        first = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
        return np.concatenate(orders), np.concatenate(begins), first

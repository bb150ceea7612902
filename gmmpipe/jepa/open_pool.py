"""A pool of batches with the indexes of its shards at hand."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmpipe.jepa.batch_order import Order, Pool
from gmmpipe.jepa.length_order import frames_at
from gmmpipe.jepa.targets import ShardTargets, TargetSource
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.shard_reader import ShardReader


@dataclass(frozen=True)
class OpenPool:
    """A pool, and what its utterances are read with.

    Args:
        pool: its steps and utterances.
        readers: of each of its shards, by the shard's number.
        targets: of each of its shards.
        batches: the batch of each of its steps, as numbers of its utterances.
    """

    pool: Pool
    readers: dict[int, ShardReader]
    targets: dict[int, ShardTargets]
    batches: list[NDArray[np.int64]]

    @classmethod
    def open(
        cls, store: FeatureStore, source: TargetSource, order: Order, pool: Pool
    ) -> "OpenPool":
        """Read the sidecars of the pool's shards.

        Raises:
            StoreError: one is missing or damaged, or that of its targets.
        """
        shards = np.unique(pool.shards).tolist()
        readers = {shard: ShardReader(store.shards[shard]) for shard in shards}
        targets = {shard: source.open_shard(shard, readers[shard].index) for shard in shards}
        num_frames = frames_at(
            pool.shards, pool.positions, lambda shard: readers[shard].index.num_frames
        )
        return cls(pool, readers, targets, order.batches(pool, num_frames))

"""Which utterances are encoded together: a function of the source store and the budget alone."""

from collections.abc import Iterator

import numpy as np

from gmmpipe import FeatureStore
from gmmpipe.randomness import permutation
from gmmpipe.store.shard_index import ShardIndex


def batches_of(index: ShardIndex, frame_rate: float, budget: float) -> list[list[int]]:
    """The utterances of a shard, longest last, in batches of at most `budget` seconds.

    Args:
        index: of the shard.
        frame_rate: of its frames.
        budget: seconds of a batch with its padding; a longer utterance is a batch of its own.

    Returns:
        positions in the index; each utterance once.
    """
    order = sorted(range(len(index.keys)), key=lambda n: (int(index.num_frames[n]), index.keys[n]))
    batches: list[list[int]] = []
    for position in order:
        seconds = int(index.num_frames[position]) / frame_rate
        if batches and (len(batches[-1]) + 1) * seconds <= budget:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


def sampled(store: FeatureStore, seed: int, count: int) -> Iterator[tuple[int, int]]:
    """Shard and position of utterances chosen by the seed, in the store's order."""
    counts = np.array([shard.row.utterances for shard in store.shards])
    ends = counts.cumsum()
    chosen = permutation(int(ends[-1]), "layer sample", seed)[:count]
    for number in np.sort(chosen).tolist():
        shard = int(np.searchsorted(ends, number, side="right"))
        yield shard, number - int(ends[shard] - counts[shard])

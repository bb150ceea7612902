"""A bounded sample of a store's utterances, the same each time, and what a mixture makes of it."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmmpipe.apply.evaluate import NO_FLOOR
from gmmpipe.mixture.em import em_step
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.mixture.measures import EvaluationSums
from gmmpipe.mixture.mixture import Mixture, expand
from gmmpipe.mixture.returned_joints import joint_blocks
from gmmpipe.randomness import sample
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.shard_reader import ShardReader

MAX_FRAMES = 50_000
"""As many as an update's metrics are taken on."""
_MAX_VALUES = 1 << 25
"""Numbers in all sampled frames together: 134 MB; fewer frames are taken of many dimensions."""
_MAX_SHARDS = 16


@dataclass(frozen=True)
class SampledUtterance:
    """An utterance of the sample.

    Args:
        shard: its number in the store.
        position: its place in the index of the shard.
        key: its key there.
        first: the number of its first frame within the sample.
        num_frames: how many of its frames are in the sample, from its first on.
    """

    shard: int
    position: int
    key: str
    first: int
    num_frames: int


@dataclass(frozen=True)
class Sample:
    """Frames of some utterances: float32 [N, D], one utterance after another."""

    frames: Tensor
    utterances: list[SampledUtterance]
    is_whole_store: bool

    @classmethod
    def draw(cls, store: FeatureStore) -> "Sample":
        """Draw utterances of a few shards; the draw depends on the store's layout alone.

        A store of at most `MAX_FRAMES` frames in few shards is taken whole, in its order. So is
        whatever a shard has where that is less than its share.

        Raises:
            StoreError: a shard that is read is missing or damaged.
        """
        limit = max(1, min(MAX_FRAMES, _MAX_VALUES // store.dim))
        num_shards = len(store.shards)
        numbers = np.sort(sample(num_shards, min(num_shards, _MAX_SHARDS), "report", "shards"))
        whole = store.num_frames <= limit and len(numbers) == num_shards
        share = limit if whole else max(1, limit // max(1, len(numbers)))
        parts: list[Tensor] = []
        utterances: list[SampledUtterance] = []
        first = 0
        for number in numbers.tolist():
            shard = store.shards[number]
            index = ShardReader(shard).index
            left = share
            for position in _positions(len(index.keys), number, whole):
                if left == 0:
                    break
                begin, end = index.frame_offset[position : position + 2].tolist()
                part = torch.empty(min(end - begin, left), store.dim, dtype=torch.float32)
                shard.read_frames(begin, begin + len(part), part)
                parts.append(part)
                key = index.keys[position]
                utterances.append(SampledUtterance(number, position, key, first, len(part)))
                first, left = first + len(part), left - len(part)
        return cls(torch.cat(parts), utterances, whole)


def _positions(count: int, shard: int, in_order: bool) -> list[int]:
    if in_order:
        return list(range(count))
    drawn: list[int] = sample(count, count, "report", "utterances", shard).tolist()
    return drawn


@dataclass(frozen=True)
class Usage:
    """What a mixture makes of a sample.

    Args:
        labels: the most likely component of each frame, int64 [N].
        entropies: H(p(k|x)) of each frame, nats, float64 [N].
        largest: the largest p(k|x) of each frame, float64 [N].
        shares: of the frames, by their most likely component, float64 [K].
        measures: as `gmmpipe evaluate` has them, by the same names.
    """

    labels: NDArray[np.int64]
    entropies: NDArray[np.float64]
    largest: NDArray[np.float64]
    shares: NDArray[np.float64]
    measures: dict[str, float]

    @classmethod
    @torch.no_grad()
    def of(cls, drawn: Sample, gmm: GradientGMM) -> "Usage":
        """Score a sample of at least one frame, in float64, in two passes."""
        mixture, num_frames = gmm.mixture, len(drawn.frames)
        sums = EvaluationSums.zeros(gmm.K, gmm.dim, drawn.frames.device)
        origin = sums.statistics.center
        labels = torch.empty(num_frames, dtype=torch.int64)
        entropies, largest = torch.empty(2, num_frames, dtype=torch.float64)
        for block in joint_blocks(mixture, drawn.frames):
            wide = block.frames
            posteriors, labels[block.rows] = sums.usage.add(block)
            expanded = expand(wide, origin, wide.new_empty(len(wide), 2 * len(origin)))
            sums.statistics.add(posteriors, expanded)
            entropies[block.rows] = torch.special.entr(posteriors).sum(1)
            largest[block.rows] = posteriors.amax(1)
        measures = {"frames": num_frames, **sums.measures()}
        measures["em_gap"] = measures["nll"] - _nll_after_em(sums, mixture, gmm, drawn.frames)
        measures["label_agreement"] = _agreement(labels, drawn)
        shares = sums.usage.counts / num_frames
        return cls(labels.numpy(), entropies.numpy(), largest.numpy(), shares.numpy(), measures)


def _nll_after_em(
    sums: EvaluationSums, mixture: Mixture, gmm: GradientGMM, frames: Tensor
) -> float:
    floor = NO_FLOOR if gmm.var_floor is None else gmm.var_floor
    stepped = em_step(sums.statistics, mixture, floor)
    return float(stepped.nll_sum(frames)) / len(frames)


def _agreement(labels: Tensor, drawn: Sample) -> float:
    """Share of the pairs of neighbouring frames of an utterance with one label; 1 without pairs."""
    same = pairs = 0
    for utterance in drawn.utterances:
        own = labels[utterance.first : utterance.first + utterance.num_frames]
        same += int((own[1:] == own[:-1]).sum())
        pairs += len(own) - 1
    return same / pairs if pairs else 1.0

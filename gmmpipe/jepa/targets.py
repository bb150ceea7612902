"""Where the targets of an utterance come from: a mixture, or a label store."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from gmmpipe.apply.model import check_features
from gmmpipe.errors import OptionError, StoreError
from gmmpipe.files import listed_paths
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.label_store import LabelReader, LabelStore
from gmmpipe.store.shard_index import ShardIndex
from gmmpipe.store.sidecar import ShardRow

ShardTargets = Callable[[int, Tensor], dict[str, Tensor]]
"""The targets of one utterance of a shard, from its position and its frames [T, D]: fields of
`gmmpipe.jepa.batch.JEPABatch` by their names, each [T, ...]."""


class TargetSource(Protocol):
    """Gives the targets of every utterance of a store; sent to loader processes by pickle."""

    def open_shard(self, shard: int, index: ShardIndex) -> ShardTargets:
        """The targets of a shard, given its number in the `FeatureStore` and its index there."""


class NoTargets:
    """No targets, for a trainer that makes its own."""

    def open_shard(self, shard: int, index: ShardIndex) -> ShardTargets:
        """No field for any utterance."""
        return lambda position, frames: {}


@dataclass(frozen=True)
class MixtureTargets:
    """Posteriors under a mixture, computed for each utterance alone: its batch changes nothing.

    Args:
        gmm: the mixture, on the CPU.
        temperature: the temperature of the softmax.
        top_k: how many of the largest posteriors are wanted, or None for all.
    """

    gmm: GradientGMM
    temperature: float
    top_k: int | None

    def open_shard(self, shard: int, index: ShardIndex) -> ShardTargets:
        """``targets`` [T, K], or ``topk_ids`` and ``topk_probs`` [T, k], of each utterance."""
        return self._targets

    def _targets(self, position: int, frames: Tensor) -> dict[str, Tensor]:
        posteriors = self.gmm.soft_assign(frames, self.temperature)
        if self.top_k is None:
            return {"targets": posteriors}
        probs, ids = posteriors.topk(self.top_k, dim=1)
        return {"topk_ids": ids, "topk_probs": probs}


def mixture_targets(
    gmm: GradientGMM | str | Path, store: FeatureStore, temperature: float, top_k: int | None
) -> MixtureTargets:
    """Posteriors of the frames of `store` under a mixture, or under that of a model file.

    Raises:
        CheckpointError: the file cannot be read, or the mixture was fitted to other features.
        OptionError: the temperature is not positive, or `top_k` is not within 1 and K.
    """
    if isinstance(gmm, GradientGMM):
        # Loader processes compute on the CPU, so they get a copy there.
        here, source = GradientGMM.from_dict(gmm.to_dict()), "the mixture"
    else:
        here, source = GradientGMM.load(gmm), str(gmm)
    check_features(here, store, source)
    if not 0 < temperature < math.inf:
        raise OptionError(f"temperature is {temperature}, but must be above 0")
    if top_k is not None and not 1 <= top_k <= here.K:
        raise OptionError(f"top_k is {top_k}, but must be within 1 and K = {here.K}")
    return MixtureTargets(here, temperature, top_k)


@dataclass(frozen=True)
class LabelTargets:
    """What label stores hold: their top k, or, where there is none, the label with probability 1.

    Args:
        shards: for each shard of the `FeatureStore`, the label store and the shard's number in it.
    """

    shards: list[tuple[LabelStore, int]]

    def open_shard(self, shard: int, index: ShardIndex) -> ShardTargets:
        """``topk_ids`` and ``topk_probs`` [T, k] of each utterance.

        Raises:
            StoreError: the shard of labels is missing or damaged, or not aligned with `index`.
        """
        labels, number = self.shards[shard]
        reader = labels.open_shard(number)
        if (reader.index.keys, reader.index.num_frames.tolist()) != (
            index.keys,
            index.num_frames.tolist(),
        ):
            path = labels.shards[number].path
            raise StoreError(f"{path}: its utterances are not those of the feature store's shard")
        return partial(_stored_targets, reader)


def _stored_targets(reader: LabelReader, position: int, frames: Tensor) -> dict[str, Tensor]:
    labels = reader.read_utterance(position)
    if labels.topk_ids is None or labels.topk_probs is None:
        ids = labels.labels[:, None]
        return {"topk_ids": ids, "topk_probs": torch.ones(ids.shape, dtype=torch.float32)}
    return {"topk_ids": labels.topk_ids, "topk_probs": labels.topk_probs}


def _aligned(row: ShardRow) -> tuple[str, int, int]:
    """What a shard of labels has in common with the shard that it labels."""
    return row.name.partition(".")[0], row.utterances, row.frames


def label_targets(
    paths: str | Path, store: FeatureStore, labels_of: str | Path | None = None
) -> LabelTargets:
    """The targets that the label stores of `store` hold, one label store for each of its folders.

    Args:
        paths: the label stores.
        store: the feature store whose utterances get the targets.
        labels_of: the feature stores that the labels are of, where that is not `store`: other
            frames of the same utterances, an encoder's layer for one. Their shards hold the same
            keys as those of `store`, with as many frames for each.

    Raises:
        StoreError: a label store is missing, unfinished or damaged, or labels another store, or
            two were made with different models or options; or `labels_of` has other shards.
    """
    opened = [LabelStore.open(folder) for folder in listed_paths(paths)]
    labelled = store if labels_of is None else FeatureStore.open(labels_of)
    if [labels.plan.source_sha256 for labels in opened] != labelled.digests:
        of = "" if labels_of is None else f" than {labels_of}"
        raise StoreError(f"{paths}: the labels of other feature stores{of}, or in another order")
    rows = [shard.row for labels in opened for shard in labels.shards]
    if [_aligned(row) for row in rows] != [_aligned(shard.row) for shard in store.shards]:
        raise StoreError(
            f"{paths}: other shards than those of the feature stores: the same utterances, with as "
            "many frames each, are to be in shards of the same number"
        )
    how = {(p.gmm_sha256, p.top_k, p.temperature) for p in (labels.plan for labels in opened)}
    if len(how) > 1:
        raise StoreError(f"{paths}: label stores of several models, or made with other options")
    return LabelTargets([(labels, n) for labels in opened for n in range(len(labels.shards))])

"""What a run is anchored by: a mixture of its frames, or a label store of the same utterances."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from gmmpipe import FeatureStore
from gmmpipe.files import listed_paths
from gmmpipe.jepa import JEPABatch
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.store.label_store import LabelStore
from pipelines.jepa.options import JEPAOptions

MOMENT_FRAMES = 200_000
"""Of how many first frames the moments are, where no mixture of them is given."""


@dataclass(frozen=True)
class Anchor:
    """Where targets and the moments of the input come from.

    Args:
        num_components: K.
        moments: mean and standard deviation of each dimension of the input frames, [D] each.
        arguments: what `JEPABatches` is to be given for the targets.
    """

    num_components: int
    moments: tuple[Tensor, Tensor]
    arguments: dict[str, Any]

    @classmethod
    def open(cls, options: JEPAOptions, store: FeatureStore) -> Self:
        """The anchor that the options name.

        Raises:
            CheckpointError: the mixture cannot be read.
            StoreError: the label store is missing, unfinished or damaged.
        """
        if options.labels is None:
            assert options.gmm_path is not None
            gmm = GradientGMM.load(options.gmm_path)
            arguments = {"gmm": gmm, "temperature": options.cluster_temperature}
            return cls(gmm.K, mixture_moments(gmm), arguments)
        labels = LabelStore.open(listed_paths(options.labels)[0])
        arguments = {"labels": options.labels, "labels_of": options.labels_of}
        return cls(labels.plan.K, frame_moments(store), arguments)


def mixture_moments(gmm: GradientGMM) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension under a mixture, float64 [D] each."""
    weights = gmm.weights.double()[:, None]
    means, covariances = gmm.means.double(), gmm.covariances.double()
    mean = (weights * means).sum(0)
    variance = (weights * (covariances + (means - mean).square())).sum(0)
    return mean, variance.sqrt()


def frame_moments(store: FeatureStore) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each dimension over a store's first frames, float64 [D] each.

    A dimension that never changes has 1 for its deviation.
    """
    frames = store.read_frames(0, min(MOMENT_FRAMES, store.num_frames)).double()
    std = frames.std(0, correction=0)
    return frames.mean(0), torch.where(std > 0, std, 1.0)


def posteriors_of(batch: JEPABatch, num_components: int) -> Tensor:
    """The targets of a batch over all K components, [B, T, K].

    Of a label store they are its top k, renormalised to sum to 1: what top-k leaves out is not
    known component by component, and spread evenly would say that all others are alike.
    """
    if batch.targets is not None:
        return batch.targets
    assert batch.topk_ids is not None, "the batches were asked for with targets"
    assert batch.topk_probs is not None
    sums = batch.topk_probs.sum(-1, keepdim=True)
    probs = batch.topk_probs / torch.where(sums > 0, sums, 1.0)  # padding sums to 0
    posteriors = probs.new_zeros(*probs.shape[:2], num_components)
    return posteriors.scatter_add_(-1, batch.topk_ids, probs)

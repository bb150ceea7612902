"""What labels agree with: those of neighbouring frames, and classes that the samples carry."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmmpipe.apply.frame_classes import FrameClasses
from gmmpipe.errors import GmmpipeError
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.store.feature_store import FeatureStore

MAX_CELLS = 1 << 27
"""The largest table of classes and components: 1 GB."""


@dataclass(frozen=True)
class NeighbourSums:
    """Pairs of neighbouring frames of one utterance, counted; sums that add up over ranks.

    Args:
        store: the frames' store.
        gmm: gives the labels.
        sums: how many pairs there are, and how many of equal labels: int64 [2].
    """

    store: FeatureStore
    gmm: GradientGMM
    sums: Tensor

    @classmethod
    def zeros(cls, store: FeatureStore, gmm: GradientGMM) -> "NeighbourSums":
        """No pairs yet."""
        return cls(store, gmm, torch.zeros(2, dtype=torch.int64, device=gmm.means.device))

    def add(self, start: int, stop: int, labels: Tensor) -> None:
        """Add the pairs whose later frame is in [start, stop), given the labels of that range."""
        if start:  # the frame before it is another block's, and perhaps another rank's
            before = self.store.read_frames(start - 1, start).to(labels.device)
            labels = torch.cat([self.gmm.assign(before), labels])
        same = labels[1:] == labels[:-1]
        paired = torch.ones(stop - start, dtype=torch.bool)
        paired[self.store.utterance_starts(start, stop) - start] = False
        paired = paired[0 if start else 1 :].to(labels.device)
        self.sums.add_(torch.stack([paired.sum(), (paired & same).sum()]))

    def agreement(self) -> float:
        """The share of pairs with equal labels; 1 where every utterance is a single frame."""
        pairs, equal = self.sums.tolist()
        return equal / pairs if pairs else 1.0


@dataclass(frozen=True)
class ClassSums:
    """Frames by class and most likely component, counted; sums that add up over ranks.

    Args:
        classes: gives the class of each frame.
        num_components: K.
        table: frames of class c that belong to component k, int64 [C * K].
    """

    classes: FrameClasses
    num_components: int
    table: Tensor

    @classmethod
    def zeros(cls, classes: FrameClasses, gmm: GradientGMM) -> "ClassSums":
        """No frames yet.

        Raises:
            GmmpipeError: there are too many classes to count.
        """
        cells = len(classes.names) * gmm.K
        if cells > MAX_CELLS:
            raise GmmpipeError(
                f"--labels_from {classes.field}: {len(classes.names)} classes by {gmm.K} "
                f"components are more than the {MAX_CELLS} numbers that are counted"
            )
        table = torch.zeros(cells, dtype=torch.int64, device=gmm.means.device)
        return cls(classes, gmm.K, table)

    def add(self, start: int, stop: int, labels: Tensor) -> None:
        """Add frames [start, stop), given their labels; those without a class are left out."""
        classes = self.classes.read(start, stop).to(labels.device)
        known = (classes >= 0).to(torch.int64)
        cells = classes.clamp_min(0) * self.num_components + labels
        self.table.index_add_(0, cells, known)

    def measures(self) -> dict[str, float]:
        """How well classes and components tell each other, over the frames that have a class.

        With p(c, k) the shares of the frames (Hsu et al., HuBERT, arXiv 2106.07447, section IV-D):
        class_purity = Σ_k max_c p(c, k), its phone purity; cluster_purity = Σ_c max_k p(c, k);
        normalized_mutual_information = I(c; k) / H(c), its PNMI, 1 where there is one class.
        """
        counts = self.table.view(-1, self.num_components).double().cpu()
        total = float(counts.sum())
        joint = counts / total
        class_entropy, component_entropy = _entropy(joint.sum(1)), _entropy(joint.sum(0))
        information = class_entropy + component_entropy - _entropy(joint)
        return {
            "labelled_frames": int(total),
            "classes": int((counts.sum(1) > 0).sum()),
            "class_purity": float(joint.amax(0).sum()),
            "cluster_purity": float(joint.amax(1).sum()),
            "normalized_mutual_information": information / class_entropy if class_entropy else 1.0,
        }


def _entropy(shares: Tensor) -> float:
    """H of shares that sum to 1, nats."""
    entropy = float(torch.special.entr(shares).sum())
    return entropy if entropy > math.ulp(1.0) * shares.numel() else 0.0

"""The two losses of a GMM-anchored JEPA (arXiv 2602.09040), as sums over this rank's frames."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gmmpipe.jepa import JEPABatch
from pipelines.jepa.measures import entropy
from pipelines.jepa.model import JEPA, Encoder
from pipelines.jepa.targets import posteriors_of


@dataclass(frozen=True)
class LossSums:
    """Sums over frames; divided by counts over all ranks they are the losses.

    Args:
        jepa: over masked frames, of the mean over dimensions of (prediction - target)^2.
        cluster: over visible frames, of KL(p || q) in nats: p the mixture's posteriors, q the
            cluster head's; that is their cross-entropy less the entropy of p.
        posteriors: over visible frames, of p, [K].
        entropy: over visible frames, of the entropy of p, nats.
    """

    jepa: Tensor
    cluster: Tensor
    posteriors: Tensor
    entropy: Tensor


def loss_sums(jepa: JEPA, target: Encoder, batch: JEPABatch) -> LossSums:
    """Both losses of a batch.

    The online encoder gets the visible frames and nothing of the masked ones; the target encoder
    gets the whole utterance, and no gradient.
    """
    signal, real = jepa.signal(batch), ~batch.padding_mask
    visible = real & ~batch.mask
    context = jepa.encoder(signal, visible)
    predictions = jepa.predictor(context, visible, batch.mask)
    with torch.no_grad():
        targets = target(signal, real)[batch.mask[real]]
    errors = (predictions - targets).square().mean(1)
    posteriors = posteriors_of(batch, jepa.sizes.num_components)[visible]
    log_q = jepa.cluster_head(context).log_softmax(1)
    entropies = torch.special.entr(posteriors).sum(1)
    divergences = -(posteriors * log_q).sum(1) - entropies
    return LossSums(errors.sum(), divergences.sum(), posteriors.sum(0), entropies.sum())


class RunningLosses:
    """Sums over the steps since the last row of metrics, over all ranks; float64 on the CPU.

    Args:
        values: [5 + K]: LossSums' jepa, cluster and entropy, counts of masked and visible frames,
            and the sum of posteriors. A checkpoint holds it.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @classmethod
    def empty(cls, num_components: int) -> "RunningLosses":
        """Nothing yet."""
        return cls(torch.zeros(5 + num_components, dtype=torch.float64))

    def add(self, sums: Tensor) -> None:
        """Add a step's, laid out alike."""
        self.values += sums.double().cpu()

    def means(self) -> dict[str, float]:
        """``jepa_loss``, ``cluster_loss``, and what the cluster loss is to be compared with.

        ``marginal_loss`` is the cluster loss that always predicting the mean posterior of these
        very frames would have had: H(mean p) - mean H(p), the least of any constant prediction.
        """
        jepa, cluster, entropies, masked, visible = self.values[:5].tolist()
        return {
            "jepa_loss": jepa / max(1.0, masked),
            "cluster_loss": cluster / visible,
            "marginal_loss": entropy(self.values[5:]) - entropies / visible,
        }

"""Has the encoder collapsed? Measures of its output, in float64.

A JEPA's own loss does not tell: an encoder that maps every frame to one point has a loss of 0.
"""

import torch
from torch import Tensor


def singular_values(features: Tensor) -> Tensor:
    """Singular values of the centred features, largest first.

    Args:
        features: one frame a row, [N, dim].

    Returns:
        float64 [min(N, dim)].
    """
    centred = features.double() - features.double().mean(0)
    return torch.linalg.svdvals(centred)


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the singular values of the centred features, as shares of their sum.

    Between 1 (all frames on a line) and dim (spread evenly in all directions); 1 also where the
    frames are all equal. It does not see how large the features are: `feature_std` does.
    Roy & Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007.

    Args:
        features: one frame a row, [N, dim].
    """
    values = singular_values(features)
    total = values.sum()
    if total == 0:
        return 1.0
    return float(torch.special.entr(values / total).sum().exp())


def feature_std(features: Tensor) -> float:
    """Mean over the dimensions of the standard deviation over the frames (dividing by N).

    Args:
        features: one frame a row, [N, dim].
    """
    return float(features.double().std(0, correction=0).mean())


def entropy(shares: Tensor) -> float:
    """Entropy in nats of non-negative `shares` [K], which need not sum to 1; at most ln K."""
    shares = shares.double()
    return float(torch.special.entr(shares / shares.sum()).sum())

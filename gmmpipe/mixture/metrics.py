"""How well a mixture describes a sample of frames, and how well its components are used."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmmpipe.mixture.mixture import Mixture


def posteriors_of(joints: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The likeliest component [n], ln p(x) [n], p(k|x) [n, K] and H(p(k|x)) [n], in nats.

    Args:
        joints: log joints, float64 [n, K].
    """
    labels = joints.argmax(1)
    posteriors = torch.softmax(joints, 1)
    # ln p(x) = ln p(k, x) - ln p(k|x) for any k, without a second pass of exponentials.
    best = labels[:, None]
    scores = (joints.gather(1, best) - posteriors.gather(1, best).log())[:, 0]
    # A weight of 0 gives -inf, and 0 times that would be NaN.
    entropies = scores - (posteriors * joints.clamp_min(-1e300)).sum(1)
    return labels, scores, posteriors, entropies.clamp_min_(0.0)


@dataclass(frozen=True)
class UsageSums:
    """Sums over frames, float64, which add up over ranks.

    Args:
        flat: the buffer that `counts` and `totals` are views of, [K + 4].
        counts: frames whose most likely component is k, [K].
        totals: frames, Σ -ln p(x), Σ H(p(k|x)) and Σ_n Σ_k p(k|x)·|x - mean_k|², [4].
    """

    flat: Tensor
    counts: Tensor
    totals: Tensor

    @classmethod
    def over(cls, frames: Tensor, mixture: Mixture) -> "UsageSums":
        """The sums over `frames` [N, D]; N may be 0."""
        num_components = mixture.num_components
        flat = torch.zeros(num_components + 4, dtype=torch.float64, device=frames.device)
        counts, totals = torch.split(flat, [num_components, 4])
        wide_means = mixture.means.double()
        square_norms = wide_means.square().sum(1)
        for _, block, joints in mixture.log_joints(frames):
            labels, scores, posteriors, entropies = posteriors_of(joints)
            # |x - mean|² weighted by posteriors that sum to 1.
            weighted = posteriors @ wide_means
            distance = block.square().sum() - 2 * (block * weighted).sum()
            distance += (posteriors @ square_norms).sum()
            counts += torch.bincount(labels, minlength=num_components)
            totals[0] += len(block)
            totals[1:] += torch.stack([-scores.sum(), entropies.sum(), distance])
        return cls(flat, counts, totals)


def usage_metrics(sums: UsageSums) -> dict[str, float]:
    """alive, balance_cv, nll, posterior_entropy and intra_cluster_dist, from sums over all ranks.

    alive: components that are some frame's most likely one; balance_cv: unbiased standard
    deviation over mean of the frame counts of those; nll and entropy in nats a frame.
    """
    frames, nll, entropy, distance = sums.totals.tolist()
    alive = sums.counts[sums.counts > 0]
    spread = float(alive.std()) if len(alive) > 1 else 0.0
    return {
        "alive": len(alive),
        "balance_cv": spread / float(alive.mean()),
        "nll": nll / frames,
        "posterior_entropy": entropy / frames,
        "intra_cluster_dist": distance / frames,
    }


def shape_metrics(mixture: Mixture) -> dict[str, float]:
    """weight_entropy, avg/min/max_var and inter_cluster_dist, from the parameters alone.

    weight_entropy: H(weights) / ln K (1 for K = 1: as even as one weight can be);
    inter_cluster_dist: mean Euclidean distance of pairs of means (0 for K = 1).
    """
    num_components, wide = mixture.num_components, mixture.double()
    log_weights, variances = wide.log_weights, wide.log_vars.exp()
    entropy = -float((log_weights.exp() * log_weights).sum())
    single = num_components == 1
    return {
        "weight_entropy": 1.0 if single else entropy / math.log(num_components),
        "avg_var": float(variances.mean()),
        "min_var": float(variances.min()),
        "max_var": float(variances.max()),
        "inter_cluster_dist": 0.0 if single else _mean_distance(wide.means),
    }


def _mean_distance(points: Tensor) -> float:
    """Mean Euclidean distance of pairs of rows, without holding all pairs at once."""
    total = 0.0
    for start in range(0, len(points), 1024):
        total += float(torch.cdist(points[start : start + 1024], points).sum())
    return total / (len(points) * (len(points) - 1))

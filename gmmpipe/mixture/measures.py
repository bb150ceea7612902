"""How well a mixture describes frames, and how its components are used.

All in float64: these numbers are compared with those of other programs, so they must not depend on
the kernel that a fit takes.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmmpipe.mixture.fast_joints import JointBlock
from gmmpipe.mixture.mixture import Mixture, expand
from gmmpipe.mixture.returned_joints import joint_blocks
from gmmpipe.mixture.statistics import Statistics

_NUM_TOTALS = 6


@dataclass(frozen=True)
class UsageSums:
    """Sums over frames, float64, which add up over ranks: views of one buffer.

    Args:
        counts: frames whose most likely component is k, [K].
        totals: frames, Σ ln p(x), Σ (ln p(x))², Σ H(p(k|x)), Σ max_k p(k|x) and the
            frames with H(p(k|x)) above ln 2, which is 1 bit, [6].
    """

    counts: Tensor
    totals: Tensor

    @staticmethod
    def size(num_components: int) -> int:
        """Numbers in the buffer."""
        return num_components + _NUM_TOTALS

    @classmethod
    def view(cls, flat: Tensor) -> "UsageSums":
        """The sums in `flat`, [K + 6], which they share."""
        return cls(*torch.split(flat, [len(flat) - _NUM_TOTALS, _NUM_TOTALS]))

    def add(self, block: JointBlock) -> tuple[Tensor, Tensor]:
        """Add frames.

        Returns:
            Their posteriors, float64 [n, K], and the most likely component of each, int64 [n].
        """
        joints = block.joints
        labels = joints.argmax(1)
        posteriors = torch.softmax(joints, 1)
        # ln p(x) = ln p(k, x) - ln p(k|x) for any k, without a second pass of exponentials.
        best = labels[:, None]
        scores = (joints.gather(1, best) - posteriors.gather(1, best).log())[:, 0]
        # A weight of 0 gives -inf, and 0 times that would be NaN.
        finite = joints.clamp_min(torch.finfo(joints.dtype).min)
        entropies = scores - (posteriors * finite).sum(1)
        offset = block.offset
        scores = scores + (offset[:, 0] if isinstance(offset, Tensor) else offset)
        # Not by bincount, which would wait for a GPU.
        self.counts.index_add_(0, labels, torch.ones_like(scores))
        self.totals[0] += len(joints)
        uncertain = (entropies > math.log(2)).double()
        parts = (
            *(scores, scores.square(), entropies.clamp_min_(0.0)),
            *(posteriors.amax(1), uncertain),
        )
        self.totals[1:] += torch.stack([part.double().sum() for part in parts])
        return posteriors.double(), labels

    def measures(self) -> dict[str, float]:
        """alive, nll, posterior_entropy, uncertain_share and usage_entropy.

        alive: components that are some frame's most likely one. nll and posterior_entropy are in
        nats a frame, means over at least one frame. uncertain_share: of the frames, those with a
        posterior entropy above 1 bit. usage_entropy: H of the components' shares of the frames,
        each frame given to its most likely one, over ln K (1 for K = 1).
        """
        frames, score, _, entropy, _, uncertain = self.totals.tolist()
        most = math.log(len(self.counts))
        return {
            "alive": int((self.counts > 0).sum()),
            "nll": -score / frames,
            "posterior_entropy": entropy / frames,
            "uncertain_share": uncertain / frames,
            "usage_entropy": self.entropy / most if most else 1.0,
        }

    @property
    def alive_counts(self) -> Tensor:
        """The frame counts of the components that are alive."""
        return self.counts[self.counts > 0]

    @property
    def entropy(self) -> float:
        """H of the components' shares of the frames, nats."""
        shares = self.alive_counts / self.totals[0]
        return -float((shares * shares.log()).sum())


@dataclass(frozen=True)
class UpdateSums:
    """What an update's metrics are made of; sums over frames, float64, which add up over ranks.

    Args:
        flat: the buffer that the others are views of, [K + 7].
        usage: see `UsageSums`.
        distance: Σ_n Σ_k p(k|x)·|x - mean_k|², [1].
    """

    flat: Tensor
    usage: UsageSums
    distance: Tensor

    @classmethod
    @torch.no_grad()
    def over(cls, frames: Tensor, mixture: Mixture) -> "UpdateSums":
        """The sums over `frames` [N, D]; N may be 0."""
        size = UsageSums.size(mixture.num_components)
        flat = torch.zeros(size + 1, dtype=torch.float64, device=frames.device)
        usage, distance = torch.split(flat, [size, 1])
        sums = cls(flat, UsageSums.view(usage), distance)
        means = mixture.means.double()
        square_norms = means.square().sum(1)
        for block in joint_blocks(mixture, frames):
            posteriors, _ = sums.usage.add(block)
            # |x - mean|² weighted by posteriors that sum to 1.
            weighted = posteriors @ means
            squares = block.frames.square().sum() - 2 * (block.frames * weighted).sum()
            distance += squares + (posteriors @ square_norms).sum()
        return sums

    def measures(self) -> dict[str, float]:
        """What `UsageSums.measures` says, and balance_cv and intra_cluster_dist.

        balance_cv: unbiased standard deviation over mean of the frame counts of the components
        that are alive.
        """
        alive = self.usage.alive_counts
        spread = float(alive.std()) if len(alive) > 1 else 0.0
        return {
            **self.usage.measures(),
            "balance_cv": spread / float(alive.mean()),
            "intra_cluster_dist": float(self.distance) / float(self.usage.totals[0]),
        }


@dataclass(frozen=True)
class EvaluationSums:
    """What an evaluation is made of; sums over frames, float64, which add up over ranks.

    Args:
        statistics: of the frames, centred by 0; all the sums are views of its flat buffer.
        usage: see `UsageSums`.
    """

    statistics: Statistics
    usage: UsageSums

    @classmethod
    def zeros(cls, num_components: int, dim: int, device: torch.device) -> "EvaluationSums":
        """Sums over no frames."""
        extra = UsageSums.size(num_components)
        origin = torch.zeros(dim, dtype=torch.float64, device=device)
        statistics = Statistics.zeros(num_components, origin, extra, torch.float64)
        return cls(statistics, UsageSums.view(statistics.extra))

    @torch.no_grad()
    def add(self, frames: Tensor, mixture: Mixture) -> Tensor:
        """Add `frames` [N, D] under a mixture; returns the most likely component of each, [N].

        Memory beside the result does not grow with N. The statistics are a product in float64 on
        every device, because variances cancel in them.
        """
        origin = self.statistics.center
        labels = torch.empty(len(frames), dtype=torch.int64, device=frames.device)
        for block in joint_blocks(mixture, frames):
            wide = block.frames
            expanded = expand(wide, origin, wide.new_empty(len(wide), 2 * len(origin)))
            posteriors, labels[block.rows] = self.usage.add(block)
            self.statistics.add(posteriors, expanded)
        return labels

    def measures(self) -> dict[str, float]:
        """What `gmmpipe evaluate` says after one pass over the frames.

        nll_stderr: the standard error of the nll, which takes the frames for independent.
        usage_perplexity: exp H of the shares of frames that the components are the most likely
        ones of, between 1 and alive. max_posterior: mean of the largest posterior. See
        `UsageSums.measures` for the others.
        """
        frames, score, squares, _, largest, _ = self.usage.totals.tolist()
        variance = max(0.0, squares - score * score / frames) / max(1.0, frames - 1)
        return {
            **self.usage.measures(),
            "nll_stderr": math.sqrt(variance / frames),
            "usage_perplexity": math.exp(self.usage.entropy),
            "max_posterior": largest / frames,
        }


def shape_measures(mixture: Mixture) -> dict[str, float]:
    """weight_entropy, avg/min/max_var and inter_cluster_dist, from the parameters alone.

    weight_entropy: H(weights) / ln K (1 for K = 1: as even as one weight can be).
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

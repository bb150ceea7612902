"""How a mixture scores frames, how its components are used, and what an EM step would gain.

All in float64: these numbers are for comparing with others, so they must not depend on the kernel.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmmpipe.mixture.metrics import posteriors_of
from gmmpipe.mixture.mixture import Mixture, expand
from gmmpipe.mixture.statistics import Statistics

_NUM_TOTALS = 5


@dataclass(frozen=True)
class EvaluationSums:
    """Sums over frames, float64, which add up over ranks.

    Args:
        statistics: of the frames, centred by 0; all the sums are views of its flat buffer.
        counts: frames whose most likely component is k, [K].
        totals: frames, Σ ln p(x), Σ (ln p(x))², Σ H(p(k|x)) and Σ max_k p(k|x), [5].
    """

    statistics: Statistics
    counts: Tensor
    totals: Tensor

    @classmethod
    def zeros(cls, num_components: int, dim: int, device: torch.device) -> "EvaluationSums":
        """Sums over no frames."""
        extra = num_components + _NUM_TOTALS
        statistics = Statistics.zeros(num_components, dim, device, extra, torch.float64)
        counts, totals = torch.split(statistics.extra, [num_components, _NUM_TOTALS])
        return cls(statistics, counts, totals)

    @torch.no_grad()
    def add(self, frames: Tensor, mixture: Mixture) -> None:
        """Add `frames` [N, D] under a mixture, in memory that does not grow with N."""
        origin = torch.zeros(mixture.dim, dtype=torch.float64, device=frames.device)
        for _, block, joints in mixture.log_joints(frames):
            labels, scores, posteriors, entropies = posteriors_of(joints)
            expanded = expand(block, origin, block.new_empty(len(block), 2 * len(origin)))
            self.statistics.add(posteriors, expanded)
            self.counts.add_(torch.bincount(labels, minlength=len(self.counts)))
            self.totals[0] += len(block)
            parts = (scores, scores.square(), entropies, posteriors.amax(1))
            self.totals[1:] += torch.stack([part.sum() for part in parts])

    def measures(self) -> dict[str, float]:
        """nll, nll_stderr, alive, usage_perplexity, posterior_entropy and max_posterior.

        nll, its standard error and the entropy are in nats a frame, means over at least one frame;
        the standard error takes the frames for independent. Usage is by hard assignment, as in
        alive, the components that are some frame's most likely one: usage_perplexity is exp H of
        their shares of the frames, between 1 and alive.
        """
        frames, score, squares, entropy, largest = self.totals.tolist()
        variance = max(0.0, squares - score * score / frames) / max(1.0, frames - 1)
        usage = self.counts[self.counts > 0] / frames
        return {
            "nll": -score / frames,
            "nll_stderr": math.sqrt(variance / frames),
            "alive": len(usage),
            "usage_perplexity": math.exp(-float((usage * usage.log()).sum())),
            "posterior_entropy": entropy / frames,
            "max_posterior": largest / frames,
        }

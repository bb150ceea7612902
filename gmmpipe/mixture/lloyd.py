"""k-means as a mixture of unit variances and equal weights, fitted by mini-batch Lloyd."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from gmmpipe.mixture.em import StepwiseEM
from gmmpipe.mixture.hard_statistics import HardStatisticsKernel
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.mixture.model_file import check_tensor
from gmmpipe.mixture.optimizer import MakeKernel
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.mixture.statistics import Statistics

_MIN_COUNT = 1e-9
"""A centre whose running count fades below this keeps its place, so that no quotient underflows."""

_DEAD_SHARE = 1e-3
"""A centre is dead where it has less than this part of an even share of the frames."""

_NEW_SHARE = 1e-2
"""A centre that begins anew counts as one of this part of an even share."""


class MiniBatchLloyd(StepwiseEM):
    """Mini-batch k-means: stepwise EM whose posteriors are 0 and 1, and which moves means alone.

    A step takes s ← (1 - rate) s + rate ŝ, where ŝ are the counts and sums of its frames by their
    nearest centre, and puts each centre where the mean of s is. With a rate that falls more slowly
    than 1 / t, early assignments fade, which the per-centre averages of Bottou and Bengio (1995)
    and Sculley (2010) never forget.

    Args:
        sums: s at the start, [K, D + 1] as of `HardStatisticsKernel`, of as many frames as a step
            has.
        var_floor: kept for the model file; all variances are 1.
    """

    make_kernel: ClassVar[MakeKernel] = HardStatisticsKernel

    def step(
        self, statistics: Statistics, parameters: Parameters, *scalars: float | Tensor
    ) -> None:
        """A step of Lloyd; the scalar is that of `StepwiseEM.step`."""
        (rate,) = scalars
        self._sums.lerp_(statistics.sums, rate)
        counts = self._sums[:, -1:]
        means = self._sums[:, :-1] / counts.clamp_min(_MIN_COUNT)
        parameters.means.copy_(torch.where(counts > _MIN_COUNT, means, parameters.means))

    @classmethod
    def check_state(cls, state: dict[str, Any], num_components: int, dim: int, steps: int) -> None:
        """See `Optimizer.check_state`."""
        sums = check_tensor("sums", state["sums"], (num_components, dim + 1), torch.float64)
        if (sums[:, -1] < 0).any():
            raise ValueError("its counts are negative")

    def dead_centers(self) -> Tensor:
        """The numbers of the centres that next to no frame is nearest to, int64."""
        counts = self._sums[:, -1]
        return (counts < _DEAD_SHARE * counts.mean()).nonzero()[:, 0]

    def move_centers(self, numbers: Tensor, frames: Tensor, parameters: Parameters) -> None:
        """Begin centres anew at `frames` [n, D], with little to hold them there."""
        count = _NEW_SHARE * self._sums[:, -1].mean()
        parameters.means[numbers] = frames
        self._sums[numbers, :-1] = frames.double() * count
        self._sums[numbers, -1] = count


def unit_parameters(centers: Tensor) -> Parameters:
    """The mixture of unit variances and equal weights whose likeliest component is the nearest.

    Args:
        centers: [K, D].
    """
    log_weights = centers.new_full((len(centers),), -math.log(len(centers)))
    return Parameters.of(Mixture(centers, torch.zeros_like(centers), log_weights))

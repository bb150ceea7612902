"""Sufficient statistics by two matrix products a block, and no pass beside them but a softmax.

A frame is expanded to [x - c, (x - c)², 1, 1, 0 ...]. The ones take the bias along in the first
product, in two parts, and one of them the counts in the second. A row of zeros is no frame:
whatever its posteriors, it adds to no sum. So a GPU may do steps of a fixed number of rows. Legend:
`gmmpipe.mixture.mixture`.
"""

import torch
from torch import Tensor

from gmmpipe.mixture.mixture import Mixture, expand
from gmmpipe.mixture.statistics import StatisticsKernel

_ALIGNED = 8
"""A row has a multiple of as many columns: 32 bytes, which a GPU reads at once."""
_LEAST_BIAS = -1e30


class FusedStatisticsKernel(StatisticsKernel):
    """Sums all pairs of a frame and a component; for a GPU, whose host it never makes wait.

    Args:
        num_components, center, extra, block: see `StatisticsKernel`.
    """

    def __init__(
        self, num_components: int, center: Tensor, extra: int = 0, block: int | None = None
    ) -> None:
        super().__init__(num_components, center, extra, block)
        used = 2 * len(center) + 2
        columns = used + -used % _ALIGNED
        self._expanded = center.new_zeros(len(self._expanded), columns, dtype=torch.float32)
        self._map = center.new_zeros(num_components, columns, dtype=torch.float32)

    def _expand(self, frames: Tensor, weights: Tensor | None) -> Tensor:
        center = self.statistics.center
        expand(frames.float(), center, self._expanded)
        rows = self._expanded[: len(frames)]
        rows[:, 2 * len(center) : 2 * len(center) + 2] = 1.0
        if weights is not None:
            rows.mul_(weights[:, None])
        return rows

    def _affine_map(self, mixture: Mixture) -> tuple[Tensor, Tensor]:
        matrix, bias = super()._affine_map(mixture)
        width = matrix.shape[1]
        self._map[:, :width] = matrix
        self._map[:, width : width + 2] = split_bias(bias)
        return self._map, bias

    def _add(self, expanded: Tensor, matrix: Tensor, bias: Tensor) -> None:
        sums = self.statistics.sums.t()
        for block in torch.split(expanded, len(self._joints)):
            joints = self._joints[: len(block)]
            torch.mm(block, matrix.t(), out=joints)
            torch.softmax(joints, 1, out=joints)
            sums.addmm_(block[:, : len(sums)].t(), joints)


def split_bias(bias: Tensor) -> Tensor:
    """Two numbers that sum to each bias [K], the first of 10 bits: [K, 2].

    TF32 keeps 10 bits of a float32's 23, so that of a bias of a thousand nats it would lose one;
    of these two it loses next to nothing. -inf becomes finite, so that 0 times it is 0.
    """
    finite = bias.clamp_min(_LEAST_BIAS)
    high = finite.view(torch.int32).bitwise_and(-(1 << 13)).view(torch.float32)
    return torch.stack([high, finite - high], 1)

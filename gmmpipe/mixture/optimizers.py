"""Steps on sufficient statistics: the exact gradient with Adam, and the M-step of EM."""

import math
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from gmmpipe.mixture.parameters import Parameters
from gmmpipe.mixture.statistics import Statistics

_MIN_COUNT = 1e-3
"""A component with less responsibility than this many frames keeps its place in an M-step."""


def nll_gradient(
    statistics: Statistics, parameters: Parameters, center: Tensor, num_frames: int, out: Parameters
) -> None:
    """Gradient of the mean negative log-likelihood, from sufficient statistics.

    With n = Σ r, S = Σ r x, Q = Σ r x² and p = exp(-log var), centred (Bishop 2006, section 9.2):

        ∂/∂mean_k    = -p (S - n mean) / N
        ∂/∂log_var_k = -[p (Q - 2 mean S + n mean²) - n] / 2N
        ∂/∂logit_k   = w_k - n_k / N

    Args:
        statistics: of `num_frames` frames, over all ranks.
        parameters: at which the statistics were taken.
        center: [D], what the statistics are centred by.
        num_frames: N.
        out: receives the gradient.
    """
    dim = len(center)
    counts = statistics.counts[:, None]
    moments = statistics.moments.contiguous()
    first, second = moments[:, :dim], moments[:, dim:]
    means = parameters.means - center
    precisions = torch.exp(-parameters.log_vars)
    residual = first - counts * means
    torch.mul(precisions, residual, out=out.means).mul_(-1.0 / num_frames)
    spread = second - means * (first + residual)  # Q - 2 mean S + n mean²
    torch.sub(counts, precisions * spread, out=out.log_vars).mul_(0.5 / num_frames)
    torch.sub(
        parameters.mixture.log_weights.exp(),
        statistics.counts,
        alpha=1.0 / num_frames,
        out=out.logits,
    )


class Optimizer(Protocol):
    """A way to step a mixture by the statistics of some frames."""

    def step(
        self,
        statistics: Statistics,
        parameters: Parameters,
        center: Tensor,
        num_frames: int,
        rate: float,
    ) -> None:
        """Move `parameters`, in place, to where the statistics that were taken at them point.

        Args:
            statistics: of `num_frames` frames, over all ranks.
            parameters: at which they were taken; no variance is left below the floor.
            center: [D], what the statistics are centred by; the same at every step.
            num_frames: how many; the same at every step.
            rate: how far to go.
        """

    def state_dict(self) -> dict[str, Any]:
        """What `from_state` needs to go on exactly: tensors on the CPU and plain numbers."""

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> Self:
        """An optimizer that goes on from `state_dict`'s state."""


class Adam:
    """Adam (Kingma and Ba 2015) on the exact gradient, with a scale a coordinate.

    The step count is an int: torch.optim's float32 one stands still at 2^24, less than the steps
    of 50,000 hours.

    Args:
        scale: what a learning rate of 1 means for each coordinate, like the parameters' buffer.
        var_floor: lower bound of a variance.
    """

    BETAS = (0.9, 0.999)
    EPSILON = 1e-8

    def __init__(self, scale: Tensor, var_floor: float) -> None:
        self._scale = scale
        self._var_floor = var_floor
        self._gradient = torch.zeros_like(scale)
        self._first = torch.zeros_like(scale)
        self._second = torch.zeros_like(scale)
        self._count = 0

    def step(
        self,
        statistics: Statistics,
        parameters: Parameters,
        center: Tensor,
        num_frames: int,
        rate: float,
    ) -> None:
        """A step of Adam; `rate` is the learning rate. See `Optimizer.step`."""
        gradient = Parameters.view(self._gradient, *parameters.means.shape)
        nll_gradient(statistics, parameters, center, num_frames, out=gradient)
        self.descend(parameters.flat, gradient.flat, rate)
        parameters.log_vars.clamp_(min=math.log(self._var_floor))

    def descend(self, values: Tensor, gradient: Tensor, lr: float) -> None:
        """Move `values` against `gradient`, in place."""
        beta1, beta2 = self.BETAS
        self._count += 1
        self._first.lerp_(gradient, 1 - beta1)
        self._second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        rate = lr / (1 - beta1**self._count)
        root = (self._second / (1 - beta2**self._count)).sqrt_().add_(self.EPSILON)
        values.addcdiv_(self._first * self._scale, root, value=-rate)

    def state_dict(self) -> dict[str, Any]:
        """What `from_state` needs to go on exactly: tensors on the CPU and plain numbers."""
        tensors = {"scale": self._scale, "first": self._first, "second": self._second}
        return {
            **{name: value.cpu() for name, value in tensors.items()},
            "count": self._count,
            "var_floor": self._var_floor,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> Self:
        """An optimizer that goes on from `state_dict`'s state."""
        adam = cls(state["scale"].to(device), state["var_floor"])
        adam._first.copy_(state["first"])
        adam._second.copy_(state["second"])
        adam._count = int(state["count"])
        return adam


class StepwiseEM:
    """Stepwise EM (Cappé and Moulines 2009; Liang and Klein 2009), on statistics that fade.

    A step takes s ← (1 - rate) s + rate ŝ, ŝ being the statistics of its frames, and then the
    M-step from s. In float64, for Q / n - mean² cancels and the rounding of many steps adds up.

    Args:
        sums: s at the start, [K, 2D + 1] as `Statistics.sums`, of as many frames as a step has.
        var_floor: lower bound of a variance.
    """

    def __init__(self, sums: Tensor, var_floor: float) -> None:
        num_components, dim = len(sums), sums.shape[1] // 2
        self._running = Statistics.zeros(num_components, dim, sums.device, dtype=torch.float64)
        self._running.sums.copy_(sums)
        self._var_floor = var_floor

    def step(
        self,
        statistics: Statistics,
        parameters: Parameters,
        center: Tensor,
        num_frames: int,
        rate: float,
    ) -> None:
        """A step of EM; `rate` is the weight of the latest statistics. See `Optimizer.step`."""
        self._running.sums.lerp_(statistics.sums.double(), rate)
        m_step(self._running, parameters, center, self._var_floor)

    def state_dict(self) -> dict[str, Any]:
        """What `from_state` needs to go on exactly: tensors on the CPU and plain numbers."""
        return {"sums": self._running.sums.cpu(), "var_floor": self._var_floor}

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> Self:
        """An optimizer that goes on from `state_dict`'s state."""
        return cls(state["sums"].to(device), state["var_floor"])


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "em": StepwiseEM}


def m_step(
    statistics: Statistics,
    parameters: Parameters,
    center: Tensor,
    var_floor: float,
    min_count: float = _MIN_COUNT,
) -> None:
    """Maximise the expected complete likelihood (Dempster, Laird and Rubin 1977), in place.

    Components of at most `min_count` keep their place; weights are the normalised counts.
    """
    dim = len(center)
    counts = statistics.counts.clamp_min(min_count)[:, None]
    alive = (statistics.counts > min_count)[:, None]
    means = statistics.moments[:, :dim] / counts
    variances = (statistics.moments[:, dim:] / counts - means.square()).clamp_min_(var_floor)
    parameters.means.copy_(torch.where(alive, means + center, parameters.means))
    parameters.log_vars.copy_(torch.where(alive, variances.log_(), parameters.log_vars))
    parameters.logits.copy_(torch.log_softmax(counts[:, 0].log(), 0))

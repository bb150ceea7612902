"""Adam on the exact gradient of the likelihood, which follows from the sufficient statistics."""

import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from gmmpipe.mixture.floors import on_device
from gmmpipe.mixture.kernels import statistics_kernel
from gmmpipe.mixture.model_file import check_count, check_tensor
from gmmpipe.mixture.optimizer import MakeKernel, StepConstants
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.mixture.statistics import Statistics


class Adam:
    """Adam (Kingma and Ba 2015) on the exact gradient, with a scale for each coordinate.

    The learning rate of a fit falls along a cosine within each update. The step count is an int:
    torch.optim's, a float32, stands still at 2^24, and a fit may take more steps than that.

    Args:
        scale: what a learning rate of 1 means for each coordinate, like the parameters' buffer.
        constants: of each step; the learning rate is that at the start of each update.
    """

    BETAS = (0.9, 0.999)
    EPSILON = 1e-8
    FINAL_LR_FRACTION = 0.01
    MIN_SCALE = 1e-3

    make_kernel: ClassVar[MakeKernel] = staticmethod(statistics_kernel)

    def __init__(self, scale: Tensor, constants: StepConstants) -> None:
        self._scale, self._constants = scale, constants
        floor = torch.as_tensor(constants.var_floor, dtype=torch.float64)
        self._log_floor = floor.log().to(scale)
        self._gradient = torch.zeros_like(scale)
        self._first = torch.zeros_like(scale)
        self._second = torch.zeros_like(scale)
        self._count = 0

    @classmethod
    def start(cls, parameters: Parameters, sample: Tensor, constants: StepConstants) -> Self:
        """Without moments; means move in units of the sample's spread. See `Optimizer.start`."""
        scale = Parameters.view(torch.ones_like(parameters.flat), *parameters.means.shape)
        scale.means.copy_(sample.std(0, correction=0).clamp_min(cls.MIN_SCALE))
        return cls(scale.flat, constants)

    def rate_at(self, steps_before: int, progress: float) -> float:
        """A cosine within each update, from `lr` at its first step to a hundredth at its last."""
        high = self._constants.lr
        low = high * self.FINAL_LR_FRACTION
        return low + (high - low) * 0.5 * (1 + math.cos(math.pi * progress))

    def scalars_at(self, steps_before: int, progress: float, ahead: int = 0) -> tuple[float, float]:
        """The learning rate and the second moment, corrected for their bias, as of `corrected`."""
        return self.corrected(self.rate_at(steps_before, progress), ahead)

    def corrected(self, lr: float, ahead: int = 0) -> tuple[float, float]:
        """The learning rate over the first moment's bias, and the second moment's bias."""
        beta1, beta2 = self.BETAS
        count = self._count + ahead + 1
        return lr / (1 - beta1**count), 1 - beta2**count

    def step(
        self, statistics: Statistics, parameters: Parameters, *scalars: float | Tensor
    ) -> None:
        """A step of Adam; `scalars` are those of `corrected`. See `Optimizer.step`."""
        gradient = Parameters.view(self._gradient, *parameters.means.shape)
        nll_gradient(statistics, parameters, self._constants.frames, out=gradient)
        self.descend(parameters.flat, gradient.flat, *scalars)
        torch.clamp_min(parameters.log_vars, self._log_floor, out=parameters.log_vars)

    def descend(
        self, values: Tensor, gradient: Tensor, rate: float | Tensor, bias: float | Tensor
    ) -> None:
        """Move `values` against `gradient`, in place; `rate` and `bias` are as of `corrected`."""
        beta1, beta2 = self.BETAS
        self._first.lerp_(gradient, 1 - beta1)
        self._second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (self._second / bias).sqrt_().add_(self.EPSILON)
        values.sub_((self._first * self._scale).mul_(rate).div_(root))

    def count_steps(self, number: int = 1) -> None:
        """See `Optimizer.count_steps`."""
        self._count += number

    def tensors(self) -> list[Tensor]:
        """The scale and both moments."""
        return [self._scale, self._first, self._second]

    def state_dict(self) -> dict[str, Any]:
        """What `from_state` needs to go on exactly: tensors on the CPU and plain numbers."""
        return {
            "scale": self._scale.cpu(),
            "first": self._first.cpu(),
            "second": self._second.cpu(),
            "count": self._count,
            "var_floor": on_device(self._constants.var_floor, "cpu"),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], constants: StepConstants) -> Self:
        """An optimizer that goes on from `state_dict`'s state. See `Optimizer.from_state`."""
        adam = cls(state["scale"].to(constants.center.device), constants)
        adam._first.copy_(state["first"])
        adam._second.copy_(state["second"])
        adam._count = int(state["count"])
        return adam

    @classmethod
    def check_state(cls, state: dict[str, Any], num_components: int, dim: int, steps: int) -> None:
        """See `Optimizer.check_state`."""
        for name in ("scale", "first", "second"):
            check_tensor(name, state[name], (num_components * (2 * dim + 1),))
        check_count("count", state["count"], 0, steps)
        if (state["second"] < 0).any() or (state["scale"] <= 0).any():
            raise ValueError("its moments or scale are negative")


def nll_gradient(
    statistics: Statistics, parameters: Parameters, num_frames: int, out: Parameters
) -> None:
    """Gradient of the mean negative log-likelihood, from sufficient statistics.

    With n = Σ r, S = Σ r x, Q = Σ r x² and p = exp(-log var), centred (Bishop 2006, section 9.2):

        ∂/∂mean_k    = -p (S - n mean) / N
        ∂/∂log_var_k = -[p (Q - 2 mean S + n mean²) - n] / 2N
        ∂/∂logit_k   = w_k - n_k / N

    Args:
        statistics: of `num_frames` frames, over all ranks.
        parameters: at which the statistics were taken.
        num_frames: N.
        out: receives the gradient.
    """
    dim = len(statistics.center)
    counts = statistics.counts[:, None]
    moments = statistics.moments.contiguous()
    first, second = moments[:, :dim], moments[:, dim:]
    means = parameters.means - statistics.center
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

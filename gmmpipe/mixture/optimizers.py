"""Steps on sufficient statistics: the exact gradient with Adam, and the M-step of EM.

A lower bound of the variances, `VarFloor`, is one number, or float64 [D] with a bound for each
dimension.
"""

import math
from dataclasses import replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from gmmpipe.mixture.kernels import statistics_kernel
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.mixture.model_file import check_count, check_tensor
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.mixture.statistics import Statistics

VarFloor = float | Tensor

_MIN_COUNT = 1e-3
"""A component whose posteriors sum to less than this many frames keeps its place in an M-step."""

_COUNT_OFFSET = 10 * torch.finfo(torch.float64).eps


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
    """A way to step a mixture by the statistics of some frames.

    It owns its start, its rate and the check of its state. A fit only says how far it is.
    """

    @classmethod
    def start(
        cls,
        parameters: Parameters,
        sample: Tensor,
        center: Tensor,
        *,
        frames_per_step: int,
        lr: float,
        var_floor: VarFloor,
    ) -> Self:
        """The optimizer before the first step of a fit.

        Args:
            parameters: where the fit starts.
            sample: [S, D], the frames that those were seeded from.
            center: [D], what the statistics of each step are centred by.
            frames_per_step: frames of a step, over all ranks.
            lr: the learning rate, for an optimizer that has one.
            var_floor: lower bound of the variances.
        """

    def rate_at(self, steps_before: int, progress: float) -> float:
        """How far a step of a fit goes.

        Args:
            steps_before: steps of the whole fit before this one.
            progress: how far the step's update is, from 0 at its first step to 1 at its last.
        """

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

    def tensors(self) -> list[Tensor]:
        """The tensors of its state, for all ranks to take from one at the start."""

    def state_dict(self) -> dict[str, Any]:
        """What `from_state` needs to go on exactly: tensors on the CPU and plain numbers."""

    @classmethod
    def from_state(cls, state: dict[str, Any], lr: float, device: torch.device) -> Self:
        """An optimizer that goes on from `state_dict`'s state, at the same learning rate."""

    @classmethod
    def check_state(cls, state: dict[str, Any], num_components: int, dim: int, steps: int) -> None:
        """Make sure that a state is one that this optimizer can have come to.

        Args:
            state: as of `state_dict`, from a file.
            num_components, dim: K and D of the mixture.
            steps: of the whole fit so far.

        Raises:
            ValueError: it is not; the message says why.
            KeyError: it lacks something.
        """


class Adam:
    """Adam (Kingma and Ba 2015) on the exact gradient, with a scale for each coordinate.

    The learning rate of a fit falls along a cosine within each update. The step count is an int:
    torch.optim's float32 one stands still at 2^24, less than the steps of 50,000 hours.

    Args:
        scale: what a learning rate of 1 means for each coordinate, like the parameters' buffer.
        var_floor: lower bound of the variances.
        lr: the learning rate at the start of each update.
    """

    BETAS = (0.9, 0.999)
    EPSILON = 1e-8
    FINAL_LR_FRACTION = 0.01
    MIN_SCALE = 1e-3

    def __init__(self, scale: Tensor, var_floor: VarFloor, lr: float) -> None:
        self._scale = scale
        self._var_floor = var_floor
        log_floor = var_floor.log() if isinstance(var_floor, Tensor) else math.log(var_floor)
        self._log_floor = _bound(log_floor, scale)
        self._lr = lr
        self._gradient = torch.zeros_like(scale)
        self._first = torch.zeros_like(scale)
        self._second = torch.zeros_like(scale)
        self._count = 0

    @classmethod
    def start(
        cls,
        parameters: Parameters,
        sample: Tensor,
        center: Tensor,
        *,
        frames_per_step: int,
        lr: float,
        var_floor: VarFloor,
    ) -> Self:
        """Without moments; means move in units of the sample's spread. See `Optimizer.start`."""
        scale = Parameters.view(torch.ones_like(parameters.flat), *parameters.means.shape)
        scale.means.copy_(sample.std(0, correction=0).clamp_min(cls.MIN_SCALE))
        return cls(scale.flat, var_floor, lr)

    def rate_at(self, steps_before: int, progress: float) -> float:
        """A cosine within each update, from `lr` at its first step to a hundredth at its last."""
        low = self._lr * self.FINAL_LR_FRACTION
        return low + (self._lr - low) * 0.5 * (1 + math.cos(math.pi * progress))

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
        torch.clamp_min(parameters.log_vars, self._log_floor, out=parameters.log_vars)

    def descend(self, values: Tensor, gradient: Tensor, lr: float) -> None:
        """Move `values` against `gradient`, in place."""
        beta1, beta2 = self.BETAS
        self._count += 1
        self._first.lerp_(gradient, 1 - beta1)
        self._second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        rate = lr / (1 - beta1**self._count)
        root = (self._second / (1 - beta2**self._count)).sqrt_().add_(self.EPSILON)
        values.addcdiv_(self._first * self._scale, root, value=-rate)

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
            "var_floor": _stored(self._var_floor),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], lr: float, device: torch.device) -> Self:
        """An optimizer that goes on from `state_dict`'s state, at the same learning rate."""
        adam = cls(state["scale"].to(device), state["var_floor"], lr)
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


class StepwiseEM:
    """Stepwise EM (Cappé and Moulines 2009; Liang and Klein 2009), on statistics that fade.

    A step takes s ← (1 - rate) s + rate ŝ, where ŝ are the statistics of its frames, and then the
    M-step from s. In float64, for Q / n - mean² cancels and the rounding of many steps adds up.

    Args:
        sums: s at the start, [K, 2D + 1] as `Statistics.sums`, of as many frames as a step has.
        var_floor: lower bound of the variances.
    """

    RATE_OFFSET = 100
    RATE_POWER = 0.7

    def __init__(self, sums: Tensor, var_floor: VarFloor) -> None:
        num_components, dim = len(sums), sums.shape[1] // 2
        self._running = Statistics.zeros(num_components, dim, sums.device, dtype=torch.float64)
        self._running.sums.copy_(sums)
        self._var_floor = var_floor
        self._bound = _bound(var_floor, self._running.flat)

    @classmethod
    def start(
        cls,
        parameters: Parameters,
        sample: Tensor,
        center: Tensor,
        *,
        frames_per_step: int,
        lr: float,
        var_floor: VarFloor,
    ) -> Self:
        """With the sample's statistics, scaled to a step's frames. See `Optimizer.start`."""
        kernel = statistics_kernel(len(parameters.means), center)
        sums = kernel(sample, parameters.mixture).sums.double()
        return cls(sums * (frames_per_step / len(sample)), var_floor)

    def rate_at(self, steps_before: int, progress: float) -> float:
        """The weight of a step's statistics among the running ones; it falls over all updates."""
        return math.pow(steps_before + self.RATE_OFFSET, -self.RATE_POWER)

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
        m_step(self._running, parameters, center, self._bound)

    def tensors(self) -> list[Tensor]:
        """The running statistics."""
        return [self._running.flat]

    def state_dict(self) -> dict[str, Any]:
        """What `from_state` needs to go on exactly: tensors on the CPU and plain numbers."""
        return {"sums": self._running.sums.cpu(), "var_floor": _stored(self._var_floor)}

    @classmethod
    def from_state(cls, state: dict[str, Any], lr: float, device: torch.device) -> Self:
        """An optimizer that goes on from `state_dict`'s state; it has no learning rate."""
        return cls(state["sums"].to(device), state["var_floor"])

    @classmethod
    def check_state(cls, state: dict[str, Any], num_components: int, dim: int, steps: int) -> None:
        """See `Optimizer.check_state`."""
        check_tensor("sums", state["sums"], (num_components, 2 * dim + 1), torch.float64)


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "em": StepwiseEM}


def m_step(
    statistics: Statistics,
    parameters: Parameters,
    center: Tensor,
    var_floor: VarFloor,
    min_count: float = _MIN_COUNT,
) -> None:
    """Maximise the expected complete likelihood (Dempster, Laird and Rubin 1977), in place.

    Components of at most `min_count` keep their place; weights are the normalised counts.
    """
    dim = len(center)
    counts = statistics.counts.clamp_min(min_count)[:, None]
    alive = (statistics.counts > min_count)[:, None]
    means = statistics.moments[:, :dim] / counts
    variances = at_least(statistics.moments[:, dim:] / counts - means.square(), var_floor)
    parameters.means.copy_(torch.where(alive, means + center, parameters.means))
    parameters.log_vars.copy_(torch.where(alive, variances.log_(), parameters.log_vars))
    parameters.logits.copy_(torch.log_softmax(counts[:, 0].log(), 0))


def em_step(statistics: Statistics, mixture: Mixture, var_floor: VarFloor) -> Mixture:
    """The mixture after one exact EM step with a lower bound of the variances, float64.

    As in scikit-learn, each count is raised by ten machine epsilons. So a component whose counts
    are nothing but underflow ends with no weight to speak of, wherever that puts it.

    Args:
        statistics: of all frames under the mixture, float64, centred by 0.
        mixture: what the step begins from.
        var_floor: lower bound of the variances, above 0.
    """
    parameters = Parameters.of(mixture, torch.float64)
    raised = replace(statistics, sums=statistics.sums.clone())
    raised.counts.add_(_COUNT_OFFSET)
    m_step(raised, parameters, torch.zeros_like(parameters.means[0]), var_floor, min_count=0.0)
    return parameters.mixture


def at_least(variances: Tensor, var_floor: VarFloor) -> Tensor:
    """`variances` [K, D], none of them below the floor."""
    return torch.clamp_min(variances, _bound(var_floor, variances))


def hold_above(var_floor: VarFloor) -> VarFloor:
    """The bound to hold variances to, so that no rounding takes one below `var_floor`.

    What rounds is a float32 logarithm and its exponential. True of floors from
    `gmmpipe.mixture.var_floor.MIN_VAR_FLOOR` to 1e13.
    """
    return var_floor * (1 + 2**-19)


def _bound(value: VarFloor, like: Tensor) -> Tensor:
    """A bound as a tensor of the dtype, and on the device, of what it bounds."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def _stored(var_floor: VarFloor) -> VarFloor:
    return var_floor.cpu() if isinstance(var_floor, Tensor) else var_floor

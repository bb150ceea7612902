"""EM from sufficient statistics: the M-step, a whole step, and stepwise EM."""

import math
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from gmmpipe.mixture.floors import VarFloor, at_least, on_device
from gmmpipe.mixture.kernels import statistics_kernel
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.mixture.model_file import check_tensor
from gmmpipe.mixture.optimizer import MakeKernel, StepConstants
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.mixture.statistics import Statistics

_MIN_COUNT = 1e-3
"""A component whose posteriors sum to less than this many frames keeps its place in an M-step."""

_COUNT_OFFSET = 10 * torch.finfo(torch.float64).eps


class StepwiseEM:
    """Stepwise EM (Cappé and Moulines 2009; Liang and Klein 2009), on statistics that fade.

    A step takes s ← (1 - rate) s + rate ŝ, where ŝ are the statistics of its frames, and then the
    M-step from s. s is in float64, because Q / n - mean² cancels and rounding adds up over steps.

    Args:
        sums: s at the start, [K, 2D + 1] as `Statistics.sums`, of as many frames as a step has.
        var_floor: lower bound of the variances.
    """

    RATE_OFFSET = 100
    RATE_POWER = 0.7

    make_kernel: ClassVar[MakeKernel] = staticmethod(statistics_kernel)

    def __init__(self, sums: Tensor, var_floor: VarFloor) -> None:
        self._sums = sums.double().t().clone(memory_format=torch.contiguous_format).t()
        self._var_floor = var_floor

    @classmethod
    def start(cls, parameters: Parameters, sample: Tensor, constants: StepConstants) -> Self:
        """With the sample's statistics, scaled to a step's frames. See `Optimizer.start`."""
        kernel = cls.make_kernel(len(parameters.means), constants.center)
        sums = kernel(sample, parameters.mixture).sums.double()
        return cls(sums * (constants.frames / len(sample)), constants.var_floor)

    def rate_at(self, steps_before: int, progress: float) -> float:
        """The weight of a step's statistics among the running ones; it falls over all updates."""
        return math.pow(steps_before + self.RATE_OFFSET, -self.RATE_POWER)

    def scalars_at(self, steps_before: int, progress: float, ahead: int = 0) -> tuple[float]:
        """The rate alone: no step counts those before it."""
        return (self.rate_at(steps_before, progress),)

    def count_steps(self, number: int = 1) -> None:
        """See `Optimizer.count_steps`."""

    def step(
        self, statistics: Statistics, parameters: Parameters, *scalars: float | Tensor
    ) -> None:
        """A step of EM; the scalar is the weight of the latest statistics. See `Optimizer.step`."""
        (rate,) = scalars
        self._sums.lerp_(statistics.sums.double(), rate)
        m_step(replace(statistics, sums=self._sums), parameters, self._var_floor)

    def tensors(self) -> list[Tensor]:
        """The running statistics."""
        return [self._sums.t()]

    def state_dict(self) -> dict[str, Any]:
        """What `from_state` needs to go on exactly: tensors on the CPU and plain numbers."""
        return {"sums": self._sums.cpu(), "var_floor": on_device(self._var_floor, "cpu")}

    @classmethod
    def from_state(cls, state: dict[str, Any], constants: StepConstants) -> Self:
        """An optimizer that goes on from `state_dict`'s state. See `Optimizer.from_state`."""
        return cls(state["sums"].to(constants.center.device), constants.var_floor)

    @classmethod
    def check_state(cls, state: dict[str, Any], num_components: int, dim: int, steps: int) -> None:
        """See `Optimizer.check_state`."""
        check_tensor("sums", state["sums"], (num_components, 2 * dim + 1), torch.float64)


def m_step(
    statistics: Statistics,
    parameters: Parameters,
    var_floor: VarFloor,
    min_count: float = _MIN_COUNT,
) -> None:
    """Maximise the expected complete likelihood (Dempster, Laird and Rubin 1977), in place.

    Components of at most `min_count` keep their place; weights are the normalised counts.
    """
    center = statistics.center
    counts = statistics.counts.clamp_min(min_count)[:, None]
    alive = (statistics.counts > min_count)[:, None]
    means = statistics.moments[:, : len(center)] / counts
    variances = at_least(statistics.moments[:, len(center) :] / counts - means.square(), var_floor)
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
    m_step(raised, parameters, var_floor, min_count=0.0)
    return parameters.mixture

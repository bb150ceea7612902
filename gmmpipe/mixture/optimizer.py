"""`Optimizer`: what each way to fit a mixture by statistics does."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from gmmpipe.mixture.floors import VarFloor
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.mixture.statistics import Statistics


@dataclass(frozen=True)
class StepConstants:
    """What is the same at every step of a fit.

    Args:
        center: [D], what statistics are centred by; fixes the device.
        frames: frames of a step, over all ranks.
        lr: the learning rate, for an optimizer that has one.
        var_floor: lower bound of the variances.
    """

    center: Tensor
    frames: int
    lr: float
    var_floor: VarFloor


class Kernel(Protocol):
    """What sums the statistics of a step's frames; see `gmmpipe.mixture.statistics`."""

    statistics: Statistics

    def __call__(self, frames: Tensor, mixture: Mixture) -> Statistics:
        """Statistics of `frames` [N, D] under a mixture, in place of the previous ones."""

    def load(self, frames: Tensor, weights: Tensor | None = None) -> None:
        """Take the frames of the next `sum_loaded`, and do what needs no mixture yet.

        Args:
            frames: [N, D].
            weights: 1 for each frame that counts and 0 for one that adds to no sum, float32 [N];
                None where all count. For a GPU alone.
        """

    def sum_loaded(self, mixture: Mixture) -> Statistics:
        """Statistics of the frames that were loaded, in place of the previous ones."""


class MakeKernel(Protocol):
    """Makes a kernel."""

    def __call__(
        self, num_components: int, center: Tensor, extra: int = 0, kind: str | None = None
    ) -> Kernel:
        """The kernel for K components, a center [D], and `extra` numbers that travel along.

        `kind` is one of those that there are, or None for the fastest.
        """


class Optimizer(Protocol):
    """A way to step a mixture by the statistics of some frames.

    It owns its start, its rate and the check of its state, and says which statistics it needs. A
    fit only says how far it is. What differs from step to step are a few scalars, known long
    before: so a GPU can have those of coming steps at hand.
    """

    make_kernel: ClassVar[MakeKernel]

    @classmethod
    def start(cls, parameters: Parameters, sample: Tensor, constants: StepConstants) -> Self:
        """The optimizer before the first step of a fit.

        Args:
            parameters: where the fit starts.
            sample: [S, D], the frames that those were seeded from.
            constants: of each step.
        """

    def rate_at(self, steps_before: int, progress: float) -> float:
        """How far a step of a fit goes.

        Args:
            steps_before: steps of the whole fit before this one.
            progress: how far the step's update is, from 0 at its first step to 1 at its last.
        """

    def scalars_at(self, steps_before: int, progress: float, ahead: int = 0) -> tuple[float, ...]:
        """The scalars of a step that is to come, of which the first is how far it goes.

        Args:
            steps_before, progress: as of `rate_at`.
            ahead: how many steps are to be counted before it.
        """

    def step(
        self, statistics: Statistics, parameters: Parameters, *scalars: float | Tensor
    ) -> None:
        """Move `parameters`, in place, to where the statistics that were taken at them point.

        It is counted by `count_steps`, not here, where a GPU may do it long after.

        Args:
            statistics: of the frames of a step, over all ranks.
            parameters: at which they were taken; no variance is left below the floor.
            scalars: as of `scalars_at`, or float64 tensors [] of them on the device.
        """

    def count_steps(self, number: int = 1) -> None:
        """Count steps that were taken; a negative number takes some back."""

    def tensors(self) -> list[Tensor]:
        """The tensors of its state, for all ranks to take from one at the start."""

    def state_dict(self) -> dict[str, Any]:
        """What `from_state` needs to go on exactly: tensors on the CPU and plain numbers."""

    @classmethod
    def from_state(cls, state: dict[str, Any], constants: StepConstants) -> Self:
        """An optimizer that goes on from `state_dict`'s state.

        Args:
            state: as of `state_dict`.
            constants: as of `start`.
        """

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

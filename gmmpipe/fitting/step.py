"""One step of a fit: draw frames, take their statistics, exchange them, move the mixture.

`gmmpipe.fitting.gpu_step` is the same for a GPU.
"""

from collections.abc import Callable

from gmmpipe.fitting.checkpoint import FitState
from gmmpipe.fitting.schedule import Schedule, Update, is_loss_step
from gmmpipe.fitting.update_reader import HeldFrames
from gmmpipe.run.repeated_sum import RepeatedSum
from gmmpipe.run.world import World

STOP, LOSS = 0, 1  # places in the numbers that travel with a step's statistics


class Stepper:
    """Takes the steps of a fit on a CPU, with buffers that are allocated once.

    Args:
        schedule: which frames a step draws.
        state: what the steps move.
        world: the ranks that share a step's frames.
        stopping: whether this rank was asked to stop.
        kernel: what sums the statistics, one of `KERNELS`; None for the fastest.
    """

    def __init__(
        self,
        schedule: Schedule,
        state: FitState,
        world: World,
        stopping: Callable[[], bool],
        kernel: str | None = None,
    ) -> None:
        self._schedule = schedule
        self._state = state
        self._world = world
        self._stopping = stopping
        self._kernel = state.optimizer.make_kernel(
            len(state.parameters.means), state.center, extra=2, kind=kernel
        )
        self._sums = RepeatedSum(world, self._kernel.statistics.flat)
        self._loaded: tuple[Update, int] | None = None  # which step `_frames` are of
        self._frames = state.center.new_empty(0, len(state.center))

    def step(self, update: Update, held: HeldFrames) -> bool:
        """Take the next step of `update`; whether all ranks are to stop after it.

        Args:
            update: the update under way.
            held: this rank's frames of it.
        """
        state, step, num_frames = self._state, self._state.step, self._schedule.frames_per_step
        mixture = state.parameters.mixture
        self._sums.announce()
        if self._loaded != (update, step):
            self._load(update, step, held)
        statistics = self._kernel.sum_loaded(mixture)
        if is_loss_step(step):
            statistics.extra[LOSS] += mixture.nll_sum(self._frames)
        statistics.extra[STOP] = float(self._stopping())
        self._sums.start()
        if step + 1 < update.num_steps:  # while the sums travel
            self._load(update, step + 1, held)
        self._sums.wait()
        scalars = state.optimizer.scalars_at(
            self._schedule.steps_before(update, step), self._schedule.progress(update, step)
        )
        state.optimizer.step(statistics, state.parameters, *scalars)
        state.optimizer.count_steps()
        if is_loss_step(step):
            state.loss_sum += float(statistics.extra[LOSS]) / num_frames
            state.loss_count += 1
        state.step += 1
        return bool(statistics.extra[STOP] > 0)

    def close(self) -> None:
        """There is nothing to let go of."""

    def _load(self, update: Update, step: int, held: HeldFrames) -> None:
        """Draw this rank's frames of a step, and do with them what needs no mixture yet."""
        self._frames = held.select(self._schedule.step_frames(update, step))
        self._kernel.load(self._frames)
        self._loaded = update, step

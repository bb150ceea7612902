"""The steps of a fit on a GPU: a graph of one step is replayed, and the host only says when.

Between the steps whose loss is evaluated, the host reads nothing back and sends next to nothing. A
step's draws and scalars are on the device before it (`gmmpipe.fitting.draw_blocks`), all memory is
taken, and the exchange with the other ranks is part of the graph.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gmmpipe.errors import RankGoneError
from gmmpipe.fitting.checkpoint import FitState
from gmmpipe.fitting.draw_blocks import DrawBlocks, most_frames
from gmmpipe.fitting.schedule import Schedule, Update, is_loss_step
from gmmpipe.fitting.step import LOSS, STOP
from gmmpipe.fitting.update_reader import HeldFrames
from gmmpipe.mixture.matmul import Precision, matmul_precision
from gmmpipe.mixture.statistics import Statistics
from gmmpipe.run.repeated_sum import RepeatedSum
from gmmpipe.run.world import World

log = logging.getLogger(__name__)
_TOLERANCE = 1e-3
"""How far a replayed step may be from the same step as it comes: the mean distance over the mean
move. Both are expected to be the same bits."""


class GpuStepper:
    """Takes the steps of a fit on a GPU, with memory that is taken once.

    Args:
        schedule, state, world, stopping, kernel: see `Stepper`.
        matmul: the precision of the statistics' matrix products.
        replaying: whether steps are replayed from a graph.
    """

    def __init__(
        self,
        schedule: Schedule,
        state: FitState,
        world: World,
        stopping: Callable[[], bool],
        kernel: str | None = None,
        matmul: Precision = "highest",
        *,
        replaying: bool = True,
    ) -> None:
        self._schedule = schedule
        self._state = state
        self._world = world
        self._stopping = stopping
        self._matmul = matmul
        self._replaying = replaying
        self._kernel = state.optimizer.make_kernel(
            len(state.parameters.means), state.center, extra=2, kind=kernel
        )
        self._sums = RepeatedSum(world, self._kernel.statistics.flat)
        self._no_frames = state.center.new_zeros(1, len(state.center))
        self._blocks: DrawBlocks | None = None
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}  # by where an update's frames lie
        self._seen = _Values.of(state)

    def step(self, update: Update, held: HeldFrames) -> bool:
        """Take the next step of `update`; whether all ranks are to stop after it.

        Where a rank is gone, the state is again that of the last step of the update that was waited
        for, or of its start.
        """
        if self._state.step == 0:
            self._seen = _Values.of(self._state)
        try:
            return self._step(update, held)
        except RankGoneError:
            self.close()
            self._world.break_off()
            self._seen.put_back(self._state)
            raise

    def close(self) -> None:
        """Let go of the graphs: NCCL ends no group of which there is a graph that holds a sum."""
        self._graphs.clear()

    def _step(self, update: Update, held: HeldFrames) -> bool:
        state, step = self._state, self._state.step
        blocks = self._blocks_for(update)
        blocks.seek(update, step)
        frames = held.frames if len(held.frames) else self._no_frames
        statistics = None
        if is_loss_step(step):
            statistics = self._take(blocks, frames, blocks.num_drawn(step))
        elif self._replaying and update.num_frames >= self._world.size:
            # Else some rank has no frames, and so other graphs than the others.
            self._replay(blocks, frames)
        else:
            self._take(blocks, frames)
        state.optimizer.count_steps()
        state.step += 1
        if statistics is None and state.step < update.num_steps:
            return self._world.size == 1 and self._stopping()  # a rank alone needs no flag
        self._world.wait_for_device()
        stops = False
        if statistics:
            state.loss_sum += float(statistics.extra[LOSS]) / self._schedule.frames_per_step
            state.loss_count += 1
            stops = bool(statistics.extra[STOP] > 0)
        self._seen = _Values.of(state)
        return stops

    def _blocks_for(self, update: Update) -> DrawBlocks:
        """Blocks whose rows are long enough for an update."""
        num_frames = most_frames(self._schedule, update, self._world)
        if self._blocks is None or self._blocks.num_frames < num_frames:
            self._graphs.clear()  # they read the shorter ones
            self._blocks = DrawBlocks(
                self._schedule, self._state.optimizer, self._world, num_frames
            )
        return self._blocks

    def _take(
        self,
        blocks: DrawBlocks,
        frames: Tensor,
        num_measured: int | None = None,
        recorded: bool = False,
    ) -> Statistics:
        """Take a step, or let a graph record it.

        Args:
            blocks: have its draws.
            frames: those that this rank holds.
            num_measured: how many of the step's frames the loss is of; None where it is not asked.
            recorded: whether a graph records it.
        """
        state, draws, row = self._state, blocks.draws, blocks.row
        drawn = frames.index_select(0, draws.numbers.index_select(0, row)[0])
        weights = None if draws.weights is None else draws.weights.index_select(0, row)[0]
        mixture = state.parameters.mixture
        self._kernel.load(drawn, weights)
        with matmul_precision(self._matmul):
            statistics = self._kernel.sum_loaded(mixture)
        if num_measured is not None:
            statistics.extra[LOSS] += mixture.nll_sum(drawn[:num_measured])
            statistics.extra[STOP].fill_(float(self._stopping()))
        self._sums.start(recorded)
        self._sums.wait()
        scalars = draws.scalars.index_select(0, row)[0].unbind()
        state.optimizer.step(statistics, state.parameters, *scalars)
        row.add_(1)
        return statistics

    def _replay(self, blocks: DrawBlocks, frames: Tensor) -> None:
        """Take a step from the graph of these frames, which is recorded the first time."""
        place = frames.data_ptr()
        if place in self._graphs:
            self._graphs[place].replay()
            return
        proven = bool(self._graphs)
        before = [*_tensors(self._state), blocks.row]
        kept = [tensor.clone() for tensor in before]
        if not proven:
            self._take(blocks, frames)
            self._world.wait_for_device()  # who records waits for it too, without a time limit
            as_it_comes = [tensor.clone() for tensor in before]
            _restore(before, kept)
        # Together: a graph that one rank lacks would wait for it for ever.
        recorded = not self._world.any(not self._record(blocks, frames), short=True)
        if recorded:
            self._graphs[place].replay()
            if proven:
                return
            self._world.wait_for_device()
            if not self._world.any(_differ(before, as_it_comes, kept), short=True):
                return
        log.warning(
            "warning: a CUDA graph of a step %s; each step is launched by itself, which is slower",
            "gives other values" if recorded else "cannot be recorded",
        )
        self._replaying = False
        self._graphs.clear()
        if proven:
            _restore(before, kept)
            self._take(blocks, frames)
        else:
            _restore(before, as_it_comes)

    def _record(self, blocks: DrawBlocks, frames: Tensor) -> bool:
        """Have a graph of a step of these frames, which takes none; whether that was possible."""
        try:
            graph = torch.cuda.CUDAGraph()
            # A capture that fails may leave its stream as the current one. Other threads, which
            # send the next update, may go on beside.
            with (
                torch.cuda.stream(torch.cuda.current_stream(self._world.device)),
                torch.cuda.graph(graph, capture_error_mode="thread_local"),
            ):
                self._take(blocks, frames, recorded=True)
        except RuntimeError as error:
            log.debug("no graph: %s", error)
            return False
        self._graphs[frames.data_ptr()] = graph
        return True


@dataclass(frozen=True)
class _Values:
    """What a fit was after a step, to go back to within the same update."""

    tensors: list[Tensor]
    step: int
    loss_sum: float
    loss_count: int

    @classmethod
    def of(cls, state: FitState) -> "_Values":
        tensors = [tensor.clone() for tensor in _tensors(state)]
        return cls(tensors, state.step, state.loss_sum, state.loss_count)

    def put_back(self, state: FitState) -> None:
        _restore(_tensors(state), self.tensors)
        state.optimizer.count_steps(self.step - state.step)
        state.step, state.loss_sum, state.loss_count = self.step, self.loss_sum, self.loss_count


def _tensors(state: FitState) -> list[Tensor]:
    """All that a step moves."""
    return [state.parameters.flat, *state.optimizer.tensors()]


def _restore(tensors: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _differ(found: list[Tensor], expected: list[Tensor], before: list[Tensor]) -> bool:
    """Whether tensors went elsewhere than expected, from where they were before."""
    near = [
        (one - other).abs().double().mean() <= _TOLERANCE * (other - start).abs().double().mean()
        for one, other, start in zip(found, expected, before, strict=True)
    ]
    return not torch.stack(near).all()  # NaN is near nothing

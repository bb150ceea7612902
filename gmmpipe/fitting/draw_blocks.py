"""The draws of coming steps on a GPU: sent there a block of steps at a time, before they are asked.

A step's frames and scalars are known long before it (`gmmpipe.fitting.schedule`). A thread of the
host computes those of the next block while the device takes the steps of this one. They go up from
pinned memory on a stream of their own, to a place beside, from which one copy on the device moves
them where all steps read.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmmpipe.fitting.schedule import Schedule, Update
from gmmpipe.mixture.optimizer import Optimizer
from gmmpipe.run.world import World

BLOCK_STEPS = 64
_BLOCK_FRAMES = 1 << 21
"""A block has fewer steps where they would draw more frames together: 16 MB of numbers."""
_POLL_SECONDS = 0.001


@dataclass(frozen=True)
class Draws:
    """The draws of a block of steps, B of them, with up to N frames of this rank in each.

    Args:
        numbers: of the frames, among those that the rank holds, int64 [B, N].
        weights: 1 for a frame, and 0 for what fills up a row, float32 [B, N]; None for a rank that
            is alone, whose steps have N frames each.
        scalars: what the optimizer needs of each step, float64 [B, P].
    """

    numbers: Tensor
    weights: Tensor | None
    scalars: Tensor

    @classmethod
    def empty(
        cls, num_steps: int, num_frames: int, num_scalars: int, padded: bool, **where: Any
    ) -> "Draws":
        """Memory for a block."""
        shape = (num_steps, num_frames)
        return cls(
            torch.zeros(shape, dtype=torch.int64, **where),
            torch.zeros(shape, dtype=torch.float32, **where) if padded else None,
            torch.zeros(num_steps, num_scalars, dtype=torch.float64, **where),
        )

    def tensors(self) -> list[Tensor]:
        """All that is sent."""
        return [one for one in (self.numbers, self.weights, self.scalars) if one is not None]

    def send_to(self, other: "Draws") -> None:
        """Overwrite another block, which the host does not wait for."""
        for mine, theirs in zip(self.tensors(), other.tensors(), strict=True):
            theirs.copy_(mine, non_blocking=True)


def most_frames(schedule: Schedule, update: Update, world: World) -> int:
    """N: how many frames of a step of `update` a rank may have at most, the same on all ranks.

    Ranks have equal shares of a step, within two frames.
    """
    if world.size == 1:
        return schedule.frames_per_step
    longest = -(-update.num_frames // world.size)
    share = schedule.frames_per_step * longest // update.num_frames
    return min(schedule.frames_per_step, share + 2)


class DrawBlocks:
    """Has the draws of the step that comes next on the device, in a row of `draws`.

    Args:
        schedule: which frames a step draws.
        optimizer: says what it needs of each step.
        world: which of the frames this rank holds.
        num_frames: N.
    """

    def __init__(
        self, schedule: Schedule, optimizer: Optimizer, world: World, num_frames: int
    ) -> None:
        self._schedule, self._optimizer, self._world = schedule, optimizer, world
        self.num_frames = num_frames
        num_scalars = len(optimizer.scalars_at(0, 0.0))
        self._num_steps = max(1, min(BLOCK_STEPS, _BLOCK_FRAMES // num_frames))
        size = (self._num_steps, num_frames, num_scalars, world.size > 1)
        self.draws = Draws.empty(*size, device=world.device)
        self.row = torch.zeros(1, dtype=torch.int64, device=world.device)
        self._beside = Draws.empty(*size, device=world.device)
        self._pinned = Draws.empty(*size, pin_memory=True)
        self._arrays = [one.numpy() for one in self._pinned.tensors()]
        self._counts: dict[int, int] = {}
        self._stream = torch.cuda.Stream(world.device)  # type: ignore[no-untyped-call]
        self._sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(1, "draws")
        self._block: tuple[Update, int] | None = None
        self._next: Future[None] | None = None

    def seek(self, update: Update, step: int) -> None:
        """Let the row of `draws` be that of this step; the one after it follows by adding 1."""
        first = step - step % self._num_steps
        if self._block == (update, first):
            self._send_next()
            return
        if (
            self._block is None
            or self._block[0] != update
            or first != self._block[1] + self._num_steps
        ):
            self._finish()
            self._begin(update, step)
        self._send_next(wait=True)
        compute = torch.cuda.current_stream(self._world.device)
        compute.wait_stream(self._stream)
        self._beside.send_to(self.draws)
        self.row.fill_(step - first)
        self._block = update, first
        if first + self._num_steps < update.num_steps:
            self._begin(update, first + self._num_steps, ahead=first + self._num_steps - step)

    def num_drawn(self, step: int) -> int:
        """How many frames this rank has in a step of the block: the first of its row."""
        return self._counts[step]

    def _finish(self) -> None:
        """Wait for what is computed and will not be used."""
        if self._next:
            self._next.result()
            self._next = None

    def _begin(self, update: Update, step: int, ahead: int = 0) -> None:
        """Start to compute the draws of a block, from `step` on, which is so many steps ahead."""
        last = min(step - step % self._num_steps + self._num_steps, update.num_steps)
        # Here, while the optimizer's count of steps stands still.
        scalars = [
            self._optimizer.scalars_at(
                self._schedule.steps_before(update, number),
                self._schedule.progress(update, number),
                ahead + number - step,
            )
            for number in range(step, last)
        ]
        self._next = self._thread.submit(self._compute, update, step, scalars)

    def _compute(self, update: Update, step: int, scalars: list[tuple[float, ...]]) -> None:
        """Fill the pinned memory, once the copy from it is done."""
        while not self._sent.query():  # type: ignore[no-untyped-call]
            time.sleep(_POLL_SECONDS)
        numbers, *weights, all_scalars = self._arrays
        start, stop = update.rank_slice(self._world.rank, self._world.size)
        for number, of_step in enumerate(scalars, step):
            row = number % self._num_steps
            drawn = self._schedule.step_frames(update, number)
            begin, end = np.searchsorted(drawn, (start, stop))
            count = int(end - begin)
            np.subtract(drawn[begin:end], start, out=numbers[row, :count])
            numbers[row, count:] = 0
            for one in weights:
                one[row, :count], one[row, count:] = 1, 0
            all_scalars[row] = of_step
            self._counts[number] = count

    def _send_next(self, wait: bool = False) -> None:
        """Send the block that was computed, if it was, on a stream of its own."""
        if self._next is None or not (wait or self._next.done()):
            return
        self._next.result()
        self._next = None
        # What it goes to was copied on by then.
        self._stream.wait_stream(torch.cuda.current_stream(self._world.device))
        with torch.cuda.stream(self._stream):
            self._pinned.send_to(self._beside)
            self._sent.record(self._stream)

"""A fit on fake CUDA, to count what its steps ask of the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from gmmpipe.fitting.checkpoint import FitState
from gmmpipe.fitting.gpu_step import GpuStepper
from gmmpipe.fitting.initial_state import seed_state
from gmmpipe.fitting.options import FitOptions
from gmmpipe.fitting.schedule import LOSS_EVERY_STEPS, Schedule
from gmmpipe.fitting.update_reader import HeldFrames
from gmmpipe.run.world import World


class CalmWorld(World):
    """One rank that never stops or fails: what its flag on the device says is not known here."""

    def any(self, flag: bool, *, short: bool = False) -> bool:
        """What this rank says."""
        return flag


WORLD = CalmWorld(0, 1, torch.device("cuda", 0))
FITS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam"},
    "em": {"optimizer": "em"},
    "kmeans": {"model": "kmeans"},
}
"""The options of every way to fit."""


@contextmanager
def fake_ranks(size: int) -> Iterator[World]:
    """The last rank of so many, whose exchanges take no partner: torch's ``fake`` backend."""
    if size == 1:
        yield WORLD
        return
    dist.init_process_group("fake", store=FakeStore(), rank=size - 1, world_size=size)
    try:
        yield replace(WORLD, rank=size - 1, size=size, short=dist.new_group())
    finally:
        dist.destroy_process_group()


class FakeFit:
    """A fit of one update, before its first step; to be made within `fake_cuda`.

    Args:
        K, dim: of the mixture.
        frames: of the update.
        frames_per_step: of a step.
        steps: of the update.
        world: the ranks.
        options: further ones of the fit.
    """

    def __init__(
        self,
        K: int = 64,  # noqa: N803 (the option's name for it)
        dim: int = 80,
        frames: int = 8000,
        frames_per_step: int = 512,
        steps: int = 4 * LOSS_EVERY_STEPS,
        world: World = WORLD,
        **options: Any,
    ) -> None:
        self.options = FitOptions("store", Path("fit"), K=K, **options)
        self.schedule = Schedule(0, frames, frames, steps, frames_per_step)
        update = self.schedule.update_at(0, 0)
        assert update is not None
        self.update = update
        self.world = world
        start, stop = update.rank_slice(world.rank, world.size)
        stored = torch.zeros(stop - start, dim, dtype=torch.float16, device=world.device)
        self.held = HeldFrames(stored, start, stop)
        self.go_on_from(seed_state(self.options, self.schedule, update, self.held, world))

    def go_on_from(self, state: FitState) -> None:
        """Let the next step begin from this state."""
        self.state = state
        self.before = state.begin_update(self.update.stop)
        # Without data nothing can be recorded, so each step is launched by itself.
        self.stepper = GpuStepper(
            self.schedule, self.state, self.world, lambda: False, replaying=False
        )

    def step(self) -> None:
        """Take the next step."""
        self.stepper.step(self.update, self.held)

"""Which frames, and when: pure functions of the options and the position.

The frames of all epochs form one endless line (`gmmpipe.store.frame_order`). An update owns the
next B positions of it. Each of its steps draws one frame of each of equal parts of the update.
Ranks only cut an update into ranges, so any number of ranks sees the same data, and a fit's
position is three integers: frames done, update, step.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmpipe.randomness import sample, uniforms

LOSS_EVERY_STEPS = 50
SEEDING_FRAMES = 262_144
METRIC_FRAMES = 50_000


@dataclass(frozen=True)
class Update:
    """One update cycle: positions [start, stop) of the endless line, worked on for `num_steps`."""

    index: int
    start: int
    stop: int
    num_steps: int

    @property
    def num_frames(self) -> int:
        """How many frames the update owns."""
        return self.stop - self.start

    def rank_slice(self, rank: int, size: int) -> tuple[int, int]:
        """The part of the update's frames that a rank holds, as numbers within the update.

        The parts of all ranks cover every frame exactly once, whatever the size.
        """
        return self.num_frames * rank // size, self.num_frames * (rank + 1) // size


@dataclass(frozen=True)
class Schedule:
    """The rules of a fit.

    Args:
        seed: of every draw.
        update_frames: B, frames of a whole update, over all ranks.
        target_frames: where the fit ends; its last update may be shorter.
        steps_per_update: steps of a whole update; a shorter one takes its share, rounded up.
        frames_per_step: frames drawn for a step, over all ranks.
    """

    seed: int
    update_frames: int
    target_frames: int
    steps_per_update: int
    frames_per_step: int

    def update_at(self, frames: int, index: int) -> Update | None:
        """The update number `index`, begun after `frames` frames; None where the fit has ended."""
        if frames >= self.target_frames:
            return None
        count = min(self.update_frames, self.target_frames - frames)
        steps = math.ceil(self.steps_per_update * count / self.update_frames)
        return Update(index, frames, frames + count, steps)

    def after(self, update: Update) -> Update | None:
        """The update that follows."""
        return self.update_at(update.stop, update.index + 1)

    def steps_before(self, update: Update, step: int) -> int:
        """Steps of the whole fit before this one."""
        return update.index * self.steps_per_update + step

    def progress(self, update: Update, step: int) -> float:
        """How far a step is within its update: 0 at its first step, 1 at its last.

        A shorter last update has the end of a whole one's. Begun at a full learning rate, it would
        draw the mixture from all data so far to the few that it owns.
        """
        skipped = self.steps_per_update - update.num_steps
        return (skipped + step) / max(1, self.steps_per_update - 1)

    def step_frames(self, update: Update, step: int) -> NDArray[np.int64]:
        """The frames of a step, ascending: numbers within the update.

        One is drawn of each of `frames_per_step` equal parts of the update, so every frame is as
        likely as any other, and a rank holds its share of every step, within two frames.
        """
        drawn = uniforms(self.frames_per_step, "step", self.seed, update.index, step)
        places = (np.arange(self.frames_per_step) + drawn) * update.num_frames
        numbers = (places / self.frames_per_step).astype(np.int64)
        return np.minimum(numbers, update.num_frames - 1)  # a sum may have been rounded up

    def seeding_frames(self, update: Update) -> NDArray[np.int64]:
        """The sample that seeds the mixture, without replacement: numbers within the update."""
        return self._sample(update, SEEDING_FRAMES, "seeding")

    def metric_frames(self, update: Update) -> NDArray[np.int64]:
        """The sample that an update's metrics are taken on: numbers within the update."""
        return self._sample(update, METRIC_FRAMES, "metrics")

    def _sample(self, update: Update, size: int, purpose: str) -> NDArray[np.int64]:
        if update.num_frames <= size:
            return np.arange(update.num_frames, dtype=np.int64)
        return sample(update.num_frames, size, purpose, self.seed, update.index)


def is_loss_step(step: int) -> bool:
    """Whether the loss is evaluated at this step of an update."""
    return step % LOSS_EVERY_STEPS == 0


def crosses_multiple(before: int, after: int, of: int) -> bool:
    """Whether a multiple of `of` lies in (before, after]."""
    return before // of != after // of

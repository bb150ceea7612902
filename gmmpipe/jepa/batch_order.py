"""Which utterances make which batch: pure arithmetic, the same for any number of ranks.

The utterances of all epochs form one endless line, as a fit's frames do: each epoch permutes the
shards, and the utterances within their shard. An epoch of N utterances is cut into ceil(N / batch)
steps of equal size, give or take one utterance, so that no step is a small remainder. Consecutive
steps form a window. Its utterances are sorted by length, cut into batches, and the batches
shuffled. So finding any step takes the sidecars of one window's shards and nothing else.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmmpipe.randomness import permutation, uniforms
from gmmpipe.store.frame_order import FrameOrder

LENGTH_JITTER = 0.03
"""Lengths are raised by up to this share before they are sorted: else the same utterances would
meet in each epoch. It costs about half of itself in padding."""


@dataclass(frozen=True)
class Window:
    """Consecutive steps whose utterances are sorted by length together.

    Args:
        steps: their numbers on the endless line.
        shards: which shard each utterance of the window is of, int64 [n].
        positions: its position in that shard's index, int64 [n].
        bounds: where the batch of each step would begin and the last one ends, [steps + 1].
    """

    steps: range
    shards: NDArray[np.int64]
    positions: NDArray[np.int64]
    bounds: list[int]


class BatchOrder:
    """Steps on the endless line, as utterances.

    Args:
        utterances_per_shard: int64 [shards].
        batch_size: the most utterances of a step, over all ranks.
        window_utterances: how many are sorted by length together, about.
        seed: of every draw.
    """

    def __init__(
        self,
        utterances_per_shard: NDArray[np.int64],
        batch_size: int,
        window_utterances: int,
        seed: int,
    ) -> None:
        self._utterances_per_shard = utterances_per_shard
        self._seed = seed
        self._line = FrameOrder(utterances_per_shard, seed)  # "frames" are utterances here
        self._epoch_utterances = self._line.epoch_frames
        self._window_steps = max(1, window_utterances // batch_size)
        self.steps_per_epoch = -(-self._epoch_utterances // batch_size)

    @property
    def smallest_batch(self) -> int:
        """Utterances of the smallest step."""
        return self._epoch_utterances // self.steps_per_epoch

    def epoch_of(self, step: int) -> int:
        """The epoch that a step belongs to."""
        return step // self.steps_per_epoch

    def window_of(self, step: int) -> Window:
        """The window that a step belongs to; windows never reach across epochs."""
        epoch, within = divmod(step, self.steps_per_epoch)
        first = within - within % self._window_steps
        beyond = min(first + self._window_steps, self.steps_per_epoch)
        bounds = [
            self._epoch_utterances * at // self.steps_per_epoch for at in range(first, beyond + 1)
        ]
        begin = epoch * self._epoch_utterances
        shards, positions = [], []
        for part in self._line.ranges(begin + bounds[0], begin + bounds[-1]):
            count = int(self._utterances_per_shard[part.shard])
            order = self._line.utterance_order(part.epoch, part.shard, count)
            positions.append(order[part.start : part.stop])
            shards.append(np.full(part.stop - part.start, part.shard, dtype=np.int64))
        start = epoch * self.steps_per_epoch
        return Window(
            steps=range(start + first, start + beyond),
            shards=np.concatenate(shards),
            positions=np.concatenate(positions),
            bounds=[bound - bounds[0] for bound in bounds],
        )

    def batches(self, window: Window, num_frames: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The batch of each step of a window, as numbers of its utterances, shortest first.

        Args:
            window: of this order.
            num_frames: frames of each of its utterances, int64 [n].
        """
        purpose = (self._seed, window.steps.start)
        longer = 1.0 + LENGTH_JITTER * uniforms(len(num_frames), "batch lengths", *purpose)
        by_length = np.argsort(num_frames * longer, kind="stable")
        batches = np.split(by_length, window.bounds[1:-1])
        return [batches[at] for at in permutation(len(batches), "batches", *purpose).tolist()]

"""What a run of `fit` came to, and where its time went."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from gmmpipe.fitting.checkpoint import FitState
from gmmpipe.fitting.update_metrics import EVAL_COLUMN, read_row
from gmmpipe.fitting.update_reader import UpdateReader
from gmmpipe.run.world import World

log = logging.getLogger(__name__)


class Times:
    """Seconds, by what they were spent on."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._spent: dict[str, float] = {}

    @contextmanager
    def count(self, what: str) -> Iterator[None]:
        """Count the length of the block."""
        began = time.monotonic()
        yield
        self._spent[what] = self.spent(what) + time.monotonic() - began

    def spent(self, what: str) -> float:
        """Seconds spent on it so far."""
        return self._spent.get(what, 0.0)

    def total(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._began


@dataclass(frozen=True)
class FitSummary:
    """What a run of `fit` came to.

    Args:
        frames, updates: of the whole fit, with the runs before this one.
        nll: of the last update, nats a frame.
        eval_nll: the same on the held-out frames, if there were any.
        frames_read, frames_used: in this run, over all ranks.
        seconds: that this run took.
        seconds_reading: that the reader threads of all ranks were busy, while others fitted.
        seconds_seeding, seconds_fitting, seconds_waiting: what the first rank spent on it.
    """

    frames: int
    updates: int
    nll: float
    eval_nll: float | None
    frames_read: int
    frames_used: int
    seconds: float
    seconds_reading: float
    seconds_seeding: float
    seconds_fitting: float
    seconds_waiting: float

    def table(self) -> str:
        """The same as a table for people."""
        rows = [
            ("frames", f"{self.frames}"),
            ("  in this run", f"{self.frames_used}"),
            ("updates", f"{self.updates}"),
            ("seconds", f"{self.seconds:.1f}"),
            ("  reading, meanwhile", f"{self.seconds_reading:.1f}"),
            ("  seeding", f"{self.seconds_seeding:.1f}"),
            ("  fitting", f"{self.seconds_fitting:.1f}"),
            ("  waiting for frames", f"{self.seconds_waiting:.1f}"),
            ("frames a second", f"{self.frames_used / self.seconds:.0f}"),
            ("final nll", f"{self.nll:.4f}"),
        ]
        if self.eval_nll is not None:
            rows.append(("final eval_nll", f"{self.eval_nll:.4f}"))
        return "\n".join(f"{name:21} {value:>12}" for name, value in rows)


def count_frames(state: FitState, reader: UpdateReader, world: World) -> tuple[int, int]:
    """Frames read and used, over all ranks; a line of the log says what became of them."""
    counts = torch.tensor(
        [reader.frames_read, reader.frames_used], dtype=torch.int64, device=world.device
    )
    world.all_reduce(counts)
    frames_read, frames_used = (int(count) for count in counts)
    log.info(
        "frames: %d done in %d updates; %d read = %d used + %d dropped",
        state.frames,
        state.updates,
        frames_read,
        frames_used,
        frames_read - frames_used,
    )
    return frames_read, frames_used


def summarise(state: FitState, reader: UpdateReader, times: Times, world: World) -> FitSummary:
    """What a run that has ended came to; the log says it too."""
    frames_read, frames_used = count_frames(state, reader, world)
    reading = torch.tensor(reader.seconds_reading, device=world.device)
    world.all_reduce(reading)
    last = read_row(state.metrics[-1], state.model)
    summary = FitSummary(
        frames=state.frames,
        updates=state.updates,
        nll=last["nll"],
        eval_nll=last.get(EVAL_COLUMN),
        frames_read=frames_read,
        frames_used=frames_used,
        seconds=times.total(),
        seconds_reading=float(reading),
        seconds_seeding=times.spent("seeding"),
        seconds_fitting=times.spent("fitting"),
        seconds_waiting=times.spent("waiting"),
    )
    log.info("%s", summary.table())
    return summary

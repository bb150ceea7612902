"""What a run of `fit` came to."""

import logging
from dataclasses import dataclass

import torch

from gmmpipe.distributed import World
from gmmpipe.fit.checkpoint import FitState
from gmmpipe.fit.stream import UpdateStream
from gmmpipe.fit.update_metrics import METRIC_COLUMNS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitSummary:
    """What a run of `fit` came to; frames are counted over all ranks."""

    frames: int
    updates: int
    nll: float
    frames_read: int
    frames_used: int


def count_frames(state: FitState, stream: UpdateStream, world: World) -> tuple[int, int]:
    """Frames read and used, over all ranks; says what became of them."""
    counts = torch.tensor(
        [stream.frames_read, stream.frames_used], dtype=torch.int64, device=world.device
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


def summarise(
    state: FitState, stream: UpdateStream, world: World, seconds: float, seconds_seeding: float
) -> FitSummary:
    """Say and return what the run came to."""
    frames_read, frames_used = count_frames(state, stream, world)
    nll = float(state.metrics[-1].split("\t")[METRIC_COLUMNS.index("nll")])
    log.info(
        "seconds: %.1f in all, %.1f seeding, %.1f waiting for frames; final nll %.4f nats",
        seconds,
        seconds_seeding,
        stream.seconds_waiting,
        nll,
    )
    return FitSummary(state.frames, state.updates, nll, frames_read, frames_used)

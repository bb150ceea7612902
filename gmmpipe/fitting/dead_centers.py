"""Centres of k-means that no frame is nearest to begin anew at frames that are far from all."""

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmmpipe.fitting.checkpoint import FitState
from gmmpipe.fitting.schedule import Schedule, Update
from gmmpipe.fitting.update_reader import HeldFrames
from gmmpipe.mixture.hard_statistics import nearest_square_distances
from gmmpipe.mixture.lloyd import MiniBatchLloyd
from gmmpipe.randomness import uniforms
from gmmpipe.run.world import World

log = logging.getLogger(__name__)


def move_dead_centers(
    state: FitState, update: Update, held: HeldFrames, schedule: Schedule, world: World
) -> None:
    """Before the first step of an update of k-means, move its dead centres to frames of it.

    The frames are drawn from the update's sample, each as likely as its squared distance to its
    nearest centre is large (as in k-means++): far ones, and not a few that lie together. The draw
    is a function of the seed, the update and the distances, so it is the same on every rank, and
    for any number of ranks. Nothing is exchanged where no centre is dead.

    Args:
        state: changed in place; of any other model nothing is.
        update: about to begin.
        held: this rank's frames of it.
        schedule: says which frames are the sample.
        world: the ranks.
    """
    optimizer = state.optimizer
    if not isinstance(optimizer, MiniBatchLloyd):
        return
    dead = optimizer.dead_centers()
    if not len(dead):
        return
    numbers = schedule.metric_frames(update)
    distances = torch.zeros(len(numbers), 1, dtype=torch.float64, device=world.device)
    own = nearest_square_distances(held.select(numbers), state.parameters.mixture)
    _share(distances, own[:, None], numbers, held, world)
    # The first of independent exponential clocks of these rates: drawn without replacement.
    draws = uniforms(len(numbers), "dead centres", schedule.seed, update.index)
    with np.errstate(divide="ignore", invalid="ignore"):
        rings = -np.log1p(-draws) / distances[:, 0].cpu().numpy()
    order = np.argsort(rings, kind="stable")[: len(dead)]
    chosen = numbers[order[np.isfinite(rings[order])]]  # none where a centre is already
    frames = torch.zeros(len(chosen), held.frames.shape[1], device=world.device)
    _share(frames, held.select(chosen).float(), chosen, held, world)
    optimizer.move_centers(dead[: len(chosen)], frames, state.parameters)
    log.info("%d centres that had no frames moved", len(chosen))


def _share(
    whole: Tensor, own: Tensor, numbers: NDArray[np.int64], held: HeldFrames, world: World
) -> None:
    """Fill the rows of `whole`, one for each of the update's frames `numbers`, on all ranks.

    Args:
        whole: zeros.
        own: the rows of the frames that this rank holds, in their order.
        numbers, held, world: whose frames those are.
    """
    mine = torch.from_numpy((numbers >= held.start) & (numbers < held.stop))
    whole[mine.to(whole.device)] = own
    world.all_reduce(whole, short=True)  # a sum of one number and zeros

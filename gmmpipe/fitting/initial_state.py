"""The state that a fit starts from: seeded on a sample of the first update, equal on every rank."""

import logging

import torch
from torch import Tensor

from gmmpipe.fitting.checkpoint import FitState
from gmmpipe.fitting.options import FitOptions
from gmmpipe.fitting.schedule import Schedule, Update
from gmmpipe.fitting.update_reader import HeldFrames
from gmmpipe.mixture.floors import hold_above, variance_floor
from gmmpipe.mixture.optimizer import StepConstants
from gmmpipe.mixture.optimizers import optimizer_of
from gmmpipe.mixture.seeding import seed_centers, seed_mixture
from gmmpipe.run.world import World

log = logging.getLogger(__name__)


def seed_state(
    options: FitOptions, schedule: Schedule, update: Update, held: HeldFrames, world: World
) -> FitState:
    """The state before the first step: the same bits on every rank, for any number of ranks.

    Args:
        options: how many components, which optimizer, how to seed.
        schedule: says which frames are the sample.
        update: the first one.
        held: this rank's frames of it.
        world: the ranks; their frames are put together by one all-reduce.
    """
    numbers = schedule.seeding_frames(update)
    log.info("seeding %d components from %d frames", options.K, len(numbers))
    dim = held.frames.shape[1]
    sample = torch.zeros(len(numbers), dim, dtype=torch.float32, device=world.device)
    mine = torch.from_numpy((numbers >= held.start) & (numbers < held.stop))
    sample[mine.to(sample.device)] = held.select(numbers).float()
    world.all_reduce(sample)  # each frame is zero on all ranks but one
    floor = variance_floor(sample, options.var_floor)
    if isinstance(floor, Tensor):
        world.broadcast(floor)  # CUDA's sums may differ from rank to rank, here and below
    bound = hold_above(floor)
    seeded = seed_centers if options.model == "kmeans" else seed_mixture
    parameters = seeded(sample, options.K, bound, options.seed, options.init)
    world.broadcast(parameters.flat)
    center = sample.mean(0)
    world.broadcast(center)
    optimizer = optimizer_of(options.model, options.optimizer).start(
        parameters,
        sample,
        StepConstants(center, schedule.frames_per_step, options.lr, var_floor=bound),
    )
    for tensor in optimizer.tensors():
        world.broadcast(tensor)
    return FitState(parameters, optimizer, center, floor, options.model)

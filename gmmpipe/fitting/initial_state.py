"""Where a fit starts: seeding on a sample of the first update, the same on every rank."""

import logging

import torch
from torch import Tensor

from gmmpipe.fitting.checkpoint import FitState
from gmmpipe.fitting.options import FitOptions
from gmmpipe.fitting.schedule import Schedule, Update
from gmmpipe.fitting.update_reader import HeldFrames
from gmmpipe.mixture.optimizers import Adam, Optimizer, StepwiseEM
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.mixture.seeding import seed_mixture
from gmmpipe.mixture.statistics import StatisticsKernel
from gmmpipe.run.world import World

log = logging.getLogger(__name__)
_MIN_SCALE = 1e-3


def seed_state(
    options: FitOptions, schedule: Schedule, update: Update, held: HeldFrames, world: World
) -> FitState:
    """The state before the first step: the same bits on every rank, and on any number of them.

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
    world.all_reduce(sample)  # every row is zero on all ranks but one
    floor = _hold_above(options.var_floor)
    parameters = seed_mixture(sample, options.K, floor, options.seed, options.init)
    world.broadcast(parameters.flat)  # CUDA's sums may differ from rank to rank
    center = sample.mean(0)
    world.broadcast(center)
    optimizer = _new_optimizer(options, schedule, sample, center, parameters, world)
    return FitState(parameters, optimizer, center)


def _new_optimizer(
    options: FitOptions,
    schedule: Schedule,
    sample: Tensor,
    center: Tensor,
    parameters: Parameters,
    world: World,
) -> Optimizer:
    if options.optimizer == "em":
        statistics = StatisticsKernel(options.K, center)(sample, parameters.mixture)
        sums = statistics.sums.double() * (schedule.frames_per_step / len(sample))
        world.broadcast(sums)
        return StepwiseEM(sums, _hold_above(options.var_floor))
    scale = Parameters.view(torch.ones_like(parameters.flat), *parameters.means.shape)
    # Means move in units of the data's spread; log-variances and logits have none.
    scale.means.copy_(sample.std(0, correction=0).clamp_min(_MIN_SCALE))
    world.broadcast(scale.flat)
    return Adam(scale.flat, _hold_above(options.var_floor))


def _hold_above(var_floor: float) -> float:
    """The bound to hold variances to, so that no rounding takes one below `var_floor`.

    What rounds is a float32 logarithm and its exponential; true of floors from
    `gmmpipe.fitting.options.MIN_VAR_FLOOR` to 1e13.
    """
    return var_floor * (1 + 2**-19)

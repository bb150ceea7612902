#!/usr/bin/env python
"""Time of a fit step against the GEMMs in it, and against what autograd takes for the same.

A step draws frames, takes their statistics, and moves the mixture by Adam; that of k-means moves
its centres by mini-batch Lloyd. Its rivals are the bare
GEMMs (log joints and statistics of all pairs, in the fastest layout, nothing else), eager autograd
over the GEMM form of the density, and autograd over the N x K x D difference tensor, which is timed
on a part of the frames. All in one process, in turn; medians of the runs. The frames and the
mixture are made up, with as many likely components a frame as speech has; or give a store and a
mixture that was fitted to it. The time of a step on made-up frames of which every component is
likely shows what a step takes where no pair can be left out.

    python pipelines/benchmark/fit_step.py [--data_dir STORE --gmm_path GMM] [--frames 8192]
"""

import argparse
import math
from collections.abc import Callable

import torch
from common import add_row, median_seconds
from torch import Tensor

from gmmpipe import FeatureStore, GradientGMM
from gmmpipe.fitting.checkpoint import FitState
from gmmpipe.fitting.schedule import Schedule
from gmmpipe.fitting.step import Stepper
from gmmpipe.fitting.update_reader import HeldFrames
from gmmpipe.mixture.adam import Adam
from gmmpipe.mixture.likely_pairs import margin
from gmmpipe.mixture.lloyd import MiniBatchLloyd
from gmmpipe.mixture.mixture import Mixture, block_frames
from gmmpipe.mixture.optimizer import Optimizer, StepConstants
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.run.world import World

STORED_FRAMES = 200_000
DIFFERENCE_FRAMES = 256
VAR_FLOOR = 0.1
SPREAD = 0.47
"""Of made-up means: so many pairs count then as on speech. A tenth of it, and all of them do."""


def main() -> None:
    parser = argparse.ArgumentParser(description="a fit step against its GEMMs and autograd")
    parser.add_argument("--data_dir", help="a feature store; with --gmm_path")
    parser.add_argument("--gmm_path")
    parser.add_argument("--num_components", type=int, default=1024, help="of made-up mixtures")
    parser.add_argument("--dim", type=int, default=80)
    parser.add_argument("--frames", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.gmm_path:
        stored, parameters = load(options.data_dir, options.gmm_path)
    else:
        stored, parameters = make_up(options.num_components, options.dim, SPREAD)
    shape = parameters.means.shape
    flat, overlapping = make_up(*shape, SPREAD / 10)
    rivals: dict[str, Callable[[], object]] = {
        "step": make_step(stored, parameters.clone(), options.frames),
        "step, all pairs likely": make_step(flat, overlapping, options.frames),
        "step of k-means": make_step(stored, parameters.clone(), options.frames, MiniBatchLloyd),
        "bare GEMMs": make_gemms(options.frames, *shape),
        "autograd, GEMM form": make_autograd(
            stored[: options.frames].float(), parameters, gemm_joints
        ),
        "autograd, N x K x D": make_autograd(
            stored[:DIFFERENCE_FRAMES].float(), parameters, difference_joints
        ),
    }
    medians = median_seconds(rivals, options.runs)
    medians["autograd, N x K x D"] *= options.frames / DIFFERENCE_FRAMES
    step = medians["step"]
    print(f"{options.frames} frames, K = {shape[0]}, D = {shape[1]}, {options.threads} threads")
    print(f"{likely_pairs(stored[:2048], parameters.mixture):.1f} likely components a frame")
    for name, seconds in medians.items():
        print(f"{name:22} {1e3 * seconds:10.1f} ms {seconds / step:9.2f} of a step")
        if name != "step":
            add_row(f"K = {shape[0]}, D = {shape[1]}", "ms", 1e3 * step, name, 1e3 * seconds)


def load(data_dir: str, gmm_path: str) -> tuple[Tensor, Parameters]:
    """Shuffled frames of a store, in float16, and a mixture of them."""
    store, gmm = FeatureStore.open(data_dir), GradientGMM.load(gmm_path)
    frames = store.read_frames(0, min(STORED_FRAMES, store.num_frames)).half()
    return frames[torch.randperm(len(frames))], Parameters.of(gmm.mixture)


def make_up(
    num_components: int, dim: int, spread: float, num_frames: int = STORED_FRAMES
) -> tuple[Tensor, Parameters]:
    """A mixture with means `spread` apart, and frames of it."""
    mixture = Mixture(
        means=torch.randn(num_components, dim) * spread - 8,
        log_vars=torch.randn(num_components, dim) * spread - 1,
        log_weights=torch.full((num_components,), -math.log(num_components)),
    )
    chosen = torch.randint(num_components, (num_frames,))
    noise = torch.randn(num_frames, dim) * (0.5 * mixture.log_vars[chosen]).exp()
    return (mixture.means[chosen] + noise).half(), Parameters.of(mixture)


def likely_pairs(frames: Tensor, mixture: Mixture) -> float:
    """How many components of a frame are not left out, in the mean."""
    counts = [
        (joints > joints.amax(1, keepdim=True) - margin(joints.shape[1])).sum()
        for _, _, joints in mixture.log_joints(frames)
    ]
    return float(sum(counts)) / len(frames)


def make_step(
    stored: Tensor,
    parameters: Parameters,
    frames_per_step: int,
    method: type[Optimizer] = Adam,
) -> Callable[[], object]:
    """`gmmpipe.fitting`'s own step; every 50th takes the exact loss too, as in a fit."""
    schedule = Schedule(
        seed=0,
        update_frames=len(stored),
        target_frames=len(stored),
        steps_per_update=1_000,
        frames_per_step=frames_per_step,
    )
    update = schedule.update_at(0, 0)
    assert update is not None
    constants = StepConstants(stored.float().mean(0), frames_per_step, 1e-3, VAR_FLOOR)
    optimizer = method.start(parameters, stored[:16384].float(), constants)
    state = FitState(parameters, optimizer, constants.center, VAR_FLOOR)
    world = World(rank=0, size=1, device=torch.device("cpu"))
    stepper = Stepper(schedule, state, world, lambda: False)
    held = HeldFrames(stored, 0, len(stored))
    return lambda: stepper.step(update, held)


def make_gemms(num_frames: int, num_components: int, dim: int) -> Callable[[], object]:
    """The two GEMMs of a step and nothing else, in blocks that stay in the cache."""
    size = min(block_frames(torch.device("cpu")), num_frames)
    expanded, weights = torch.randn(size, 2 * dim), torch.randn(num_components, 2 * dim)
    posteriors = torch.empty(size, num_components)
    sums = torch.zeros(2 * dim, num_components)

    def gemms() -> None:
        for _ in range(-(-num_frames // size)):
            torch.mm(expanded, weights.t(), out=posteriors)
            sums.addmm_(expanded.t(), posteriors)

    return gemms


def make_autograd(
    frames: Tensor, parameters: Parameters, log_joints: Callable[..., Tensor]
) -> Callable[[], object]:
    """Loss, backward pass and torch's Adam, as one would write them."""
    tensors = [parameters.means, parameters.log_vars, parameters.logits]
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    optimizer = torch.optim.Adam(leaves, lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss = -torch.logsumexp(log_joints(frames, *leaves), 1).mean()
        loss.backward()
        optimizer.step()

    return step


def gemm_joints(frames: Tensor, means: Tensor, log_vars: Tensor, logits: Tensor) -> Tensor:
    """Log joints [N, K] by two products."""
    precisions = torch.exp(-log_vars)
    constant = (log_vars + means.square() * precisions).sum(1) + means.shape[1] * math.log(
        2 * math.pi
    )
    products = frames @ (means * precisions).t() - 0.5 * frames.square() @ precisions.t()
    return torch.log_softmax(logits, 0) - 0.5 * constant + products


def difference_joints(frames: Tensor, means: Tensor, log_vars: Tensor, logits: Tensor) -> Tensor:
    """Log joints [N, K] by the N x K x D tensor of differences."""
    squares = (frames[:, None] - means).square() * torch.exp(-log_vars) + log_vars
    constant = means.shape[1] * math.log(2 * math.pi)
    return torch.log_softmax(logits, 0) - 0.5 * (constant + squares.sum(2))


if __name__ == "__main__":
    main()

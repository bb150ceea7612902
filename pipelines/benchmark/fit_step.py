#!/usr/bin/env python
"""Time of a fit step against the GEMMs in it, and against what autograd takes for the same.

A step draws frames, takes their statistics, and moves the mixture by Adam. Its rivals are the bare
GEMMs (log joints and statistics, nothing else), eager autograd over the GEMM form of the density,
and autograd over the N x K x D difference tensor, which is timed on a part of the frames. All in
one process, in turn, on speech-like numbers; medians of the runs.

    python pipelines/benchmark/fit_step.py [--num_components 1024] [--frames 8192] [--threads 1]
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from gmmpipe.distributed import World
from gmmpipe.fit.checkpoint import FitState
from gmmpipe.fit.schedule import Schedule
from gmmpipe.fit.step import Stepper
from gmmpipe.fit.stream import HeldFrames
from gmmpipe.mixture.density import block_frames
from gmmpipe.mixture.optimizers import Adam
from gmmpipe.mixture.parameters import Parameters

STORED_FRAMES = 200_000
DIFFERENCE_FRAMES = 256
VAR_FLOOR = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description="a fit step against its GEMMs and autograd")
    parser.add_argument("--num_components", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=80)
    parser.add_argument("--frames", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shape = (options.num_components, options.dim)
    parameters = Parameters.of(
        means=torch.randn(shape) * 2 - 8,
        log_vars=torch.randn(shape) * 0.3,
        log_weights=torch.full(shape[:1], -math.log(shape[0])),
    )
    stored = (torch.randn(STORED_FRAMES, options.dim) * 2 - 8).half()
    rivals: dict[str, Callable[[], object]] = {
        "step": make_step(stored, parameters.clone(), options.frames),
        "bare GEMMs": make_gemms(options.frames, *shape),
        "autograd, GEMM form": make_autograd(
            stored[: options.frames].float(), parameters, gemm_joints
        ),
        "autograd, N x K x D": make_autograd(
            stored[:DIFFERENCE_FRAMES].float(), parameters, difference_joints
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for run in range(options.runs + 1):
        for name, rival in rivals.items():
            began = time.perf_counter()
            rival()
            if run:  # the first warms up
                times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in times.items()}
    medians["autograd, N x K x D"] *= options.frames / DIFFERENCE_FRAMES
    step = medians["step"]
    print(f"{options.frames} frames, K = {shape[0]}, D = {shape[1]}, {options.threads} threads")
    for name, seconds in medians.items():
        print(f"{name:22} {1e3 * seconds:10.1f} ms {seconds / step:9.2f} of a step")


def make_step(stored: Tensor, parameters: Parameters, frames_per_step: int) -> Callable[[], object]:
    """`gmmpipe.fit`'s own step; every 50th takes the exact loss too, as in a fit."""
    schedule = Schedule(
        seed=0,
        update_frames=len(stored),
        target_frames=len(stored),
        steps_per_update=1_000,
        frames_per_step=frames_per_step,
        lr=1e-3,
    )
    update = schedule.update_at(0, 0)
    assert update is not None
    adam = Adam(torch.ones_like(parameters.flat), VAR_FLOOR)
    state = FitState(parameters, adam, stored.float().mean(0))
    world = World(rank=0, size=1, device=torch.device("cpu"))
    stepper = Stepper(schedule, state, world, lambda: False)
    held = HeldFrames(stored, 0, len(stored))
    return lambda: stepper.step(update, held)


def make_gemms(num_frames: int, num_components: int, dim: int) -> Callable[[], object]:
    """The two GEMMs of a step and nothing else, in blocks that stay in the cache."""
    size = min(block_frames(torch.device("cpu")), num_frames)
    expanded, weights = torch.randn(size, 2 * dim), torch.randn(num_components, 2 * dim)
    posteriors = torch.empty(size, num_components)
    sums = torch.zeros(num_components, 2 * dim)

    def gemms() -> None:
        for _ in range(-(-num_frames // size)):
            torch.mm(expanded, weights.t(), out=posteriors)
            torch.mm(posteriors.t(), expanded, out=sums)

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

#!/usr/bin/env python
"""What products in TF32 cost a fit: their error against float64, and where the fit comes to.

A machine without a GPU rounds the factors of both products to TF32's 10 bits, to the nearest, as
`--matmul tf32` lets a GPU do, and sums in float32.

    python pipelines/benchmark/tf32.py --data_dir STORE [--K 256] [--steps 300]
"""

import argparse
from collections.abc import Callable

import torch
from common import add_row
from torch import Tensor

from gmmpipe import FeatureStore
from gmmpipe.fitting.checkpoint import FitState
from gmmpipe.fitting.initial_state import seed_state
from gmmpipe.fitting.options import FitOptions
from gmmpipe.fitting.schedule import Schedule, Update
from gmmpipe.fitting.step import Stepper
from gmmpipe.fitting.update_reader import HeldFrames
from gmmpipe.mixture.adam import nll_gradient
from gmmpipe.mixture.fused_statistics import FusedStatisticsKernel
from gmmpipe.mixture.mixture import Mixture, expand
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.mixture.statistics import Statistics
from gmmpipe.run.world import World

CHECKED_FRAMES = 8192
CPU = torch.device("cpu")


class RoundingKernel(FusedStatisticsKernel):
    """Takes both products of factors of 10 bits."""

    def _expand(self, frames: Tensor, weights: Tensor | None) -> Tensor:
        rows = super()._expand(frames, weights)
        return rows.copy_(rounded(rows))

    def _add(self, expanded: Tensor, matrix: Tensor, bias: Tensor) -> None:
        sums = self.statistics.sums.t()
        for block in torch.split(expanded, len(self._joints)):
            posteriors = torch.softmax(block @ rounded(matrix).t(), 1)
            sums.addmm_(block[:, : len(sums)].t(), rounded(posteriors))


def rounded(values: Tensor) -> Tensor:
    """The nearest numbers of 10 bits, ties away from zero."""
    return ((values.contiguous().view(torch.int32) + (1 << 12)) & -(1 << 13)).view(torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description="what products in TF32 cost a fit")
    parser.add_argument("--data_dir", required=True, help="a feature store")
    parser.add_argument("--K", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--frames", type=int, default=200_000, help="the first so many")
    options = parser.parse_args()
    store = FeatureStore.open(options.data_dir)
    frames = store.read_frames(0, min(options.frames, store.num_frames))
    frames = frames[torch.randperm(len(frames), generator=torch.Generator().manual_seed(0))]
    held_out, frames = frames[: len(frames) // 10], frames[len(frames) // 10 :].half()
    print("| K | products | log joint, nats | posteriors | gradient | nll, held out |")
    print("|---|---|---|---|---|---|", flush=True)
    for num_components in options.K:
        schedule = Schedule(0, len(frames), len(frames), options.steps, CHECKED_FRAMES)
        update = schedule.update_at(0, 0)
        assert update is not None
        held = HeldFrames(frames, 0, len(frames))
        found: dict[str, float] = {}
        for name, kernel in (("float32", FusedStatisticsKernel), ("TF32", RoundingKernel)):
            state = fitted(num_components, schedule, update, held, kernel)
            mixture = state.parameters.mixture
            errors = errors_of(frames[:CHECKED_FRAMES].float(), mixture, kernel)
            found[name] = float(mixture.nll_sum(held_out)) / len(held_out)
            cells = [*(f"{error:.1e}" for error in errors), f"{found[name]:.3f}"]
            print(f"| {num_components} | {name} | {' | '.join(cells)} |", flush=True)
        what = f"held-out nll after a fit with TF32, K = {num_components}"
        add_row(what, "nats", found["TF32"], "float32", found["float32"], "difference")


def fitted(
    num_components: int,
    schedule: Schedule,
    update: Update,
    held: HeldFrames,
    kernel: type[FusedStatisticsKernel],
) -> FitState:
    """A fit of one update by Adam, whose steps take their statistics by this kernel."""
    options = FitOptions("store", "fit", K=num_components)
    world = World(0, 1, CPU)
    state = seed_state(options, schedule, update, held, world)
    state.begin_update(update.stop)
    make: Callable[..., FusedStatisticsKernel] = lambda *of, kind=None, **more: kernel(*of, **more)  # noqa: E731
    state.optimizer.make_kernel = make  # type: ignore[misc]
    stepper = Stepper(schedule, state, world, lambda: False)
    while state.step < update.num_steps:
        stepper.step(update, held)
    return state


def errors_of(
    frames: Tensor, mixture: Mixture, kernel: type[FusedStatisticsKernel]
) -> tuple[float, float, float]:
    """Against float64: of the likeliest log joint, of posteriors (L1), of the gradient (relative).

    Means over frames; of the gradient, the norm.
    """
    center = frames.mean(0)
    made = kernel(mixture.num_components, center)
    matrix = made._affine_map(mixture)[0]
    rows = made._expand(frames, None)
    joints = rows @ (rounded(matrix) if kernel is RoundingKernel else matrix).t()
    wide = Mixture(mixture.means.double(), mixture.log_vars.double(), mixture.log_weights.double())
    exact_matrix, exact_bias = wide.affine_map(center.double())
    doubled = torch.empty(len(frames), 2 * len(center), dtype=torch.float64)
    exact = expand(frames.double(), center.double(), doubled) @ exact_matrix.t() + exact_bias
    best = exact.argmax(1, keepdim=True)
    off = (joints.double().gather(1, best) - exact.gather(1, best)).abs().mean()
    posteriors = exact.softmax(1)
    far = (joints.double().softmax(1) - posteriors).abs().sum(1).mean()
    exact_sums = Statistics.zeros(mixture.num_components, center.double(), dtype=torch.float64)
    exact_sums.add(posteriors, doubled)
    found = gradient(made(frames, mixture), Parameters.of(mixture), len(frames))
    expected = gradient(exact_sums, Parameters.of(wide, torch.float64), len(frames))
    relative = (found.double() - expected).norm() / expected.norm()
    return float(off), float(far), float(relative)


def gradient(statistics: Statistics, parameters: Parameters, num_frames: int) -> Tensor:
    """The gradient of the nll, flat."""
    out = parameters.clone()
    nll_gradient(statistics, parameters, num_frames, out=out)
    return out.flat


if __name__ == "__main__":
    main()

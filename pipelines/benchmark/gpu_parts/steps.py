"""The time of one step of a fit in every way that there is, against its two bare GEMMs."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gmmpipe.fitting.checkpoint import FitState
from gmmpipe.fitting.gpu_step import GpuStepper
from gmmpipe.fitting.schedule import Schedule
from gmmpipe.fitting.step import Stepper
from gmmpipe.fitting.update_reader import HeldFrames
from gmmpipe.mixture.adam import Adam
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.mixture.optimizer import StepConstants
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.run.world import World
from gpu_parts.machine import median_seconds, tf32
from gpu_parts.made_up import draw_frames, make_mixture
from gpu_parts.results import Results, Row

VAR_FLOOR = 0.1
WAYS: dict[str, dict[str, Any]] = {
    "eager": {"replaying": False},
    "graph": {"replaying": True},
    "graph, TF32": {"replaying": True, "matmul": "tf32"},
    "Triton": {"replaying": False, "kernel": "triton"},
    "Triton, graph": {"replaying": True, "kernel": "triton"},
}
"""What `GpuStepper` is given for each; a CPU has one way."""
GEMMS = {"GEMMs": False, "GEMMs, TF32": True}


def run_steps(results: Results, device: torch.device, quick: bool) -> None:
    """A row for each K, D and way; the time of a step is over all its parts, host and device."""
    sizes = (16, 300) if quick else (256, 1024, 4096, 16384)
    dims = (5,) if quick else (80, 39, 768)
    num_frames, at_least = (512, 0.01) if quick else (16384, 0.5)
    stored = 4 * num_frames if quick else 200_000
    for dim in dims:
        for num_components in sizes:
            mixture = make_mixture(num_components, dim, device)
            frames = draw_frames(mixture, stored)
            of_gemms = {
                name: partial(time_gemms, mixture, num_frames, is_coarse, at_least)
                for name, is_coarse in GEMMS.items()
            }
            of_steps = {
                name: partial(time_steps, mixture, frames, num_frames, way, at_least)
                for name, way in ways(device).items()
            }
            size, gemms = f"K = {num_components}, D = {dim}", None
            for name, seconds in (of_gemms | of_steps).items():
                measure = partial(measured, seconds, num_frames, gemms)
                row = results.row("steps", f"{size}: {name}", measure)
                gemms = row["ms"] if row and name == "GEMMs" else gemms
            if device.type == "cuda":
                torch.cuda.empty_cache()


def measured(seconds_of: Callable[[], float], num_frames: int, gemms_ms: float | None) -> Row:
    """Figures of a step, or of its GEMMs."""
    seconds = seconds_of()
    row = {"ms": 1e3 * seconds, "M frames a second": num_frames / seconds / 1e6}
    return row if gemms_ms is None else row | {"of GEMMs": 1e3 * seconds / gemms_ms}


def ways(device: torch.device) -> dict[str, dict[str, Any]]:
    """Those that there are for a device."""
    return WAYS if device.type == "cuda" else {"eager": {}}


def make_stepper(
    mixture: Mixture, frames: torch.Tensor, num_frames: int, way: dict[str, Any]
) -> Callable[[], object]:
    """`gmmpipe.fitting`'s own step on frames [N, D], in one of `WAYS`."""
    schedule = Schedule(
        seed=0,
        update_frames=len(frames),
        target_frames=len(frames),
        steps_per_update=1_000_000,
        frames_per_step=num_frames,
    )
    update = schedule.update_at(0, 0)
    assert update is not None
    sample = frames[:16384].float()
    constants = StepConstants(sample.mean(0), num_frames, 1e-3, VAR_FLOOR)
    parameters = Parameters.of(mixture).clone()
    state = FitState(
        parameters, Adam.start(parameters, sample, constants), constants.center, VAR_FLOOR
    )
    state.begin_update(update.stop)
    world = World(rank=0, size=1, device=frames.device)
    kind: Callable[..., Any] = GpuStepper if frames.is_cuda else Stepper
    stepper = kind(schedule, state, world, lambda: False, **way)
    held = HeldFrames(frames, 0, len(frames))
    return lambda: stepper.step(update, held)


def time_steps(
    mixture: Mixture, frames: torch.Tensor, num_frames: int, way: dict[str, Any], at_least: float
) -> float:
    """Seconds a step; every 50th, which takes the exact loss too, hardly moves the median."""
    with tf32(False):
        return median_seconds(make_stepper(mixture, frames, num_frames, way), at_least)


def time_gemms(mixture: Mixture, num_frames: int, is_coarse: bool, at_least: float) -> float:
    """Seconds of the two GEMMs of a step and nothing else."""
    num_components, device = mixture.num_components, mixture.means.device
    expanded = torch.randn(num_frames, 2 * mixture.dim, device=device)
    weights = torch.randn(num_components, 2 * mixture.dim, device=device)
    posteriors = torch.empty(num_frames, num_components, device=device)
    sums = torch.empty(2 * mixture.dim, num_components, device=device)

    def gemms() -> None:
        torch.mm(expanded, weights.t(), out=posteriors)
        torch.mm(expanded.t(), posteriors, out=sums)

    with tf32(is_coarse):
        return median_seconds(gemms, at_least)

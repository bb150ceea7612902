#!/usr/bin/env python
"""Steps a second of one rank and of two, one thread each; then how long a whole fit waits.

All take the same steps, which are of the same frames over all ranks. They run in turn under
torchrun, and the medians count. Beside the steps each rank times its bare work: the draw of its
frames, their statistics, and the optimizer. What a step takes beyond that is the exchange with the
other ranks, and bookkeeping.

    python pipelines/benchmark/ranks.py --data_dir MANIFESTS [--frames 16384] [--launches 5]
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import add_row, make_store, median_seconds
from fit_step import SPREAD, VAR_FLOOR, make_up

from gmmpipe.fitting.checkpoint import FitState
from gmmpipe.fitting.schedule import Schedule
from gmmpipe.fitting.step import Stepper
from gmmpipe.fitting.update_reader import HeldFrames
from gmmpipe.mixture.adam import Adam
from gmmpipe.mixture.kernels import statistics_kernel
from gmmpipe.mixture.optimizer import StepConstants
from gmmpipe.run.world import open_world

RANKS = (1, 2)
STEPS = 24


def main() -> None:
    parser = argparse.ArgumentParser(description="steps a second of one rank and of two")
    parser.add_argument("--data_dir", required=True, help="folders of, or, manifests")
    parser.add_argument("--frames", type=int, default=16384, help="of a step, over all ranks")
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--num_components", type=int, default=1024)
    parser.add_argument("--target_frames", default="600k", help="of the whole fit")
    options = parser.parse_args()
    seconds: dict[int, list[list[float]]] = {size: [] for size in RANKS}
    worker = ("--worker", str(options.frames), str(options.num_components))
    for _ in range(options.launches):
        for size in RANKS:
            printed = torchrun(size, __file__, *worker).stdout
            seconds[size].append(json.loads(printed))
    medians = {
        size: [statistics.median(c) for c in zip(*seconds[size], strict=True)] for size in RANKS
    }
    for size, (step, work) in medians.items():
        print(
            f"{size} ranks: {1 / step:6.2f} steps a second, {medians[1][0] / step:5.2f} times one; "
            f"{(step - work) / step:6.1%} of a step beyond its bare work"
        )
        if size > 1:
            one = 1 / medians[1][0]
            add_row(f"{size} ranks", "steps a second", 1 / step, "one rank", one, "more")
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(options.data_dir, Path(folder) / "store")
        for size in RANKS:
            share = waiting(size, store, Path(folder) / f"fit-{size}", options)
            add_row(f"a fit on {size}: waiting for frames", "% of a fit", 100 * share)
            print(f"{size} ranks: {share:6.2%} waiting")


def torchrun(size: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a script, or a module after ``-m``, on `size` ranks of one thread."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={size}"]
    return subprocess.run(
        [sys.executable, *launcher, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )


def waiting(size: int, store: Path, out: Path, options: argparse.Namespace) -> float:
    """The share of a fit's seconds in which it waits for frames; steps a frame as by default."""
    sizes = {
        "K": options.num_components,
        "batch_update_size": "200k",
        "n_sgd_steps": "80",
        "target_frames": options.target_frames,
    }
    flags = [f"--{name}={value}" for name, value in sizes.items()]
    command = ["-m", "gmmpipe", "fit", f"--data_dir={store}", f"--output_dir={out}", *flags]
    table = dict(re.findall(r"^ *([a-z ]+?) +([\d.]+)$", torchrun(size, *command).stderr, re.M))
    return float(table["waiting for frames"]) / float(table["seconds"])


def work(frames_per_step: int, num_components: int) -> None:
    """What each rank runs: print the median seconds of a step, and of its bare work."""
    torch.manual_seed(0)  # the same frames and mixture on all ranks
    stored, parameters = make_up(num_components, 80, SPREAD)
    rules = Schedule(0, len(stored), len(stored), 1000, frames_per_step)
    update = rules.update_at(0, 0)
    assert update is not None
    with open_world("cpu") as world:
        start, stop = update.rank_slice(world.rank, world.size)
        held = HeldFrames(stored[start:stop].clone(), start, stop)
        constants = StepConstants(stored.float().mean(0), frames_per_step, 1e-3, VAR_FLOOR)
        adam, other_adam = (Adam(torch.ones_like(parameters.flat), constants) for _ in range(2))
        state = FitState(parameters, adam, constants.center, VAR_FLOOR)
        stepper = Stepper(rules, state, world, lambda: False)
        kernel = statistics_kernel(len(parameters.means), state.center)
        other = parameters.clone()

        def work_alone() -> None:
            frames = held.select(rules.step_frames(update, 0))
            sums = kernel(frames, other.mixture)
            other_adam.step(sums, other, *other_adam.corrected(1e-3))
            other_adam.count_steps()

        # One after the other: where they took turns, a step would wait for the other rank's work.
        medians = [
            median_seconds({"": one}, STEPS)[""]
            for one in (lambda: stepper.step(update, held), work_alone)
        ]
        if world.rank == 0:
            print(json.dumps(medians))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()

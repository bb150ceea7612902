#!/usr/bin/env python
"""CPU time of a step's statistics by the number of frames in a block, at several D and K.

The frames and the mixtures are made up, as in fit_step.py. All block sizes take turns on the same
frames, and the least CPU time of each counts: on a machine that is in use, only that is repeatable.

    python pipelines/benchmark/block_sizes.py [--dims 39,80,768] [--num_components 256,1024]
"""

import argparse
import time

import torch
from common import add_row
from fit_step import SPREAD, make_up

from gmmpipe.mixture.kernels import CPU_KERNELS, KERNELS
from gmmpipe.mixture.mixture import BLOCK_FRAMES


def main() -> None:
    parser = argparse.ArgumentParser(description="a step's statistics by the size of a block")
    parser.add_argument("--dims", type=numbers, default=[39, 80, 768])
    parser.add_argument("--num_components", type=numbers, default=[256, 1024])
    parser.add_argument("--blocks", type=numbers, default=[128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--frames", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    blocks = sorted({*options.blocks, BLOCK_FRAMES})
    print(f"{options.frames} frames; times of that with blocks of {BLOCK_FRAMES}")
    print(f"{'kernel':14}{'D':>6}{'K':>6}{'ms':>9}" + "".join(f"{size:>7}" for size in blocks))
    for dim in options.dims:
        for num_components in options.num_components:
            for kind in CPU_KERNELS:
                seconds = measure(kind, num_components, dim, blocks, options.frames, options.runs)
                usual, best = seconds[BLOCK_FRAMES], min(seconds, key=lambda size: seconds[size])
                what = f"statistics, {kind}, D = {dim}, K = {num_components}"
                ms, best_ms = 1e3 * usual, 1e3 * seconds[best]
                add_row(what, "CPU ms", ms, f"blocks of {best}, the best", best_ms)
                ratios = "".join(f"{seconds[size] / usual:>7.2f}" for size in blocks)
                print(
                    f"{kind:14}{dim:>6}{num_components:>6}{1e3 * usual:>9.1f}{ratios}", flush=True
                )


def numbers(text: str) -> list[int]:
    """Comma-separated integers."""
    return [int(part) for part in text.split(",")]


def measure(
    kind: str, num_components: int, dim: int, blocks: list[int], num_frames: int, runs: int
) -> dict[int, float]:
    """Seconds of the fastest run with blocks of each size."""
    stored, parameters = make_up(num_components, dim, SPREAD, num_frames)
    center = stored.float().mean(0)
    kernels = {size: KERNELS[kind](num_components, center, block=size) for size in blocks}
    fastest = dict.fromkeys(blocks, float("inf"))
    for _ in range(runs):
        for size, kernel in kernels.items():
            began = time.process_time()
            kernel(stored, parameters.mixture)
            fastest[size] = min(fastest[size], time.process_time() - began)
    return fastest


if __name__ == "__main__":
    main()

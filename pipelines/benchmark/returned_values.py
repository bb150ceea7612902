#!/usr/bin/env python
"""Scores and posteriors by the fast way of a GPU with slow float64, beside those of float64.

Prints, for each temperature of a softmax: the share of the frames that need float64 altogether, and
of the blocks that hold one; the seconds of the fast way over those of float64 (of the processor on
a CPU, of the clock on a GPU); the largest errors of ln p(x) and of a posterior; and the frames
whose label is another although the two largest log joints differ by more than 1e-4.

    python pipelines/benchmark/returned_values.py --data_dir STORE --gmm_path FIT/gmm.pt
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from gmmpipe import FeatureStore, GradientGMM
from gmmpipe.mixture.fast_joints import NUM_LIKELY, JointBlock, fast_joints
from gmmpipe.mixture.mixture import Mixture

TIE = 1e-4
RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description="float32 with likely components, and float64")
    parser.add_argument("--data_dir", required=True, help="a feature store")
    parser.add_argument("--gmm_path", required=True)
    parser.add_argument("--frames", type=int, default=40_000, help="the first so many")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--num_likely", type=int, default=NUM_LIKELY)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = FeatureStore.open(options.data_dir)
    frames = store.read_frames(0, min(options.frames, store.num_frames)).to(options.device)
    mixture = GradientGMM.load(options.gmm_path, options.device).mixture
    print(f"{len(frames)} frames, D = {mixture.dim}, K = {mixture.num_components}")
    print("| temperature | frames | blocks | seconds | ln p(x) | posterior | labels |")
    print("|---|---|---|---|---|---|---|")
    for temperature in options.temperatures:
        print(row(mixture, frames, temperature, options.num_likely))


def row(mixture: Mixture, frames: Tensor, temperature: float, num_likely: int) -> str:
    def fast() -> list[int]:
        return [b.num_exact for b in fast_joints(mixture, frames, temperature, num_likely)]

    def exact() -> None:
        for _ in mixture.log_joints(frames):
            pass

    counts = fast()
    exact()
    # In turn, so that what else the machine does slows both.
    ratio = statistics.median(seconds(fast, frames) / seconds(exact, frames) for _ in range(RUNS))
    score = posterior = 0.0
    wrong = 0
    for block in fast_joints(mixture, frames, temperature, num_likely):
        errors = errors_of(block, mixture, temperature)
        score, posterior = max(score, errors[0]), max(posterior, errors[1])
        wrong += int(errors[2])
    shares = sum(counts) / len(frames), sum(map(bool, counts)) / len(counts)
    return (
        f"| {temperature:g} | {shares[0]:.2%} | {shares[1]:.1%} | {ratio:.2f} "
        f"| {score:.1e} | {posterior:.1e} | {wrong} |"
    )


def errors_of(block: JointBlock, mixture: Mixture, temperature: float) -> tuple[float, float, int]:
    """The largest errors of a score and of a posterior, and how many labels are wrong."""
    exact = torch.cat([joints.clone() for _, _, joints in mixture.log_joints(block.frames)])
    score = (block.scores() - torch.logsumexp(exact, 1)).abs().max()
    here, there = (torch.softmax(j.double() / temperature, 1) for j in (block.joints, exact))
    missed = exact.amax(1, keepdim=True) - exact.gather(1, block.joints.argmax(1, keepdim=True))
    return float(score), float((here - there).abs().max()), int((missed > TIE).sum())


def seconds(work: Callable[[], object], frames: Tensor) -> float:
    clock = time.process_time if frames.device.type == "cpu" else time.perf_counter
    began = clock()
    work()
    if frames.is_cuda:
        torch.cuda.synchronize(frames.device)
    return clock() - began


if __name__ == "__main__":
    main()

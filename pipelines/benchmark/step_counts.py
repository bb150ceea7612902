#!/usr/bin/env python
"""What a step of a fit asks of a GPU: kernels, waits and copies, counted on a machine without one.

Tensors have no data here, so nothing is timed. `fake_cuda.Counts` says what is counted.

    python pipelines/benchmark/step_counts.py [--K 1024] [--dim 80] [--sgd_batch_size 16384]
"""

import argparse
from collections import Counter

from fake_cuda import counted, fake_cuda
from fake_fit import FITS, FakeFit
from fake_streams import fake_streams

from gmmpipe.fitting.schedule import LOSS_EVERY_STEPS


def main() -> None:
    parser = argparse.ArgumentParser(description="what a step of a fit asks of a GPU")
    parser.add_argument("--K", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=80)
    parser.add_argument("--sgd_batch_size", type=int, default=16384)
    parser.add_argument("--names", action="store_true", help="also say which, after each row")
    options = parser.parse_args()
    print("| fit | step | kernels | waits | copies waited for | copies sent |")
    print("|---|---|---|---|---|---|", flush=True)
    for name, given in FITS.items():
        with fake_cuda() as counts, fake_streams():
            frames = options.sgd_batch_size
            fit = FakeFit(options.K, options.dim, 4 * frames, frames, init="random", **given)
            for row, steps in (
                ("the first", 1),
                ("ordinary", LOSS_EVERY_STEPS - 1),
                (f"every {LOSS_EVERY_STEPS}th", 1),
                ("ordinary", LOSS_EVERY_STEPS - 1),
            ):
                found = vars(counted(fit.step, counts, times=steps))
                cells = " | ".join(each(counter, steps) for counter in found.values())
                print(f"| {name} | {row} | {cells} |", flush=True)
                if options.names:
                    print(
                        *(f"{what}: {dict(counter)}" for what, counter in found.items()), sep="\n"
                    )


def each(counter: Counter[str], steps: int) -> str:
    """How many there are in a step, on average."""
    return f"{counter.total() / steps:.2f}".removesuffix(".00")


if __name__ == "__main__":
    main()

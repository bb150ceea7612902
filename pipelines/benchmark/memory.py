#!/usr/bin/env python
"""Peak memory of `gmmpipe fit` above its imports, on a store and on one twenty times as large.

The bound that is held to is two buffers of an update's frames, and 400 MB. The larger store is
made of hard links to the smaller one's shards.

    python pipelines/benchmark/memory.py --data_dir MANIFESTS [--batch_update_size 200000]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import add_row, make_store, multiply_store

from gmmpipe import FeatureStore

IMPORTS = "import gmmpipe.cli.fit, gmmpipe.run.world, gmmpipe.fitting.trainer"


def main() -> None:
    parser = argparse.ArgumentParser(description="peak memory of gmmpipe fit above its imports")
    parser.add_argument("--data_dir", required=True, help="folders of, or, manifests")
    parser.add_argument("--num_components", type=int, default=1024)
    parser.add_argument("--batch_update_size", type=int, default=200_000)
    parser.add_argument("--copies", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = make_store(options.data_dir, Path(folder) / "small")
        opened = FeatureStore.open(small)
        copies = options.copies * len(opened.shards)
        large = multiply_store(small, Path(folder) / "large", copies)
        imports = peak_bytes(["-c", IMPORTS])
        print(f"{'frames':>10} {'an update':>10} {'peak':>8} {'bound':>8}   MB above the imports")
        for path in (small, large):
            store = FeatureStore.open(path)
            rows = min(options.batch_update_size, store.num_frames)
            bound = 2 * rows * store.dim * store.dtype.itemsize + 400e6
            peak = peak_bytes(fit_arguments(path, Path(folder) / f"{path.name}-fit", options))
            above = (peak - imports) / 1e6
            add_row(f"fit of {store.num_frames} frames", "MB", above, "bound", bound / 1e6)
            print(f"{store.num_frames:10} {rows:10} {above:8.0f} {bound / 1e6:8.0f}")


def fit_arguments(store: Path, out: Path, options: argparse.Namespace) -> list[str]:
    """Three updates of a few steps; the memory is that of a long fit."""
    sizes = {
        "K": options.num_components,
        "batch_update_size": options.batch_update_size,
        "target_frames": 3 * options.batch_update_size,
        "n_sgd_steps": 10,
    }
    flags = [f"--{name}={value}" for name, value in sizes.items()]
    return ["-m", "gmmpipe", "fit", f"--data_dir={store}", f"--output_dir={out}", *flags]


def peak_bytes(arguments: list[str]) -> int:
    """Peak resident memory of a Python process with one torch thread."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{arguments} failed"
    return usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()

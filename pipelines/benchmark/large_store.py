#!/usr/bin/env python
"""How a store of 9.6 billion frames opens, and how fast the first update's frames come from it.

The store has 13,700 shards of 1024 utterances of 684 frames, hard links to a few real ones that
hold the frames of the given manifests again and again, each with a sidecar of its own. It is made
in `--folder` (some 1.6 GB), which must be a folder that does not exist yet, and removed again.

    python pipelines/benchmark/large_store.py --data_dir MANIFESTS --folder FOLDER
"""

import argparse
import dataclasses
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import add_row, make_store, median_seconds, multiply_store

from gmmpipe import FeatureStore
from gmmpipe.fitting.update_buffers import InPlace
from gmmpipe.fitting.update_reader import read_pipeline
from gmmpipe.store.frame_order import FrameOrder
from gmmpipe.store.names import STORE_FILE, shard_stem
from gmmpipe.store.schema import FeatureIdentity
from gmmpipe.store.shard import forget_sidecars
from gmmpipe.store.shard_kinds import shard_file
from gmmpipe.store.store_info import StoreInfo, Sums

SHARDS = 13_700
REAL_SHARDS = 7
UTTERANCES, UTTERANCE_FRAMES = 1024, 684


def main() -> None:
    parser = argparse.ArgumentParser(description="a store of 9.6 billion frames")
    parser.add_argument("--data_dir", required=True, help="folders of, or, manifests")
    parser.add_argument("--folder", required=True, type=Path, help="where to make the stores")
    parser.add_argument("--num_shards", type=int, default=SHARDS)
    parser.add_argument("--utterances", type=int, default=UTTERANCES, help="of a shard")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True)
    try:
        source = make_store(options.data_dir, options.folder / "source")
        small = make_shards(source, options.folder / "small", options.utterances)
        large = multiply_store(small, options.folder / "large", options.num_shards)
        print(f"opened in a process of its own: {run_opening(large)}")
        measure(small, large, options.runs)
    finally:
        shutil.rmtree(options.folder)


def make_shards(source: Path, folder: Path, utterances: int) -> Path:
    """A store of `REAL_SHARDS` shards, full of the frames of `source`."""
    store, info = FeatureStore.open(source), StoreInfo.read(source / STORE_FILE, FeatureIdentity)
    frames = store.read_frames(0, store.num_frames).to(store.dtype)
    for number in range(REAL_SHARDS):
        path = folder / f"{shard_stem(number)}.tar"
        path.parent.mkdir(exist_ok=True)
        column = store.shards[0].column
        with shard_file(path).open_writer([column]) as writer:
            for utterance in range(utterances):
                first = (number * utterances + utterance) * UTTERANCE_FRAMES
                numbers = torch.arange(first, first + UTTERANCE_FRAMES) % len(frames)
                key = f"{number * utterances + utterance:010d}"
                writer.add(key, {column.name: frames[numbers].numpy()}, {"key": key})
            sidecar = writer.finish()
        tally = dataclasses.replace(sidecar.tally, lines=utterances)
        dataclasses.replace(sidecar, tally=tally).write(path.with_suffix(".json"))
    sums = Sums.over("features", sorted(folder.glob("shard-*.json")))
    dataclasses.replace(info, **vars(sums)).write(folder / STORE_FILE)
    return folder


def run_opening(store: Path) -> str:
    """`open_it` in a fresh process: what it printed."""
    command = [sys.executable, __file__, "--open", str(store)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def open_it(path: str) -> None:
    """Open a store and look for its files, as the start of a fit does."""
    before = resident_bytes()
    began = time.perf_counter()
    store = FeatureStore.open(path)
    opened = time.perf_counter()
    store.check_files()
    checked = time.perf_counter()
    print(
        f"{store.num_frames} frames in {len(store.shards)} shards in {opened - began:.2f} s and "
        f"{(resident_bytes() - before) / 1e6:.0f} MB; looked for every file in "
        f"{checked - opened:.2f} s"
    )


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(small: Path, large: Path, runs: int) -> None:
    """How fast a reader thread fills the first update's buffer from either store."""
    frames = FeatureStore.open(small).num_frames
    rivals: dict[str, Callable[[], object]] = {
        name: make_reader(path, frames) for name, path in (("small", small), ("large", large))
    }
    medians = median_seconds(rivals, runs)
    small_rate, large_rate = (frames / seconds / 1e6 for seconds in medians.values())
    what = f"the first {frames} frames of a large store"
    add_row(what, "M frames a second", large_rate, "of a small one", small_rate, "more")
    for name, seconds in medians.items():
        print(
            f"{name} store: the first {frames} frames in {seconds:.3f} s, "
            f"{frames / seconds / 1e6:.1f} M frames a second"
        )


def make_reader(path: Path, num_frames: int) -> Callable[[], None]:
    """Reads the first `num_frames` frames of the seeded order, and each time all sidecars."""
    store = FeatureStore.open(path)
    out = torch.zeros(num_frames, store.dim, dtype=store.dtype)

    def read() -> None:
        forget_sidecars()
        order = FrameOrder(store.frames_per_shard, seed=0)
        ranges = list(order.ranges(0, num_frames))
        assert (
            sum(read_pipeline(store, order, ranges, InPlace(out), threading.Event())) == num_frames
        )

    return read


if __name__ == "__main__":
    if sys.argv[1:2] == ["--open"]:
        open_it(sys.argv[2])
    else:
        main()

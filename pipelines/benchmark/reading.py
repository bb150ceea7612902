#!/usr/bin/env python
"""Frames a second from shards, as a fit reads them, against webdataset's decode.

A fit's reader fills an update's buffer in the stored float16, in the seeded order, and checks each
utterance's CRC. The plain loop is `webdataset.WebDataset(urls).decode()` with numpy's cast to
float32, and checks nothing. One thread, the same frames, in turn, files in the page cache.

    python pipelines/benchmark/reading.py --data_dir MANIFESTS [--copies 8] [--runs 7]
"""

import argparse
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from common import add_row, make_store, median_seconds

from gmmpipe import FeatureStore
from gmmpipe.fitting.update_buffers import InPlace
from gmmpipe.fitting.update_reader import read_pipeline
from gmmpipe.store.frame_order import FrameOrder


def main() -> None:
    parser = argparse.ArgumentParser(description="frames a second, against webdataset's decode")
    parser.add_argument("--data_dir", required=True, help="folders of, or, manifests")
    parser.add_argument("--copies", type=int, default=8, help="how often the store is listed")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        stores = {}
        for kind in ("tar", "zarr"):
            path = make_store(options.data_dir, Path(folder) / kind, "--format", kind)
            stores[kind] = FeatureStore.open(",".join([str(path)] * options.copies))
        rivals: dict[str, Callable[[], object]] = {
            f"gmmpipe, {kind}": make_reader(store) for kind, store in stores.items()
        }
        rivals["webdataset decode"] = partial(decode, [str(s.path) for s in stores["tar"].shards])
        medians = median_seconds(rivals, options.runs)
    frames, plain = stores["tar"].num_frames, medians["webdataset decode"]
    print(f"{frames} frames of {len(stores['tar'])} utterances; median of {options.runs} runs")
    for name, seconds in medians.items():
        rate = frames / seconds / 1e6
        if name.startswith("gmmpipe"):
            add_row(
                name.removeprefix("gmmpipe, "),
                "M frames a second",
                rate,
                "webdataset decode",
                frames / plain / 1e6,
                "more",
            )
        print(
            f"{name:20} {rate:8.2f} M frames a second {plain / seconds:8.2f} times the plain loop"
        )


def make_reader(store: FeatureStore) -> Callable[[], None]:
    """What one of a fit's reader threads does."""
    out = torch.empty(store.num_frames, store.dim, dtype=store.dtype)
    order = FrameOrder(store.frames_per_shard, seed=0)

    def read() -> None:
        ranges = list(order.ranges(0, store.num_frames))
        pipeline = read_pipeline(store, order, ranges, InPlace(out), threading.Event())
        assert sum(pipeline) == len(out)

    return read


def decode(urls: list[str]) -> None:
    for sample in wds.WebDataset(urls, shardshuffle=False).decode():
        sample["logmel.npy"].astype(np.float32)


if __name__ == "__main__":
    main()

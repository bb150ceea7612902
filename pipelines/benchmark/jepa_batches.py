#!/usr/bin/env python
"""Utterances a second, padding and fill of JEPABatches, against a plain loader of the same shards.

The plain loader is torch's DataLoader over `webdataset.WebDataset(...).shuffle(1000).decode()`,
which pads each batch to its longest utterance; it makes no masks and checks no checksums. With
targets, both compute the mixture's posteriors utterance by utterance. The rivals run in turn, an
epoch each, and the medians count.

    python pipelines/benchmark/jepa_batches.py --data_dir STORE --gmm_path GMM [--num_workers 0]

With --max_seconds, batches by length come in turn with them; their fill is the share of the budget
that frames take, the rest being padding or room that is left.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import webdataset as wds
from common import add_row
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from gmmpipe import FeatureStore, GradientGMM
from gmmpipe.jepa import Augmentation, JEPABatches

SHUFFLE_BUFFER = 1000
Loader = Callable[[], Iterable[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description="JEPABatches against a plain loader")
    parser.add_argument("--data_dir", required=True, help="a feature store of tar shards")
    parser.add_argument("--gmm_path", required=True)
    parser.add_argument("--labels", help="also measure targets from this label store")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--max_seconds", type=float, help="also measure batches of this size")
    parser.add_argument("--top_k", type=int, default=8, help="of one of the rows")
    parser.add_argument("--num_workers", type=int, default=0, help="loader processes")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    store, gmm = FeatureStore.open(options.data_dir), GradientGMM.load(options.gmm_path)
    rivals: dict[str, Loader] = {
        "gmmpipe": partial(ours, store, options),
        "plain": partial(plain, store, options),
        "gmmpipe, posteriors": partial(ours, store, options, gmm=gmm),
        "plain, posteriors": partial(plain, store, options, gmm=gmm),
        f"gmmpipe, top {options.top_k}": partial(
            ours, store, options, gmm=gmm, top_k=options.top_k
        ),
    }
    if options.labels:
        rivals["gmmpipe, label store"] = partial(ours, store, options, labels=options.labels)
    if all(shard.has_audio for shard in store.shards):
        rivals["gmmpipe, waveforms"] = partial(ours, store, options, wav=True)
        rivals["gmmpipe, augmented"] = partial(
            ours, store, options, wav=True, augment=Augmentation()
        )
    if options.max_seconds:
        rivals[f"gmmpipe, {options.max_seconds:g} s"] = partial(
            ours, store, options, max_seconds=options.max_seconds
        )
    print(
        f"{len(store)} utterances, batches of {options.batch_size}, K = {gmm.K}, "
        f"{options.num_workers} loader processes; median of {options.runs} epochs"
    )
    print(f"{'':24} {'utterances a second':>20} {'CPU ms an utterance':>20} {'padding':>8}")
    measured = measure(rivals, options.runs)
    add_rows(measured)
    for name, (rate, cpu, padding) in measured.items():
        print(f"{name:24} {rate:20.0f} {1000 * cpu:20.2f} {padding:8.1%}")
    if options.max_seconds:
        print(fill(store, options.max_seconds))


def add_rows(measured: dict[str, tuple[float, float, float]]) -> None:
    """Give bench.py what we make; where the plain loader makes the same, beside it."""
    for name, (rate, _, padding) in measured.items():
        if not name.startswith("gmmpipe"):
            continue
        plain = "plain, posteriors" if name == "gmmpipe, posteriors" else "plain"
        is_alike = name in ("gmmpipe", "gmmpipe, posteriors")
        what = name.removeprefix("gmmpipe").removeprefix(", ") or "no targets"
        rival = ("webdataset, torch", measured[plain][0]) if is_alike else ("", None)
        add_row(what, "utterances a second", rate, *rival, "more")
        if name == "gmmpipe":
            wasted = 100 * measured[plain][2]
            add_row("padding", "% of a batch", 100 * padding, "webdataset, torch", wasted)


def measure(rivals: dict[str, Loader], runs: int) -> dict[str, tuple[float, float, float]]:
    """Utterances a second, CPU seconds an utterance (of loader processes too), and padding.

    Each the median over the epochs; the first turn only warms up.
    """
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in rivals}
    for number in range(runs + 1):
        for name, loader in rivals.items():
            utterances = real = padded = 0
            began, cpu = time.perf_counter(), sum(os.times()[:4])
            for batch in loader():
                utterances += len(batch["keys"])
                real += int(batch["lengths"].sum())
                padded += batch["features"].shape[0] * batch["features"].shape[2]
            seconds, cpu = time.perf_counter() - began, sum(os.times()[:4]) - cpu
            if number:
                results[name].append((utterances / seconds, cpu / utterances, 1 - real / padded))
    return {
        name: tuple(statistics.median(column) for column in zip(*rows, strict=True))
        for name, rows in results.items()
    }


def ours(store: FeatureStore, options: argparse.Namespace, **what: Any) -> Iterable[Any]:
    size = {} if "max_seconds" in what else {"batch_size": options.batch_size}
    batches = JEPABatches(store, **size, **what)
    return DataLoader(batches, batch_size=None, num_workers=options.num_workers)


def fill(store: FeatureStore, max_seconds: float) -> str:
    """How much of the budget the frames of an epoch take, and how many utterances a step has."""
    sizes = [len(batch.keys) for batch in JEPABatches(store, max_seconds=max_seconds)]
    share = store.num_frames / (len(sizes) * int(max_seconds * store.features.frame_rate))
    return f"{len(sizes)} steps of {min(sizes)} to {max(sizes)} utterances; fill {share:.1%}"


def plain(
    store: FeatureStore, options: argparse.Namespace, gmm: GradientGMM | None = None
) -> Iterable[Any]:
    """What one would write in an afternoon."""
    urls = [str(shard.path) for shard in store.shards]
    samples = wds.WebDataset(urls, shardshuffle=len(urls)).shuffle(SHUFFLE_BUFFER).decode()
    return DataLoader(
        samples,
        batch_size=options.batch_size,
        collate_fn=partial(collate, column=store.features.column, gmm=gmm),
        num_workers=min(options.num_workers, len(urls)),
    )


def collate(samples: list[dict[str, Any]], column: str, gmm: GradientGMM | None) -> dict[str, Any]:
    """Decoded samples as a batch, padded to the longest."""
    frames = [torch.from_numpy(sample[f"{column}.npy"]).float() for sample in samples]
    batch: dict[str, list[str] | Tensor] = {
        "keys": [sample["__key__"] for sample in samples],
        "lengths": torch.tensor([len(each) for each in frames]),
        "features": pad_sequence(frames, batch_first=True).transpose(1, 2).contiguous(),
    }
    if gmm is not None:
        batch["targets"] = pad_sequence([gmm.soft_assign(each) for each in frames], True)
    return batch


if __name__ == "__main__":
    main()

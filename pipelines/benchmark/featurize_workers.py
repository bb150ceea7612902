#!/usr/bin/env python
"""What two workers of stage 1 do more than one, and how much memory a worker takes.

Speed: the manifests' utterances, several times over, in shards; the clock runs from when every
worker has made a shard until the last one is done, so that start-up does not count. One worker and
two in turn, with the median of the runs.

Memory: the highest resident size of a worker over that of one that has made a single short
utterance, for the utterances once, four times over, and for one file of two hours, kept whole or in
windows.

    python pipelines/benchmark/featurize_workers.py --data_dir MANIFESTS [--runs 5]
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from common import add_row

from gmmpipe.featurization.executors import run_local
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.plan import ShardTask, digest_manifests, make_plan
from gmmpipe.sources.find import find_manifests

COPIES = 8
UTTERANCES_PER_SHARD = 64
LONG_FILE_SECONDS = 7200


def main() -> None:
    parser = argparse.ArgumentParser(description="two workers against one, and their memory")
    parser.add_argument("--data_dir", required=True, help="folders of, or, manifests")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--copies", type=int, default=COPIES, help="of the utterances, for speed")
    parser.add_argument("--long_seconds", type=int, default=LONG_FILE_SECONDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = list(audio_files(options.data_dir))
        rates: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(options.runs):
            for workers, seen in rates.items():
                seen.append(
                    measure_rate(write_manifest(folder, files * options.copies), folder, workers)
                )
        one, two = (statistics.median(seen) for seen in rates.values())
        ratios = [b / a for a, b in zip(*rates.values(), strict=True)]
        print(f"shards of {UTTERANCES_PER_SHARD} utterances a second, medians of {options.runs}:")
        print(f"1 worker {one:.2f}, 2 workers {two:.2f}: {statistics.median(ratios):.2f} times")
        add_row("2 workers", "shards a second", two, "1 worker", one, "more")
        print("highest memory of a worker above that of one short utterance, MB:")
        idle = measure_memory(write_manifest(folder, files[:1]), folder)
        long_file = make_long_file(folder, files, options.long_seconds)
        for what, paths, how in (
            ("the utterances once", files, {}),
            ("the utterances four times", files * 4, {}),
            ("the long file, cropped", [long_file], {"long_audio": "crop"}),
            ("the long file, in windows", [long_file], {"long_audio": "split"}),
            (
                "the long file, one window of all",
                [long_file],
                {"max_seconds": options.long_seconds},
            ),
        ):
            used = measure_memory(write_manifest(folder, paths), folder, **how) - idle
            add_row(f"memory of a worker: {what}", "MB", used)
            print(f"{what:40} {used:6.0f}", flush=True)


def audio_files(data_dir: str) -> Iterator[Path]:
    """The files that manifests name."""
    for manifest in find_manifests(data_dir):
        for text in manifest.path.read_text(encoding="utf-8").splitlines():
            yield manifest.path.parent / json.loads(text)["wav_path"]


def write_manifest(folder: Path, files: list[Path]) -> Path:
    """A manifest of `files`; they may repeat, since lines without an id have keys of their own."""
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps({"path": str(file)}) + "\n" for file in files))
    return path


def make_long_file(folder: Path, files: list[Path], seconds: int) -> Path:
    """So much 16 kHz sound in one file."""
    samples, _ = soundfile.read(files[0], dtype="int16", always_2d=True)
    path = folder / "long.wav"
    with soundfile.SoundFile(path, "w", 16000, 1, "PCM_16") as file:
        missing = seconds * 16000
        block = np.resize(samples[:, 0], 1 << 20)
        while missing:
            count = min(missing, len(block))
            file.write(block[:count])
            missing -= count
    return path


def plan_tasks(manifest: Path, folder: Path, **how: Any) -> list[ShardTask]:
    """The shard tasks of a fresh store."""
    out = folder / "store"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    options = FeaturizeOptions(
        data_dir=str(manifest),
        output_dir=out,
        utterances_per_shard=UTTERANCES_PER_SHARD,
        **how,
    )
    manifests = find_manifests(options.data_dir)
    wanted = options.plan_options(*digest_manifests(manifests))
    plan = make_plan(manifests, options.features, wanted)
    return [plan.task(number, out, None) for number in range(plan.num_shards)]


def measure_rate(manifest: Path, folder: Path, workers: int) -> float:
    """Shards a second, once each worker has made one."""
    tallies = run_local(plan_tasks(manifest, folder), workers)
    for _ in range(2 * workers):
        next(tallies)
    began = time.perf_counter()
    count = sum(1 for _ in tallies)
    return count / (time.perf_counter() - began)


def measure_memory(manifest: Path, folder: Path, **how: Any) -> float:
    """The highest resident size of a process that makes all shards, MB."""
    tasks = plan_tasks(manifest, folder, **how)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(make_all, tasks).result()


def make_all(tasks: list[ShardTask]) -> float:
    """Make shards in this process; its highest resident size, MB."""
    import torch

    from gmmpipe.featurization.worker import make_shard

    torch.set_num_threads(1)
    for task in tasks:
        make_shard(task)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()

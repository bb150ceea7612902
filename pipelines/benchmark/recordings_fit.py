#!/usr/bin/env python
"""What ``--shuffle_by recordings`` costs a fit: held-out nll against a store by utterances.

The files of each folder of the manifests are glued into recordings of some minutes, an eighth of
them being held out; a shard is about one recording. Updates are of about three shards, so that an
update that took its frames from whole shards would know three recordings. The mean of the last
updates' ``eval_nll`` is printed, with that of the last one.

    python pipelines/benchmark/recordings_fit.py --data_dir MANIFESTS [--seeds 2]
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile
import torch
from common import add_row, make_store

from gmmpipe import FeatureStore
from gmmpipe.audio.segment import Limit
from gmmpipe.audio.waveform import load_waveform
from gmmpipe.sources.find import find_manifests

RATE = 16000
MAX_SECONDS = 15.0
LAST_UPDATES = 6


def main() -> None:
    parser = argparse.ArgumentParser(description="what --shuffle_by recordings costs a fit")
    parser.add_argument("--data_dir", required=True, help="folders of, or, manifests")
    parser.add_argument("--minutes", type=float, default=2.5, help="of a recording")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--K", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        glue(options, folder)
        held_out = make_store(str(folder / "held.jsonl"), folder / "held")
        print(f"{'store by':12} {'seed':>4} {'shards':>6} {'eval_nll':>9} {'mean':>9}")
        means: dict[str, list[float]] = {"utterances": [], "recordings": []}
        for by, found in means.items():
            flags = (f"--shuffle_by={by}", "--utterances_per_shard=32")
            store = make_store(str(folder / "glued.jsonl"), folder / by, *flags)
            for seed in range(options.seeds):
                values = fit(store, held_out, folder / f"fit-{by}-{seed}", seed, options.K)
                mean = statistics.mean(values[-LAST_UPDATES:])
                found.append(mean)
                shards = len(FeatureStore.open(store).shards)
                print(f"{by:12} {seed:4} {shards:6} {values[-1]:9.3f} {mean:9.3f}", flush=True)
        theirs, ours = (statistics.mean(found) for found in means.values())
        add_row("store by recordings", "eval_nll", ours, "by utterances", theirs, "difference")


def glue(options: argparse.Namespace, folder: Path) -> None:
    """Write recordings with a manifest of their segments, and one of what is held out."""
    by_folder = defaultdict(list)
    for manifest in find_manifests(options.data_dir):
        for text in manifest.path.read_text(encoding="utf-8").splitlines():
            path = manifest.audio_folder / json.loads(text)["wav_path"]
            by_folder[path.parent].append(path)
    random = np.random.default_rng(0)
    glued, held_out = [], []
    for paths in by_folder.values():
        parts: list[np.ndarray] = []
        for path in paths:
            if random.random() < 1 / 8:
                held_out.append({"path": str(path)})
                continue
            samples = load_waveform(str(path), RATE, Limit(MAX_SECONDS)).samples
            parts.append((samples.clamp(-1, 1) * 32767).to(torch.int16).numpy())
            if sum(map(len, parts)) > options.minutes * 60 * RATE or path is paths[-1]:
                glued += write_recording(parts, folder / f"{len(glued)}.flac")
                parts = []
    for name, lines in (("glued", glued), ("held", held_out)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)


def write_recording(parts: list[np.ndarray], path: Path) -> list[dict[str, object]]:
    """Write a recording; the lines of its segments."""
    soundfile.write(path, np.concatenate(parts), RATE)
    starts = np.cumsum([0, *map(len, parts)])
    return [
        {"path": path.name, "offset": int(start) / RATE, "duration": len(part) / RATE}
        for start, part in zip(starts[:-1], parts, strict=True)
    ]


def fit(store: Path, held_out: Path, out: Path, seed: int, num_components: int) -> list[float]:
    """The eval_nll after each update of a fit of two epochs."""
    opened = FeatureStore.open(store)
    values = {
        "data_dir": store,
        "output_dir": out,
        "eval_data_dir": held_out,
        "K": num_components,
        "batch_update_size": 3 * opened.num_frames // len(opened.shards),
        "target_frames": 2 * opened.num_frames,
        "n_sgd_steps": 150,
        "sgd_batch_size": 2048,
        "seed": seed,
    }
    flags = [f"--{name}={value}" for name, value in values.items()]
    command = [sys.executable, "-m", "gmmpipe", "fit", *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(out / "metrics.tsv", newline="") as file:
        return [float(row["eval_nll"]) for row in csv.DictReader(file, delimiter="\t")]


if __name__ == "__main__":
    main()

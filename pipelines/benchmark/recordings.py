#!/usr/bin/env python
"""CPU time of stage 1 on a recording of hours: 600 segments an hour, against all of it at once.

The recordings are glued from the files of the given manifests, at 16 kHz, in each format. The
segments cover a recording; they are in random order in the manifest, and read with
``--shuffle_by recordings``. The whole recording is one line and one window. Each time is of a
process of its own, without its imports, the median of the runs. Segments may take 1.3 times the
whole, and 2 s; three hours may take three times as long as one.

    python pipelines/benchmark/recordings.py --data_dir MANIFESTS [--hours 1,3] [--runs 3]
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
import torch
from common import add_row

from gmmpipe.audio.segment import Limit
from gmmpipe.audio.waveform import load_waveform
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.plan import digest_manifests, make_plan
from gmmpipe.featurization.worker import make_shard
from gmmpipe.sources.find import find_manifests

RATE = 16000
FORMATS = {
    "mp3": {"format": "MP3"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "flac": {"format": "FLAC", "subtype": "PCM_16"},
    "flac, no length": {"format": "FLAC", "subtype": "PCM_16"},
    "wav": {"format": "WAV", "subtype": "PCM_16"},
}
SEGMENTS_AN_HOUR = 600


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time of stage 1 on a recording of hours")
    parser.add_argument("--data_dir", required=True, help="folders of, or, manifests")
    parser.add_argument("--hours", default="1,3", help="lengths of the recordings")
    parser.add_argument("--segments", type=int, default=SEGMENTS_AN_HOUR, help="an hour")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    print(f"CPU seconds, median of {options.runs} runs, {options.segments} segments an hour")
    print(f"{'format':16} {'hours':>5} {'whole':>8} {'segments':>9} {'limit':>8}")
    with tempfile.TemporaryDirectory() as folder:
        speech = list(glued(options.data_dir))
        for hours in (float(text) for text in options.hours.split(",")):
            recordings = write_recordings(speech, hours, Path(folder))
            for name, path in recordings.items():
                whole, parts = compare(path, hours, options)
                limit = 1.3 * whole + 2
                add_row(f"{name}, {hours:g} h: its segments", "CPU s", parts, "the whole", whole)
                print(f"{name:16} {hours:5g} {whole:8.2f} {parts:9.2f} {limit:8.2f}", flush=True)
                path.unlink()


def glued(data_dir: str) -> Iterator[np.ndarray]:
    """The audio of manifests, int16 at 16 kHz, a file at a time."""
    for manifest in find_manifests(data_dir):
        for text in manifest.path.read_text(encoding="utf-8").splitlines():
            path = manifest.audio_folder / json.loads(text)["wav_path"]
            samples = load_waveform(str(path), RATE, Limit(1e6)).samples
            yield (samples.clamp(-1, 1) * 32767).to(torch.int16).numpy()


def write_recordings(speech: list[np.ndarray], hours: float, folder: Path) -> dict[str, Path]:
    """A recording of this length in each format."""
    paths = {name: folder / f"{number}-{name[:4]}" for number, name in enumerate(FORMATS)}
    with ExitStack() as stack:
        files = [
            stack.enter_context(soundfile.SoundFile(path, "w", RATE, 1, **FORMATS[name]))
            for name, path in paths.items()
        ]
        missing, number = int(hours * 3600 * RATE), 0
        while missing > 0:
            part = speech[number % len(speech)][:missing]
            for file in files:
                file.write(part)
            missing, number = missing - len(part), number + 1
    with open(paths["flac, no length"], "r+b") as header:
        header.seek(21)
        kept = header.read(1)[0] & 0xF0
        header.seek(21)
        header.write(bytes([kept, 0, 0, 0, 0]))
    return paths


def compare(path: Path, hours: float, options: argparse.Namespace) -> tuple[float, float]:
    """CPU seconds of a recording as one window, and of its segments."""
    seconds = hours * 3600
    random = np.random.default_rng(0)
    cuts = np.sort(random.uniform(0, seconds, int(hours * options.segments) - 1)).round(3)
    edges = [0.0, *cuts.tolist(), seconds]
    lines = [
        {"path": str(path), "offset": start, "duration": round(stop - start, 3)}
        for start, stop in pairwise(edges)
        if stop - start > 0.1
    ]
    random.shuffle(lines)  # type: ignore[arg-type]
    times: dict[str, list[float]] = {"whole": [], "parts": []}
    for _ in range(options.runs):
        times["whole"].append(cpu_seconds([{"path": str(path)}], seconds))
        times["parts"].append(cpu_seconds(lines, 60.0))
    return statistics.median(times["whole"]), statistics.median(times["parts"])


def cpu_seconds(lines: list[dict[str, object]], max_seconds: float) -> float:
    """CPU time of stage 1 of these lines, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(featurize_here, (lines, max_seconds))


def featurize_here(lines: list[dict[str, object]], max_seconds: float) -> float:
    """Plan and make the shards of some lines; the CPU seconds that took."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "manifest.jsonl"
        manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
        options = FeaturizeOptions(
            data_dir=str(manifest),
            output_dir=Path(folder),
            max_seconds=max_seconds,
            shuffle_by="recordings",
        )
        began = time.process_time()
        manifests = find_manifests(options.data_dir)
        wanted = options.plan_options(*digest_manifests(manifests))
        plan = make_plan(manifests, options.features, wanted)
        for number in range(plan.num_shards):
            tally = make_shard(plan.task(number, options.output_dir, None))
            assert tally.rejects == 0, tally.rejects_by_reason
        return time.process_time() - began


if __name__ == "__main__":
    main()

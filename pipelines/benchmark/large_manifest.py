#!/usr/bin/env python
"""What a manifest of millions of segments costs `gmmpipe featurize` before the first shard is made.

Each row is a process of its own: a dry run; then, for each --shuffle_by, the plan that is made and
published, and what a run and a slice of an array job do that find it there. Seconds are of CPU,
user and system; the peak is that of resident memory.

    python pipelines/benchmark/large_manifest.py --lines 15_000_000 [--folder /tmp]

The manifest takes 175 bytes a line in --folder, and a plan 33; all of it is deleted at the end.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common import add_row

TEXT = "the quick brown fox jumps over a lazy dog while old men drink tea near some river"
BEFORE_THE_FIRST_SHARD = """
import sys
from pathlib import Path
from gmmpipe.featurization.job import open_folder
from gmmpipe.featurization.options import FeaturizeOptions

manifest, output_dir, shuffle_by, *slices = sys.argv[1:]
chosen = dict(zip(("task_index", "num_tasks"), map(int, slices)))
folder = open_folder(
    FeaturizeOptions(manifest, Path(output_dir), shuffle_by=shuffle_by, **chosen)
)
folder.path.mkdir(exist_ok=True)
plan = folder.obtain_plan()
plan.task(plan.shards[0], folder.path, None)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="planning a large manifest")
    parser.add_argument("--lines", type=int, default=15_000_000)
    parser.add_argument("--recordings", type=int, default=50_000)
    parser.add_argument("--num_tasks", type=int, default=500, help="slices of the array job")
    parser.add_argument("--folder", type=Path, help="where the manifest is written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        manifest = folder / "segments.jsonl"
        with open(manifest, "w") as file:
            file.writelines(segments(options.lines, options.recordings))
        print(f"{options.lines} lines, {manifest.stat().st_size / 1e9:.2f} GB")
        print(f"{'':24} {'seconds':>8} {'peak MB':>8}")
        show("imports", ["-c", "import gmmpipe.featurization.job"])
        places = ("--data_dir", str(manifest), "--output_dir", str(folder / "none"))
        show("dry run", ["-m", "gmmpipe", "featurize", *places, "--dry_run"])
        for shuffle_by in ("utterances", "recordings"):
            work = ["-c", BEFORE_THE_FIRST_SHARD, str(manifest), str(folder / shuffle_by)]
            show(f"plan by {shuffle_by}", [*work, shuffle_by])
            show(f"  another run by {shuffle_by}", [*work, shuffle_by])
            show(f"  a slice by {shuffle_by}", [*work, shuffle_by, "0", str(options.num_tasks)])


def segments(lines: int, recordings: int) -> Iterator[str]:
    """Manifest lines: consecutive segments of recordings, with an id, times and a text each."""
    draw = random.Random(0)
    texts = [TEXT[: draw.randint(20, len(TEXT))] for _ in range(2000)]
    start = 0.0
    for number in range(lines):
        recording, segment = divmod(number, -(-lines // recordings))
        start = start if segment else 0.0
        length = draw.uniform(4, 20)
        yield (
            f'{{"wav_path": "audio/{recording // 1000:03d}/recording_{recording:06d}.opus", '
            f'"id": "rec{recording:06d}_{segment:05d}", "offset": {start:.2f}, '
            f'"duration": {length:.2f}, "text": "{draw.choice(texts)}"}}\n'
        )
        start += length + 0.5


def show(name: str, arguments: list[str]) -> None:
    """Print what a Python process takes."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{name} failed"
    seconds = usage.ru_utime + usage.ru_stime
    add_row(name.strip(), "CPU s", seconds)
    add_row(name.strip(), "MB at the peak", usage.ru_maxrss / 1024)
    print(f"{name:24} {seconds:8.1f} {usage.ru_maxrss / 1024:8.0f}", flush=True)


if __name__ == "__main__":
    main()

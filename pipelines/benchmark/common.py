"""What several benchmarks need: stores, medians of runs in turn, and rows for bench.py's table."""

import dataclasses
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from gmmpipe.store.names import SHARD_SUFFIXES, STORE_FILE, shard_stem
from gmmpipe.store.schema import FeatureIdentity
from gmmpipe.store.sidecar import Sidecar
from gmmpipe.store.store_info import StoreInfo, Sums

ROWS_VARIABLE = "GMMPIPE_BENCH_ROWS"
"""bench.py names the file here in which it wants a script's rows."""


def add_row(
    what: str,
    unit: str,
    ours: float,
    rival: str = "",
    theirs: float | None = None,
    better: Literal["less", "more", "difference"] = "less",
) -> None:
    """Give a figure to bench.py; without effect where that does not run the script.

    Args:
        what: what was measured.
        unit: of the figures.
        ours: gmmpipe's.
        rival: whose figure is beside it, if any.
        theirs: the rival's.
        better: which of two figures is the better one; a difference is told where ratios say
            nothing, as of log-likelihoods.
    """
    row = {"what": what, "unit": unit, "ours": ours, "rival": rival, "theirs": theirs}
    _write({**row, "better": better})


def is_installed(module: str) -> bool:
    """Whether a rival is there; if not, the table says so."""
    if importlib.util.find_spec(module):
        return True
    print(f"{module} is left out: pip install 'gmmpipe[bench]'", file=sys.stderr)
    _write({"missing": module})
    return False


def _write(line: dict[str, Any]) -> None:
    if path := os.environ.get(ROWS_VARIABLE):
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")


def median_seconds(rivals: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Median of each rival's time, all of them run in turn; the first turn only warms up."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for number in range(runs + 1):
        for name, rival in rivals.items():
            began = time.perf_counter()
            rival()
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def gmmpipe(*arguments: object) -> float:
    """Run a gmmpipe command; its CPU seconds as a whole process, imports included."""
    return python("-m", "gmmpipe", *arguments)


def python(*arguments: object) -> float:
    """Run Python; its CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def make_store(data_dir: str, folder: Path, *options: str) -> Path:
    """A feature store made from manifests by `gmmpipe featurize`."""
    command = ["featurize", "--data_dir", data_dir, "--output_dir", str(folder), *options]
    command = [sys.executable, "-m", "gmmpipe", *command]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder


def multiply_store(store: Path, folder: Path, num_shards: int) -> Path:
    """A store of `num_shards` shards that are hard links to those of a store of tars, in turn."""
    info = StoreInfo.read(store / STORE_FILE, FeatureIdentity)
    folder.mkdir()
    paths = [(store / row.name).with_suffix(".json") for row in info.shards]
    sidecars = [Sidecar.read(path, "features") for path in paths]
    for number in range(num_shards):
        sidecar = sidecars[number % len(sidecars)]
        path = folder / f"{shard_stem(number)}{SHARD_SUFFIXES['tar']}"
        os.link(store / sidecar.row.name, path)
        row = dataclasses.replace(sidecar.row, name=path.name)
        dataclasses.replace(sidecar, row=row).write(path.with_suffix(".json"))
    sums = Sums.over("features", sorted(folder.glob("shard-*.json")))
    dataclasses.replace(info, **vars(sums)).write(folder / STORE_FILE)
    return folder

"""Runs of the JEPA recipe on the demo store, here and in processes of their own."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import ROOT, same_bits
from gmmpipe.run.world import World
from pipelines.jepa.options import JEPAOptions
from pipelines.jepa.trainer import Trainer

SCRIPT = str(ROOT / "pipelines" / "jepa" / "train.py")
SMALL: dict[str, Any] = {
    "max_steps": 120,
    "batch_size": 6,
    "log_every": 7,
    "save_every": 25,
    "num_workers": 0,
    "dim": 32,
    "layers": 2,
    "heads": 2,
    "predictor_layers": 1,
    "conv_dim": 8,
    "device": "cpu",
}
"""Some 20 ms a step on the demo store."""
Process = subprocess.Popen[bytes]


def arguments(store: object, gmm: object, out: Path, **changes: Any) -> list[str]:
    options = {"data_dir": store, "gmm_path": gmm, "output_dir": out, **SMALL, **changes}
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]


def train_here(
    store: object, gmm: Path, out: Path, world: World | None = None, **changes: Any
) -> Path:
    """What train.py does, in this process."""
    options = {**SMALL, **changes}
    world = world or World(0, 1, torch.device("cpu"))
    Trainer(JEPAOptions(str(store), gmm, out, **options), world).run()
    return out


def metrics_of(folder: Path) -> dict[str, list[float]]:
    header, *rows = (folder / "metrics.tsv").read_text().splitlines()
    columns = zip(*(map(float, row.split("\t")) for row in rows), strict=True)
    return dict(zip(header.split("\t"), map(list, columns), strict=True))


def assert_same_run(first: Path, second: Path) -> None:
    """Bit-identical jepa.pt, optimizer and all, and metrics.tsv."""
    one, other = (torch.load(folder / "jepa.pt", weights_only=True) for folder in (first, second))
    different = [name for name in one if not same_bits(one[name], other.get(name))]
    assert not different
    assert (first / "metrics.tsv").read_bytes() == (second / "metrics.tsv").read_bytes()


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not happened():
        assert process.poll() is None, "the run ended too soon"
        time.sleep(0.002)


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and not yet collected."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def small_shared_memory(size: str) -> list[str]:
    """The start of a command that has a /dev/shm of `size`; the test is skipped where none can."""
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    for options in (["-m"], ["-r", "-m"]):
        command = ["unshare", *options, "sh", "-c"]
        try:
            if subprocess.run([*command, mount], capture_output=True, check=False).returncode == 0:
                return [*command, f'{mount} && exec "$@"', "sh"]
        except FileNotFoundError:
            break
    pytest.skip("a file system may not be mounted here")

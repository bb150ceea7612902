"""Runs of the JEPA recipe on the demo store, here and in processes of their own."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from gmmpipe.run.world import World
from helpers import results
from helpers.making import alone
from helpers.processes import ROOT
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


def arguments(store: object, gmm: object, out: Path, **changes: Any) -> list[str]:
    options = {"data_dir": store, "gmm_path": gmm, "output_dir": out, **SMALL, **changes}
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]


def train_here(
    store: object, gmm: Path | None, out: Path, world: World | None = None, **changes: Any
) -> Path:
    """What train.py does, in this process."""
    options = {**SMALL, **changes}
    world = world or alone()
    Trainer(JEPAOptions(str(store), out, gmm, **options), world).run()
    return out


def assert_same_run(first: Path, second: Path) -> None:
    """Bit-identical jepa.pt, optimizer and all, and metrics.tsv."""
    results.assert_same_run(first, second, "jepa.pt")


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

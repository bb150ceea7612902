"""Signals that come while a command imports torch."""

import signal
import sys
from pathlib import Path

import pytest

from gmmpipe.errors import Stopped
from gmmpipe.run.stop import raise_stopped, stop_signals, stop_signals_held
from helpers.processes import ROOT, from_checkout, run

WATCH = """
import importlib.abc, os, runpy, signal, sys

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
            os._exit(42 if {*blocked} >= {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1} else 1)

sys.meta_path.insert(0, Watch())
sys.argv = sys.argv[1:]
if sys.argv[0] == "gmmpipe":
    runpy.run_module("gmmpipe", run_name="__main__")
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
TRAIN = str(ROOT / "pipelines" / "jepa" / "train.py")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_that_is_held_back_comes_afterwards(number) -> None:
    came = []

    def work() -> None:
        with stop_signals_held():
            signal.raise_signal(number)
            came.append(number)

    with stop_signals(raise_stopped), pytest.raises(Stopped):
        work()
    assert came == [number]


@pytest.mark.parametrize(
    "command",
    [
        ["gmmpipe", "fit", "--data_dir", "store", "--output_dir", "out"],
        ["gmmpipe", "label", "store", "--gmm_path", "gmm.pt", "--output_dir", "out"],
        ["gmmpipe", "evaluate", "store", "--gmm_path", "gmm.pt"],
        [f"{ROOT}/pipelines/fit_gmm.py", "--data_dir", "store", "--output_dir", "out"],
        [TRAIN, "--data_dir", "store", "--gmm_path", "gmm.pt", "--output_dir", "out"],
    ],
    ids=["fit", "label", "evaluate", "one command", "jepa"],
)
def test_signals_are_held_back_while_a_command_imports_torch(command, tmp_path: Path) -> None:
    """Else one in a hundred that come then aborts the process, instead of ending it with 143."""
    (tmp_path / "store").mkdir()
    (tmp_path / "gmm.pt").touch()
    done = run(
        [sys.executable, "-c", WATCH, *command], check=False, cwd=tmp_path, env=from_checkout()
    )
    assert done.returncode == 42, done.stderr

"""What the tests of the JEPA recipe share; a pytest plugin, beside a conftest.py for all tests."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from recipe import SCRIPT, Process, train_here

from conftest import ROOT, one_thread


@pytest.fixture(scope="session")
def uninterrupted(store: Path, gmm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one piece; not to be changed."""
    return train_here(store, gmm_path, tmp_path_factory.mktemp("jepa") / "whole")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts train.py in the background, or `command` with its path added, with `more` in its
    environment; output-N.txt has what the N-th prints. What is left at the end is killed."""
    started: list[Process] = []

    def begin(
        *options: str, command: tuple[str, ...] = (sys.executable,), **more: str
    ) -> subprocess.Popen[bytes]:
        with open(tmp_path / f"output-{len(started)}.txt", "wb") as output:
            streams = {"stdout": output, "stderr": subprocess.STDOUT}
            line, environment = [*command, SCRIPT, *options], {**one_thread(), **more}
            started.append(subprocess.Popen(line, cwd=ROOT, env=environment, **streams))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()

"""Processes that tests start: gmmpipe's commands, torchrun, and what becomes of them."""

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
"""The checkout."""
GMMPIPE = [sys.executable, "-m", "gmmpipe"]
"""The start of a command line."""
THREADS = os.environ.get("TEST_THREADS", "1")
"""torch's, here and in the processes that tests start; tests/processors.py sets others than one."""
PATIENCE_SECONDS = 120.0
"""Far beyond what is waited for in vain: it only keeps a failure finite."""

Process = subprocess.Popen[str]


def one_thread() -> dict[str, str]:
    """The environment, with one torch thread, as torchrun gives its workers."""
    return {**os.environ, "OMP_NUM_THREADS": THREADS}


def from_checkout() -> dict[str, str]:
    """The same for a script outside the checkout, whose package it is to import."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**one_thread(), "PYTHONPATH": path}


def run_gmmpipe(
    *arguments: object, check: bool = True, **options: Any
) -> subprocess.CompletedProcess:
    """Run ``python -m gmmpipe`` in a process of its own, with one torch thread."""
    return run([*GMMPIPE, *map(str, arguments)], check=check, **options)


def run(command: list[str], check: bool = True, **options: Any) -> subprocess.CompletedProcess:
    """Run a command; a failed one shows what it printed."""
    options.setdefault("cwd", ROOT)
    options.setdefault("env", one_thread())
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=240, **options
    )
    if check and done.returncode != 0:
        pytest.fail(f"{command} exited {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def torchrun(num_ranks: int, *arguments: str) -> list[str]:
    """The start of a torchrun command on this machine, at a port that is free."""
    options = ["--standalone", f"--nproc_per_node={num_ranks}"]
    return [sys.executable, "-m", "torch.distributed.run", *options, *arguments]


def root_cause(stderr: str) -> str:
    """What torchrun calls the root cause of a failed job."""
    return stderr.split("Root Cause (first observed failure):")[1]


class Started:
    """Processes in the background, each in a session of its own.

    What the n-th prints goes to ``output-N.txt`` in `folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[Process] = []

    def __call__(self, command: list[object], **more: str) -> Process:
        """Start a command, with `more` in its environment."""
        with open(self._path(len(self._processes)), "w") as output:
            process = subprocess.Popen(
                [*map(str, command)],
                cwd=ROOT,
                env={**one_thread(), **more},
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def output(self, number: int = 0) -> str:
        """What the n-th process has printed; -1 is the last one started."""
        return self._path(number % len(self._processes)).read_text()

    def end_of(self, process: Process) -> tuple[int, list[str]]:
        """Wait for a process to end: its exit status, and the lines that it printed."""
        status = process.wait(PATIENCE_SECONDS)
        return status, self.output(self._processes.index(process)).splitlines()

    def end(self) -> None:
        """Kill what is left of them, and what they have started."""
        for process in self._processes:
            for pid in living_members(process.pid):
                with suppress(ProcessLookupError):  # it ended just now
                    os.kill(pid, signal.SIGKILL)
            process.kill()
            process.wait()

    def _path(self, number: int) -> Path:
        return self._folder / f"output-{number}.txt"


def wait_until(happened: Callable[[], bool], *processes: subprocess.Popen[Any]) -> None:
    """Return as soon as something has happened, while the processes still run."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        for process in processes:
            assert process.poll() is None, f"ended too soon: {process.args}"
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.002)


def wait_for_the_end_of(pids: list[int]) -> None:
    """Return as soon as none of these processes is there any more."""
    wait_until(lambda: not any(map(is_alive, pids)))


def pause(seed: object, longest_seconds: float) -> None:
    """Wait for a moment that follows from a seed, to meet a process anywhere in its work."""
    time.sleep(random.Random(f"{seed}").uniform(0, longest_seconds))


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and not yet collected."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    return _state_and_session(Path(f"/proc/{pid}"))[0] not in "ZX"


def living_members(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        state, its_session = _state_and_session(path)
        if its_session == session and state not in "ZX":
            found.append(int(path.name))
    return found


def _state_and_session(process: Path) -> tuple[str, int]:
    """The state of a process ("X" where it has ended) and its session."""
    try:
        state, _, _, session = (process / "stat").read_text().rpartition(")")[2].split()[:4]
    except OSError:
        return "X", 0
    return state, int(session)


def killed_after(operations: int, job: Callable[[], object]) -> bool:
    """Run `job` in a process that kills itself after so many file operations; whether it came to.

    Renames and removals are counted. The process is a fork, so the job may start no threads.
    """
    pid = os.fork()
    if pid == 0:
        done = 0

        def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal done
                result = operation(*arguments, **options)
                done += 1
                if done == operations:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        for name in ("replace", "rename", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            job()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status == -signal.SIGKILL

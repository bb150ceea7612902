"""A piece of gmmpipe in a forked process: how it ends, what it says, within bounds of its own.

A fork has all modules imported already, so a command takes as long as its work; and nothing that
goes wrong in it, a hang or a kill or gigabytes, reaches whoever asked. Its process tree, file
operations and signals are real.
"""

import ctypes
import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

MAX_SECONDS = 60.0
"""Far beyond what anything here takes, also on a busy machine: who needs more hangs."""
MAX_BYTES = 1 << 30
"""What a process may take beyond what it was forked with; the stores here are of a few MB."""
_CRASHED = 70
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

Job = Callable[[], Any]


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Args:
        status: its exit status, or minus the signal that ended it.
        stdout, stderr: what it printed.
        value: what its job returned; None where it did not.
        excess: which bound it was killed for, in words; empty if none.
    """

    status: int
    stdout: str
    stderr: str
    value: Any = None
    excess: str = ""

    def fault(self, names: Iterable[str] = ()) -> str:
        """What is wrong with this as the end of a job that refuses its input; empty if nothing.

        Args:
            names: the message must hold one of these.
        """
        if self.excess:
            return self.excess
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        if self.status != 1 or len(lines) != 1 or "Traceback" in self.stderr:
            return f"exit status {self.status}: {self.stderr.strip()[-600:]}"
        if "(--debug shows where)" in lines[0]:
            return f"not an error that was foreseen: {lines[0]}"
        wanted = list(names)
        if wanted and not any(name in self.stderr for name in wanted):
            return f"names none of {', '.join(wanted)}: {lines[0]}"
        return ""


class Child:
    """A running child, the leader of a session of its own.

    Args:
        job: what it does; its result is pickled.
        max_seconds: what it may take.
        max_bytes: what it may grow by.
    """

    def __init__(
        self, job: Job, max_seconds: float = MAX_SECONDS, max_bytes: int = MAX_BYTES
    ) -> None:
        self._max_bytes = max_bytes + _resident_bytes(os.getpid())
        self._deadline = time.monotonic() + max_seconds
        pipes = [os.pipe() for _ in range(3)]  # not files: their size may be limited
        self._read = {end: bytearray() for end, _ in pipes}
        self._open = set(self._read)
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _live([end for _, end in pipes], job)
        for readable, writable in pipes:
            os.close(writable)
            os.set_blocking(readable, False)
        self._pidfd = os.pidfd_open(self.pid)

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended, within so many seconds at most."""
        return bool(select.select([self._pidfd], [], [], seconds)[0])

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to it and its own children."""
        try:
            os.killpg(self.pid, signum)
        except ProcessLookupError:
            os.kill(self.pid, signum)  # it leads no session yet

    def end(self) -> Ended:
        """Wait for its end, and see to it that it comes."""
        excess = ""
        while not self.wait(0.0):
            self._drain(select.select([self._pidfd, *self._open], [], [], 0.02)[0])
            if time.monotonic() > self._deadline:
                excess = "hangs"
            elif _resident_bytes(self.pid) > self._max_bytes:
                excess = "takes memory beyond all bounds"
            if excess:
                self.kill()
        _, status = os.waitpid(self.pid, 0)
        self._drain(list(self._read))
        for descriptor in (self._pidfd, *self._read):
            os.close(descriptor)
        stdout, stderr, result = map(bytes, self._read.values())
        code = os.waitstatus_to_exitcode(status)
        value = pickle.loads(result) if result and not code else None
        return Ended(
            code, stdout.decode(errors="replace"), stderr.decode(errors="replace"), value, excess
        )

    def _drain(self, ready: Sequence[int]) -> None:
        for descriptor in self._open & set(ready):
            with suppress(BlockingIOError):
                while data := os.read(descriptor, 1 << 16):
                    self._read[descriptor] += data
                self._open.discard(descriptor)


def run(job: Job, max_seconds: float = MAX_SECONDS, max_bytes: int = MAX_BYTES) -> Ended:
    """A job in a child, from its start to its end."""
    return Child(job, max_seconds, max_bytes).end()


def adopt_orphans() -> None:
    """Become the parent of whatever outlives its own one, as the ranks of a killed torchrun do."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_all() -> None:
    """End whatever is left of all children, which would write into the next trial's folder."""
    while left := _children(os.getpid()):  # theirs become this process's as they end
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _children(pid: int) -> set[int]:
    """The processes whose parent it is."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                found.add(int(status.parent.name))
    return found


def command(*arguments: object) -> Job:
    """``gmmpipe ARGUMENTS``; featurize makes its shards within the process."""

    def job() -> None:
        from gmmpipe.cli import cli
        from gmmpipe.featurization import job as featurize_job

        featurize_job.run_local = _run_here
        try:
            cli.main(args=list(map(str, arguments)), prog_name="gmmpipe")
        except SystemExit as leaving:
            if leaving.code:
                raise

    return job


def process(*arguments: object, python: Sequence[str] = ("-m", "gmmpipe")) -> Job:
    """The same as a fresh process with workers of its own, as a user starts it."""

    def job() -> NoReturn:
        os.environ["OMP_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, *python, *map(str, arguments)])

    return job


def library(function: Job) -> Job:
    """A function of the package whose errors end as a command's do."""

    def job() -> Any:
        from gmmpipe.cli.common import run_job

        box: list[Any] = []
        run_job(lambda: box.append(function()), debug=False)
        return box[0]

    return job


def file_bytes(folder: Path) -> dict[str, bytes]:
    """Every regular file below a folder, by its relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def _live(files: Sequence[int], job: Job) -> NoReturn:
    """The child's life; it must never return into the code that it was forked from."""
    status = _CRASHED
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody else would end it
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        sys.stdout = open(1, "w", closefd=False)
        sys.stderr = open(2, "w", closefd=False)
        value = job()
        with open(files[2], "wb", closefd=False) as file:
            pickle.dump(value, file)
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run_here(tasks: Iterable[Any], num_workers: int) -> Iterator[Any]:
    from gmmpipe.featurization.worker import make_shard

    return map(make_shard, tasks)


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0  # it has just ended

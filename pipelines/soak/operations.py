"""SIGKILL right after a file operation: all the moments at which a folder's content changes."""

import functools
import os
import signal
from collections.abc import Callable
from typing import Any

from pipelines.soak.child import Job, run

NAMES = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "fsync")
"""Operations of `os` by which gmmpipe, pathlib, shutil and zarr publish, move and delete."""


def killed_after(job: Job, condition: Callable[[], bool]) -> Job:
    """The job in a process that kills itself after the first operation that leaves `condition`."""

    def kill(name: str) -> None:
        if condition():
            os.kill(os.getpid(), signal.SIGKILL)

    return _watched(job, kill)


def killed_after_number(job: Job, number: int) -> Job:
    """The job in a process that kills itself after its `number`-th operation, from 1."""
    done: list[str] = []

    def kill(name: str) -> None:
        done.append(name)
        if len(done) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return _watched(job, kill)


def operations_of(job: Job) -> list[str]:
    """The names of a job's operations, in order; it must not fail."""
    done: list[str] = []

    def counting() -> list[str]:
        _watched(job, done.append)()
        return done

    ended = run(counting)
    assert ended.status == 0, ended
    return list(ended.value)


def _watched(job: Job, after: Callable[[str], object]) -> Job:
    def watching(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(operation)
        def call(*arguments: Any, **options: Any) -> Any:
            result = operation(*arguments, **options)
            after(name)
            return result

        return call

    def begin() -> Any:
        for name in NAMES:  # in the child alone: its parent's `os` stays what it is
            setattr(os, name, watching(name, getattr(os, name)))
        return job()

    return begin

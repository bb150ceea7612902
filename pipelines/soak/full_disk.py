"""A disk that is full, or a file that may not grow: one line, nothing half, and on with room."""

import os
import random
import resource
import subprocess
from pathlib import Path
from typing import Any

from pipelines.soak.child import Job, file_bytes, run
from pipelines.soak.crashes import WORKS
from pipelines.soak.readers import fit_result
from pipelines.soak.stage import Stage
from pipelines.soak.verdict import SKIPPED, Outcome, held, refused

FILLING = ("featurize tar", "featurize zarr", "label", "fit")
_whole: dict[tuple[int, str], Any] = {}


def fill(stage: Stage, rng: random.Random, name: str = "", way: str = "") -> Outcome:
    """Let a work run out of room, then give it room.

    Args:
        stage: where.
        rng: draws what is not given, and how much room there is.
        name: a name of `FILLING`.
        way: ``tmpfs``, or ``limit`` of a file's size.
    """
    name = name or rng.choice(FILLING)
    way = way or rng.choice(["tmpfs", "limit"])
    work = WORKS[name]
    with stage.scratch() as scratch:
        whole, size, largest = _undisturbed(stage, name, scratch / "whole")
        disk = scratch / "disk"
        disk.mkdir()
        out = disk / "out"
        job = work.job(stage, out)
        if way == "limit":
            room = rng.randrange(largest)
            ended = run(_limited(job, room))
            verdict = _judge(f"{name}: files of {room} bytes at most", ended, out, whole)
            return (
                verdict
                if verdict.verdict == "wrong"
                else _go_on(stage, name, out, verdict.words, whole)
            )
        room = rng.randrange(1 << 12, max(size, 1 << 13))
        words = f"{name}: a disk of {room >> 10} KiB"
        try:
            if not _mounted(disk, room):
                return Outcome(SKIPPED, words)
            verdict = _judge(words, run(job), out, whole)
            if verdict.verdict == "wrong":
                return verdict
            subprocess.run(["mount", "-o", "remount,size=256m", str(disk)], check=True)
            return _go_on(stage, name, out, words, whole)
        finally:  # also where it is interrupted
            if disk.is_mount():
                subprocess.run(["umount", "-l", str(disk)], check=True)


def _judge(words: str, ended: Any, out: Path, whole: dict[str, bytes]) -> Outcome:
    if ended.status == 0:
        return held(words, "")  # there was room enough
    if fault := ended.fault([str(out.parent)]):
        return refused(words, fault)
    begun = (
        {n: data for n, data in file_bytes(out).items() if not n.startswith(".")}
        if out.exists()
        else {}
    )
    half = [n for n, data in begun.items() if n.startswith("shard-") and data != whole.get(n)]
    half += [n for n, data in begun.items() if n == "store.json" and data != whole[n]]
    half += [n for n in begun if n.endswith(".pt") and not _loads(out / n)]
    return refused(words, f"half a file has a final name: {', '.join(half)}" if half else "")


def _go_on(stage: Stage, name: str, out: Path, words: str, whole: dict[str, bytes]) -> Outcome:
    ended = run(WORKS[name].job(stage, out))
    if ended.status != 0:
        return refused(words, f"with room again: {ended.stderr[-400:]}")
    same = (
        fit_result(out) == _whole[(id(stage), name)][3]
        if name == "fit"
        else file_bytes(out) == whole
    )
    return refused(words, "" if same else "with room again, another result")


def _loads(path: Path) -> bool:
    import torch

    try:
        torch.load(path, weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError):
        return False
    return True


def _limited(job: Job, num_bytes: int) -> Job:
    def begin() -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))
        return job()

    return begin


def _mounted(folder: Path, num_bytes: int) -> bool:
    size = f"size={max(1, num_bytes >> 12) << 12}"
    done = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)],
            check=False,
            capture_output=True,
        )
        if os.geteuid() == 0
        else None
    )
    return done is not None and done.returncode == 0


def _undisturbed(stage: Stage, name: str, out: Path) -> tuple[dict[str, bytes], int, int]:
    """The files that a work leaves, what they come to, and the largest."""
    key = (id(stage), name)
    if key not in _whole:
        stage.make(WORKS[name].arguments(stage, out))
        files = file_bytes(out)
        sizes = [len(data) for data in files.values()]
        result = fit_result(out) if name == "fit" else None
        _whole[key] = files, sum(sizes), max(sizes), result
    return _whole[key][:3]

"""The classes of faults by name, each a function of a seed: the same fault every time."""

import random
import traceback
from collections.abc import Callable
from pathlib import Path

from pipelines.soak.corruption import corrupt
from pipelines.soak.crashes import kill_after_operation, kill_at_random, operations
from pipelines.soak.full_disk import fill
from pipelines.soak.fuzz import fuzz
from pipelines.soak.hostile import lie
from pipelines.soak.numerics import fit_edge
from pipelines.soak.pairs import at_once
from pipelines.soak.stage import Stage
from pipelines.soak.verdict import WRONG, Outcome

TRIALS: dict[str, Callable[..., Outcome]] = {
    "corruption": corrupt,
    "kill at an operation": kill_after_operation,
    "kill at random": kill_at_random,
    "two at once": at_once,
    "full disk": fill,
    "hostile files": lie,
    "fuzz": fuzz,
    "numerics": fit_edge,
}
_stages: list[Stage] = []


def open_stage(folder: Path) -> None:
    """Make the stage that trials of this process are tried on."""
    _stages[:] = [Stage(folder)]


def try_one(name: str, seed: object, *given: object) -> Outcome:
    """One trial; what is not `given` is drawn from `seed`. Wrong, too, where the trial breaks."""
    try:
        return TRIALS[name](_stages[0], random.Random(f"{seed} {name}"), *given)
    except Exception as error:  # nobody knows what it would have found
        broken = "".join(traceback.format_exception(error, limit=-4))
        return Outcome(WRONG, f"the trial broke: {broken[-3000:]}")


def visible_operations(work: str) -> list[int]:
    """The numbers of a work's operations that change what a folder holds: all but fsync."""
    names = operations(_stages[0], work)
    return [number for number, name in enumerate(names, 1) if name != "fsync"]

"""Hostile files by name; the modules ``lying_*`` hold them."""

from collections.abc import Callable
from pathlib import Path

from pipelines.soak.child import Job
from pipelines.soak.stage import Stage

Case = Callable[[Stage, Path], tuple[Path, Job]]
"""From a stage and an empty folder to the file that lies, and what reads it."""
CASES: dict[str, Case] = {}


def case(make: Case) -> Case:
    """Add a case, called what its function is called."""
    CASES[make.__name__.replace("_", " ")] = make
    return make

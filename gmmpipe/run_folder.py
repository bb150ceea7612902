"""What the output folders of a fit and of a JEPA have in common: how a new run replaces an old one.

Nothing of the old run goes before the new one can stand for it: the new run's first checkpoint is
written whole under a hidden name, then the old run's files are deleted, then it gets its name.
Whoever finds such a hidden file, because that was cut short, finishes it.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from gmmpipe.errors import GmmpipeError
from gmmpipe.files import sync

NEXT_PREFIX = ".next-"


def next_path(path: Path) -> Path:
    """The hidden name of a new run's first checkpoint, which will be `path`."""
    return path.with_name(f"{NEXT_PREFIX}{path.name}")


def replace_run(folder: Path, old_files: Iterable[Path]) -> None:
    """Delete an old run's files if a new run's first checkpoint waits in `folder`; then name that.

    Args:
        folder: of both runs.
        old_files: what the old run has written; such as are there go.
    """
    waiting = sorted(folder.glob(f"{NEXT_PREFIX}*"))
    if not waiting:
        return
    for path in old_files:
        path.unlink(missing_ok=True)
    sync(folder)
    for path in waiting:
        os.replace(path, path.with_name(path.name.removeprefix(NEXT_PREFIX)))
    sync(folder)


def refuse_folders(paths: Iterable[Path]) -> None:
    """Say now that a file cannot be written where a folder is.

    Raises:
        GmmpipeError: one of `paths` is a folder.
    """
    for path in paths:
        if path.is_dir():
            raise GmmpipeError(f"{path}: is a folder, where a file is to be written: move it away")

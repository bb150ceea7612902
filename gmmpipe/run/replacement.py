"""How a new run replaces an old one in its folder.

Nothing of the old run goes before the new one can stand for it: the new run's first checkpoint is
written whole under a hidden name, then the old run's files are deleted, then it gets its name.
Whoever finds such a hidden file, because that was cut short, finishes it.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gmmpipe.claim import Claim, claim_folder, identity_of
from gmmpipe.errors import GmmpipeError
from gmmpipe.files import sync

log = logging.getLogger(__name__)
NEXT_PREFIX = ".next-"
Stamp = tuple[str, int, int]
"""A file's name, size, and time of its last change in ns."""


@contextmanager
def claim_run(folder: Path, decides: Any, what: str, *, overwrite: bool = False) -> Iterator[Claim]:
    """Claim `folder` for a run for the length of the block; the same run twice works together.

    Args:
        folder: of the run.
        decides: plain values that decide its files.
        what: the run in words, for whoever is refused.
        overwrite: whether another run's files are to be deleted: nobody may be at work on those.

    Raises:
        ClaimError: another process has the folder; it is named.
    """
    identity = identity_of(decides)
    if overwrite:
        with claim_folder(folder, identity, what, alone=True):
            pass
    with claim_folder(folder, identity, what) as claim:
        yield claim


def next_path(path: Path) -> Path:
    """The hidden name of a new run's first checkpoint, which will be `path`."""
    return path.with_name(f"{NEXT_PREFIX}{path.name}")


def stamps_of(paths: Iterable[Path]) -> list[Stamp]:
    """What tells whether files are still those that they were; those that are gone have none."""
    stamps = []
    for path in paths:
        with suppress(FileNotFoundError):
            state = path.stat()
            stamps.append((path.name, state.st_size, state.st_mtime_ns))
    return stamps


def waiting_in(folder: Path, is_model: Callable[[str], bool]) -> list[Path]:
    """First checkpoints of new runs that wait in `folder` under their hidden names.

    Args:
        folder: of both runs.
        is_model: whether a file of that name is a checkpoint of this kind of run: what anybody
            else has named so is left alone.
    """
    found = sorted(folder.glob(f"{NEXT_PREFIX}*"))
    return [path for path in found if is_model(path.name.removeprefix(NEXT_PREFIX))]


def replace_run(
    folder: Path, old_files: Iterable[Path], is_model: Callable[[str], bool], claim: Claim
) -> None:
    """Delete an old run's files if a new run's first checkpoint waits in `folder`; then name that.

    Ranks that lost each other may have left several, each of a step: all of them get their names.
    Where another process may be at work in the folder, nothing is done.

    Args:
        folder: of both runs.
        old_files: what the old run has written; such as are there go.
        is_model: as of `waiting_in`.
        claim: this process's, on the folder.
    """
    waiting = waiting_in(folder, is_model)
    if not waiting:
        return
    if others := claim.others():
        log.warning(
            "warning: %s replaces the run in its folder only once nobody else is at work there; "
            "if nobody is, delete %s",
            waiting[0],
            ", ".join(map(str, others)),
        )
        return
    name_next(folder, old_files, is_model)


def name_next(folder: Path, old_files: Iterable[Path], is_model: Callable[[str], bool]) -> None:
    """Do what `replace_run` does, for a run that has its first checkpoint now."""
    for path in old_files:
        path.unlink(missing_ok=True)
    sync(folder)  # a new name may not reach the disk before the old files are gone
    for path in waiting_in(folder, is_model):
        named = path.with_name(path.name.removeprefix(NEXT_PREFIX))
        os.replace(path, named)
        log.info("%s has replaced an earlier run", named)
    sync(folder)


def refuse_folders(paths: Iterable[Path]) -> None:
    """Say now that a file cannot be written where a folder is.

    Raises:
        GmmpipeError: one of `paths` is a folder.
    """
    for path in paths:
        if path.is_dir():
            raise GmmpipeError(f"{path}: is a folder, where a file is to be written: move it away")

"""How a new run replaces an old one in its folder.

Nothing of the old run is deleted before the new one can take its place. The new run's first
checkpoint is written whole under a hidden name, then the old run's files are deleted, then the
checkpoint gets its name. If that is interrupted, the next process that finds the hidden file
finishes it.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gmmpipe.claim import Claim, claim_folder, identity_of
from gmmpipe.files import sync
from gmmpipe.run.run_files import RunFiles

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
    """What tells later whether files have changed; a file that is missing has none."""
    stamps = []
    for path in paths:
        with suppress(FileNotFoundError):
            state = path.stat()
            stamps.append((path.name, state.st_size, state.st_mtime_ns))
    return stamps


def waiting_in(folder: Path, files: RunFiles) -> list[Path]:
    """First checkpoints of new runs that wait in `folder` under their hidden names.

    What is named as no checkpoint of this kind of run is left alone.
    """
    found = sorted(folder.glob(f"{NEXT_PREFIX}*"))
    return [path for path in found if files.is_model(path.name.removeprefix(NEXT_PREFIX))]


def finish_replacement(folder: Path, files: RunFiles, claim: Claim) -> None:
    """Do what `replace_run` does, if a new run's first checkpoint waits in `folder`.

    Where another process may be at work in the folder, nothing is done.

    Args:
        folder: of both runs.
        files: of this kind of run.
        claim: this process's, on the folder.
    """
    waiting = waiting_in(folder, files)
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
    replace_run(folder, files)


def replace_run(folder: Path, files: RunFiles) -> None:
    """Delete an old run's files, and give the new run's first checkpoint its name.

    Ranks that lost each other may have left several, each of a step: all of them get their names.
    """
    for path in files.all_in(folder):
        path.unlink(missing_ok=True)
    sync(folder)  # a new name may not reach the disk before the old files are gone
    for path in waiting_in(folder, files):
        named = path.with_name(path.name.removeprefix(NEXT_PREFIX))
        os.replace(path, named)
        log.info("%s has replaced an earlier run", named)
    sync(folder)

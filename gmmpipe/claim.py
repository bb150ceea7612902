"""Claims: which processes write into an output folder, and what they make of it.

Each process that writes leaves a file ``.claim-{host}-{pid}-{random}`` in the folder and keeps a
lock on it (flock) for as long as it lives. Processes that make the same thing work together;
another one is refused. The lock of a dead process is free, so its claim needs nobody's help. Its
forks, such as a DataLoader's processes, give up what they inherit of it.
"""

import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gmmpipe.errors import ClaimError
from gmmpipe.files import (
    OWNER_PATTERN,
    canonical_json,
    owner_name,
    remove,
    temporaries,
    temporary_path,
)
from gmmpipe.holder import NO_LOCKS, Holder, is_dead, read_holder, try_lock

log = logging.getLogger(__name__)
CLAIM_PREFIX = ".claim-"
_CLAIM = re.compile(rf"{re.escape(CLAIM_PREFIX)}{OWNER_PATTERN}")
_locked: set[int] = set()
"""Descriptors of this process that a lock may hang on."""


def _give_up_inherited() -> None:
    for descriptor in _locked:
        os.close(descriptor)
    _locked.clear()


os.register_at_fork(after_in_child=_give_up_inherited)


def identity_of(value: Any) -> str:
    """The digest of plain values that decide a result."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class Claim:
    """This process's claim on a folder, for as long as `claim_folder` is open."""

    def __init__(self, folder: Path, path: Path) -> None:
        self._folder, self._path = folder, path

    def is_alone(self) -> bool:
        """Whether no other living process has a claim on the folder."""
        return not self.others()

    def others(self) -> list[Path]:
        """The claims of other processes that live, or that are on another host and may."""
        return [path for path, _ in _others(self._folder, self._path)]

    def tidy(self) -> None:
        """Remove what killed processes left half-written, unless another process may be writing."""
        _tidy(self._folder, self._path)


@contextmanager
def claim_folder(folder: Path, identity: str, what: str, *, alone: bool = False) -> Iterator[Claim]:
    """Claim `folder` for the length of the block, beside processes that make the same thing.

    The last process to leave removes what killed processes left half-written.

    Args:
        folder: the output folder; it is made if it is not there.
        identity: digest of what decides the result.
        what: this process's work in words, for whoever is refused.
        alone: share the folder with nobody, not even of the same identity. A process that deletes
            files must be alone.

    Raises:
        ClaimError: another process has the folder; it is named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    me = Holder.this_process(what, "" if alone else identity)
    path = folder / f"{CLAIM_PREFIX}{owner_name()}"
    with _one_at_a_time(folder):
        # The file comes first, then the look at the others. So two processes that start at once
        # never both go on, even if the file system knows no locks.
        unfinished = temporary_path(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(unfinished, flags, 0o666)
        _locked.add(descriptor)
        try:
            try_lock(descriptor)
            os.write(descriptor, canonical_json(asdict(me)).encode() + b"\n")
            unfinished.rename(path)  # the lock stays with it
            for other_path, other in _others(folder, path):
                if alone or other is None or other.identity != identity:
                    raise _refusal(folder, other_path, other)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            _withdraw(descriptor, path)
            raise
    claim = Claim(folder, path)
    try:
        yield claim
    finally:
        if os.getpid() == me.pid:  # else this is a fork, and the claim is not its own
            with suppress(OSError), _one_at_a_time(folder):
                with suppress(OSError):
                    _remove_leftovers(folder, path)
                path.unlink()  # under the lock: of two that leave at once, one is the last
            _withdraw(descriptor, path)


def tidy_finished(folder: Path) -> None:
    """Remove what killed processes left in a finished folder, if it may be written to."""
    with suppress(OSError):
        _tidy(folder, None)


def _tidy(folder: Path, mine: Path | None) -> None:
    with _one_at_a_time(folder):
        _remove_leftovers(folder, mine)


def _remove_leftovers(folder: Path, mine: Path | None) -> None:
    leftovers = temporaries(folder)  # before the look at who could be writing them
    if not _others(folder, mine):
        for leftover in leftovers:
            remove(leftover)


def _withdraw(descriptor: int, path: Path) -> None:
    with suppress(OSError):
        path.unlink()
    _close(descriptor)


def _close(descriptor: int) -> None:
    """Close a descriptor, unless a fork has done so."""
    if descriptor in _locked:
        _locked.remove(descriptor)
        os.close(descriptor)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Where the file system knows locks, processes come and go one after another."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    _locked.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield
    finally:
        _close(descriptor)


def _others(folder: Path, mine: Path | None) -> list[tuple[Path, Holder | None]]:
    """The claims of other living processes; those of dead ones are removed.

    A claim that cannot be read is taken for a living process's, with None for who it is.
    """
    living = []
    for path in sorted(folder.glob(f"{CLAIM_PREFIX}*")):
        if path == mine or not _CLAIM.fullmatch(path.name):
            continue
        try:
            descriptor = _open_claim(path)
        except (FileNotFoundError, IsADirectoryError):
            continue  # it has left meanwhile, or is none
        try:
            locked = try_lock(descriptor)
            holder = read_holder(descriptor)
            if is_dead(locked, holder):
                path.unlink(missing_ok=True)
                log.warning("warning: %s: a process that was killed has left it: removed", path)
            else:
                living.append((path, holder))
        finally:
            os.close(descriptor)
    return living


def _open_claim(path: Path) -> int:
    flags = os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, os.O_RDWR | flags)  # NFS locks only what may be written
    except PermissionError:
        return os.open(path, os.O_RDONLY | flags)


def _refusal(folder: Path, path: Path, holder: Holder | None) -> ClaimError:
    if holder is None:
        return ClaimError(f"{folder}: in use, as {path} says, which cannot be read")
    message = (
        f"{folder}: in use by process {holder.pid} on {holder.host} since {holder.since} "
        f"({holder.what}); wait for it, or use another --output_dir"
    )
    if holder.is_elsewhere:
        message += f". If nothing runs there any more, delete {path}"
    return ClaimError(message)

"""Who has claimed a folder, and whether that process still lives."""

import errno
import fcntl
import json
import os
import socket
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

_MOST_BYTES = 1 << 16
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.EISDIR)
"""The errors of file systems without flock; NFS has no lock of a folder."""


@dataclass(frozen=True)
class Holder:
    """What a claim file says of the process that wrote it.

    Args:
        host, pid: where it runs.
        started: when it started, in clock ticks since boot, because a later process may get the
            same number.
        since: when it claimed the folder, in UTC.
        what: its command in words.
        identity: digest of what decides its result. Processes of one identity work together; one
            that must be alone has "", and works with nobody.
        boot: the kernel's boot_id, which is the same in all containers on one kernel; "" if the
            system or the claim's version of gmmpipe does not give it.
    """

    host: str
    pid: int
    started: int
    since: str
    what: str
    identity: str
    boot: str = ""

    @classmethod
    def this_process(cls, what: str, identity: str) -> "Holder":
        """The process that asks."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            started=_start_of(os.getpid()) or 0,
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            what=what,
            identity=identity,
            boot=_boot(),
        )

    @property
    def is_elsewhere(self) -> bool:
        """Whether it runs on a host of another name."""
        return self.host != socket.gethostname()


def is_dead(locked: bool | None, holder: Holder | None) -> bool:
    """Whether a claim's process is gone for certain.

    Args:
        locked: whether its lock could be taken; None where the file system knows no locks.
        holder: what the claim says.
    """
    if locked is False:
        return False
    if holder is None:
        return locked is True
    if locked and holder.boot and holder.boot == _boot():
        return True  # in another container perhaps, but a lock is the kernel's
    if holder.is_elsewhere:
        return False  # locks may not reach from host to host, and it cannot be asked
    if locked:
        return True
    start = _start_of(holder.pid)
    # A later process may have got its number; 0 is a start that is not known.
    return start is None or (start != holder.started and 0 not in (start, holder.started))


def try_lock(descriptor: int) -> bool | None:
    """Lock a file without waiting: whether it worked; None where the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return None
    return True


def read_holder(descriptor: int) -> Holder | None:
    """What a claim says; fields that another version of gmmpipe adds are left out."""
    try:
        values = json.loads(os.read(descriptor, _MOST_BYTES))
        there = [field for field in fields(Holder) if field.name in values]
        if any(type(values[field.name]) is not field.type for field in there):
            return None
        return Holder(**{field.name: values[field.name] for field in there})
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _boot() -> str:
    """The kernel's boot_id; "" where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_of(pid: int) -> int | None:
    """When a process of this host started, in clock ticks since boot; None where there is none.

    Where the system has no ``/proc``, 0 of any process that is there.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name before it, in parentheses, may hold blanks (proc_pid_stat(5)).
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        try:
            os.kill(pid, 0)
        except PermissionError:
            return 0
        except (OSError, OverflowError):
            return None
        return 0

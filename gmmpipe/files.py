"""Files that are there whole or not at all, and JSON that is the same bytes every time."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from gmmpipe.errors import GmmpipeError

TEMPORARY_PREFIX = ".tmp-"
OWNER_PATTERN = r"[\w-]*-[0-9]+-[0-9a-f]{8}"
"""What `owner_name` looks like. A user's file with only the same prefix is not ours."""
_TEMPORARY = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}{OWNER_PATTERN}-.+", re.DOTALL)
_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
)
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EIO)


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys, no spaces and ASCII only.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return _CANONICAL.encode(value)


def owner_name() -> str:
    """A part of a file name that no other process uses: host, process id and a random part."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


def temporary_path(path: Path) -> Path:
    """A name beside `path` that no other process uses."""
    return path.with_name(f"{TEMPORARY_PREFIX}{owner_name()}-{path.name}")


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears as `path` only once the block has ended without an error.

    It is written beside `path`, flushed to the disk and renamed; after an error it is removed.
    """
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name_full_disk(error, path)
        raise
    sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """An empty folder that appears as `path` once the block has ended without an error.

    Its files are flushed to the disk before. A folder that is at `path` already is whole; it stays.
    """
    temporary = temporary_path(path)
    temporary.mkdir()
    try:
        yield temporary
        for part in [*temporary.rglob("*"), temporary]:
            sync(part)
        try:
            temporary.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    except BaseException as error:
        _name_full_disk(error, path)
        raise
    finally:
        remove(temporary)
    sync(path.parent)


@contextmanager
def scratch_file(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path` for what is to become of it; it has no name and goes with the block."""
    temporary = temporary_path(path)
    try:
        with open(temporary, "w+b") as file:
            temporary.unlink()
            yield file
    except OSError as error:
        _name_full_disk(error, path)
        raise


def _name_full_disk(error: BaseException, path: Path) -> None:
    """Raise an error that names `path`, if `error` means that nothing can be written there."""
    if isinstance(error, OSError) and error.errno in _FULL:
        raise GmmpipeError(f"{path}: cannot be written: {error.strerror}") from error


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_file(path) as file:
        file.write(data)


def open_regular(path: Path) -> int:
    """Open a regular file, or a link to one, for reading: its descriptor.

    Raises:
        OSError: the file cannot be opened; or it is a folder, a device, a FIFO or a socket, and
            reading might never begin, or never end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: as from `open_regular`, or it has more than `max_bytes`.
    """
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"has {size} bytes, more than {max_bytes}", str(path))
        return file.read(size)


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a regular file; OSError if it is missing, or not regular."""
    with open(open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listed_paths(text: str | Path) -> list[Path]:
    """The paths of a comma-separated list; or one, if the whole text is the name of a folder."""
    if str(text) and os.path.isdir(text):
        return [Path(text)]
    return [Path(part.strip()) for part in str(text).split(",") if part.strip()]


def sync(path: Path) -> None:
    """Make a file's content, or the renames within a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporaries(folder: Path) -> list[Path]:
    """The half-written files and folders in `folder`, of living and of killed processes."""
    found = folder.glob(f"{TEMPORARY_PREFIX}*")
    return sorted(path for path in found if _TEMPORARY.fullmatch(path.name))


def remove(path: Path) -> None:
    """Delete a file, or a folder with all its content, if it is there.

    A folder is renamed first, so that nobody finds half of it under its name.
    """
    if path.is_dir():
        doomed = path if _TEMPORARY.fullmatch(path.name) else path.rename(temporary_path(path))
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

"""Files that are there whole or not at all, and JSON that is the same bytes every time."""

import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY_PREFIX = ".tmp-"


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys, no spaces and ASCII only.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def temporary_path(path: Path) -> Path:
    """A name beside `path` that no other process uses (host, process id and a random part)."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]
    unique = f"{host}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{TEMPORARY_PREFIX}{unique}-{path.name}")


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
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_file(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporaries(folder: Path) -> None:
    """Delete what killed processes left half-written in `folder`."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        leftover.unlink(missing_ok=True)

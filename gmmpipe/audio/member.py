"""A member of an archive: what names it, and its bytes."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gmmpipe.audio.archive_index import indexed_range
from gmmpipe.errors import AudioError

MOST_BYTES = 1 << 31
"""Of a member: it is decoded from memory."""

_COPIED_BYTES = 1 << 24


@dataclass(frozen=True)
class Member:
    """A file within an archive.

    Args:
        archive: the path of the archive.
        name: the member's path in it.
        range: where the bytes are: ``(start, stored bytes)`` for bytes that are stored as they are
            (in a tar.gz: in the tar within), ``(start, stored bytes, bytes)`` for those that are
            deflated; None where the name has to be looked up.
    """

    archive: str
    name: str
    range: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"{self.archive}#{self.name}"


def open_regular(path: str) -> int:
    """A descriptor of a regular file; anything else is refused before it is opened.

    Raises:
        AudioError: not_found, not_a_regular_file or unreadable.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise AudioError("not_a_regular_file", "a folder, device, FIFO or socket")
        return os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError("not_found", "no such file") from error
    except (UnicodeEncodeError, ValueError) as error:
        raise AudioError("not_found", "a name that no file can have") from error
    except OSError as error:
        raise AudioError("unreadable", error.strerror or "cannot be opened") from error


def open_member(member: Member) -> int:
    """A descriptor of a nameless file in memory that holds the member's bytes.

    Raises:
        AudioError: not_found, not_a_regular_file, unreadable, undecodable or truncated.
    """
    with _opened(member.archive) as archive:
        place = member.range or indexed_range(member.archive, archive, member.name)
        start, count = place
        if count > MOST_BYTES:
            raise AudioError("undecodable", f"a member of {count} bytes, beyond {MOST_BYTES}")
        if start + count > os.fstat(archive).st_size:
            raise AudioError("truncated", f"the archive ends within its {count} bytes")
        return _copied(archive, start, count)


def descriptor_of(content: bytes) -> int:
    """A descriptor of a nameless file in memory of these bytes."""
    descriptor = os.memfd_create("audio")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


@contextmanager
def _opened(path: str) -> Iterator[int]:
    try:
        descriptor = open_regular(path)
    except AudioError as error:
        raise AudioError(error.reason, f"its archive: {error.detail}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _copied(archive: int, start: int, count: int) -> int:
    """A nameless file in memory of a range of the archive."""
    descriptor = os.memfd_create("audio")
    try:
        stop = start + count
        while start < stop:
            copied = os.sendfile(descriptor, archive, start, min(stop - start, _COPIED_BYTES))
            if copied == 0:
                raise AudioError("truncated", "the archive is shorter than it was")
            start += copied
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError as error:
        os.close(descriptor)
        raise AudioError("unreadable", error.strerror or "cannot be read") from error
    except AudioError:
        os.close(descriptor)
        raise
    return descriptor

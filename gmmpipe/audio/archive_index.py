"""Where the members of an archive are, for those that are asked for by their names alone."""

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import BinaryIO

from gmmpipe.audio.gzip_bytes import GZIP_MAGIC, GzipBytes
from gmmpipe.audio.plain_bytes import PlainBytes
from gmmpipe.audio.tar_headers import DamagedArchiveError, Entry, clean_name, tar_entries
from gmmpipe.audio.zip_directory import zip_entries
from gmmpipe.errors import AudioError

_Place = tuple[int, ...]


class ArchiveIndex:
    """The places of an archive's files by name, in 40 bytes a file.

    Args:
        entries: the archive's members; of several with one name, the last one counts.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        hashes, starts, stored, sizes = (array("q") for _ in range(4))
        self._problems: dict[int, tuple[str, str]] = {}
        for number, entry in enumerate(each for each in entries if not each.is_not):
            if entry.problem:
                self._problems[number] = entry.problem
                entry = Entry(entry.name, 0, 0)  # its size may be any number
            hashes.append(hash(entry.name))
            starts.append(entry.start)
            stored.append(entry.stored_bytes)
            sizes.append(-1 if entry.size is None else entry.size)
        self._starts, self._stored, self._sizes = starts, stored, sizes
        by_hash = sorted(range(len(hashes)), key=lambda n: (hashes[n], -n))
        self._order = array("q", by_hash)
        self._hashes = array("q", (hashes[n] for n in by_hash))

    def range_of(self, name: str) -> _Place:
        """Where the bytes of a member are, as `Member` has it.

        Raises:
            AudioError: not_found, or why it cannot be read.
        """
        wanted = hash(clean_name(name))
        at = bisect_left(self._hashes, wanted)
        if at == len(self._hashes) or self._hashes[at] != wanted:
            raise AudioError("not_found", "no such member in its archive")
        number = self._order[at]
        if problem := self._problems.get(number):
            raise AudioError(*problem)
        place = self._starts[number], self._stored[number]
        return place if self._sizes[number] < 0 else (*place, self._sizes[number])


def indexed_range(path: str, descriptor: int, name: str) -> _Place:
    """Where a member is in the archive at `path`, open as `descriptor`.

    Raises:
        AudioError: not_found, undecodable or truncated.
    """
    status = os.fstat(descriptor)
    return _index_of(path, status.st_size, status.st_mtime_ns).range_of(name)


def index_of(path: str) -> ArchiveIndex:
    """The index of the archive at `path`.

    Raises:
        AudioError: not_found, unreadable or undecodable.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise AudioError("not_found", "no such archive") from error
    return _index_of(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)  # as many as a manifest may name by turns
def _index_of(path: str, size: int, modified: int) -> ArchiveIndex:
    """The index of an archive; its size and time say whether it is still the same."""
    try:
        with open(path, "rb") as file:
            return ArchiveIndex(_entries(file, path, size))
    except DamagedArchiveError as error:
        raise AudioError("undecodable", f"its archive: {error}") from error
    except OSError as error:
        raise AudioError("unreadable", error.strerror or "cannot be read") from error


def _entries(file: BinaryIO, path: str, size: int) -> Iterator[Entry]:
    """The members of an archive of any kind."""
    first = os.pread(file.fileno(), 4, 0)
    if path.lower().endswith(".zip") or first == b"PK\3\4":
        return zip_entries(file)
    is_packed = first[: len(GZIP_MAGIC)] == GZIP_MAGIC
    return tar_entries(GzipBytes(file.fileno()) if is_packed else PlainBytes(file.fileno(), size))

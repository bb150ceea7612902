"""The members of a plain tar, one header at a time, each checked against the file's size."""

import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from gmmpipe.errors import StoreError
from gmmpipe.files import open_regular
from gmmpipe.store.read_ranges import MAX_SAMPLE_BYTES

_BLOCK = tarfile.BLOCKSIZE
_MAX_NPY_HEAD = 4096


@dataclass(frozen=True)
class Member:
    """One member of a tar: its name, where its content begins, and its size in bytes."""

    name: str
    start: int
    size: int


@dataclass(frozen=True)
class StoredArray:
    """What an ``.npy`` member should be: its name, where its values begin, and their layout."""

    name: str
    byte_offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class TarReader:
    """An open tar; use it in a with statement.

    Raises:
        StoreError: it is missing or no regular file; and from all methods, where it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = open(open_regular(path), "rb", buffering=0)
            self._size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror}") from error

    def __enter__(self) -> "TarReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def members(self, start: int = 0) -> Iterator[Member]:
        """The members from the header at `start` on."""
        at = start
        while any(header := self._read(at, _BLOCK)):
            try:
                info = tarfile.TarInfo.frombuf(header, "ascii", "strict")
            except (tarfile.TarError, ValueError) as error:
                raise StoreError(f"{self._path}: damaged at byte {at}: {error}") from error
            member = Member(info.name, at + _BLOCK, info.size)
            if not 0 <= info.size <= self._size - member.start:
                raise StoreError(f"{self._path}: damaged or truncated at byte {at}")
            yield member
            at = member.start + member.size + -member.size % _BLOCK

    def content(self, member: Member) -> bytes:
        """The bytes of a member."""
        if member.size > MAX_SAMPLE_BYTES:
            raise StoreError(f"{self._path}: {member.name} has {member.size} bytes")
        return self._read(member.start, member.size)

    def check_arrays(self, expected: Iterable[StoredArray]) -> None:
        """Make sure that the ``.npy`` members are as `expected`, in that order."""
        found = (member for member in self.members() if member.name.endswith(".npy"))
        for array, member in zip_longest(expected, found):
            if array is None or member is None or not self._is(member, array):
                name = array.name if member is None else member.name
                raise StoreError(f"{self._path}: {name} is not what its index says")

    def _is(self, member: Member, array: StoredArray) -> bool:
        head_bytes = array.byte_offset - member.start
        if member.name != array.name or not 0 < head_bytes <= min(_MAX_NPY_HEAD, member.size):
            return False
        head = BytesIO(self._read(member.start, head_bytes))
        try:
            version = np.lib.format.read_magic(head)
            layout = np.lib.format.read_array_header_1_0(head)
        except ValueError:
            return False
        num_bytes = int(np.prod(array.shape)) * array.dtype.itemsize
        return (version, layout, head.tell(), member.size) == (
            (1, 0),
            (array.shape, False, array.dtype),
            head_bytes,
            head_bytes + num_bytes,
        )

    def _read(self, start: int, count: int) -> bytes:
        try:
            self._file.seek(start)
            data = self._file.read(count)
        except OSError as error:
            raise StoreError(f"{self._path}: cannot be read: {error.strerror}") from error
        if len(data) != count:
            raise StoreError(f"{self._path}: damaged or truncated")
        return data

"""The audio in the rows of Parquet files, read forward a row at a time."""

import os
import threading
from collections.abc import Iterator
from typing import Any

from gmmpipe.audio.member import Member, open_regular
from gmmpipe.audio.memory_file import memory_file
from gmmpipe.audio.parquet_file import AudioParquet, ParquetError, is_parquet
from gmmpipe.errors import AudioError

MOST_PAGE_BYTES = 1 << 30
"""Of a page of audio, which is unpacked whole; a page may hold some hundreds of rows."""

_Key = tuple[str, int, int]


def is_row(member: Member) -> bool:
    """Whether a member is a row of a Parquet file; its name is the row's number, from 0."""
    return is_parquet(member.archive)


def open_row(member: Member) -> int:
    """A descriptor of a file with a row's audio: its bytes in memory, else the file it names.

    Raises:
        AudioError: not_found, missing_path, unreadable, undecodable or not_a_regular_file.
    """
    try:
        content, path = _reader.row(member.archive, member.name)
    except AudioError as error:
        raise AudioError(error.reason, f"its parquet file: {error.detail}") from error
    except ParquetError as error:
        raise AudioError("undecodable", f"its parquet file: {error}") from error
    if content is not None:
        return memory_file([content])
    if not path:
        raise AudioError("missing_path", "the row has neither bytes of audio nor a path")
    return open_regular(os.path.join(os.path.dirname(member.archive), path))


class _Reader(threading.local):
    """One place in one row group of one file, from which the next rows are read; one a thread."""

    def __init__(self) -> None:
        self._key: _Key | None = None
        self._file: AudioParquet | None = None
        self._group = self._next_row = -1
        self._rows: Iterator[Any] = iter(())

    def row(self, path: str, name: str) -> tuple[Any, str | None]:
        """The bytes of a row's audio, as a buffer, or None and its path if it has one.

        Raises:
            AudioError: the file or the row cannot be read.
            ParquetError: the file is damaged.
        """
        file = self._opened(path)
        row = int(name) if name.isascii() and name.isdecimal() and len(name) < 19 else -1
        if not 0 <= row < file.first_rows[-1]:
            raise AudioError("not_found", "no such row")
        try:
            return self._value(file, row)
        except BaseException:
            self._group = -1  # the batches have ended
            raise

    def _value(self, file: AudioParquet, row: int) -> tuple[Any, str | None]:
        group = file.group_of(row)
        if group != self._group or row < self._next_row:
            columns = [f"{file.column}.bytes"]
            if (largest := file.largest_page_bytes(group, columns)) > MOST_PAGE_BYTES:
                text = f"a page of {largest} bytes, beyond {MOST_PAGE_BYTES}"
                raise AudioError("undecodable", text)
            if file.has_path:
                columns.append(f"{file.column}.path")
            self._rows = file.batches(group, columns, rows=1)
            self._group, self._next_row = group, file.first_rows[group]
        while self._next_row < row:
            next(self._rows, None)
            self._next_row += 1
        batch = next(self._rows, None)
        self._next_row += 1
        if batch is None:
            raise AudioError("undecodable", "it ends before its header says")
        audio = batch.column(0)[0]
        if not audio.is_valid:
            return None, None
        if audio["bytes"].is_valid:
            return audio["bytes"].as_buffer(), None
        path = audio["path"] if file.has_path else None
        return None, os.fsdecode(bytes(path.as_buffer())) if path and path.is_valid else None

    def _opened(self, path: str) -> AudioParquet:
        descriptor = open_regular(path)
        try:
            status = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        key = (path, status.st_size, status.st_mtime_ns)
        if key != self._key or self._file is None:
            if self._file is not None:
                self._file.close()
            self._key, self._file, self._group = None, None, -1
            self._file = AudioParquet(path)
            self._key = key
        return self._file


_reader = _Reader()

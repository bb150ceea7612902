"""Where a Parquet file has its columns, and how large their pages are once they are unpacked.

pyarrow takes the sizes of pages at their word, and where the footer is damaged in some ways it ends
the whole process that asks it for these places. So they are read here.
"""

import os
from dataclasses import dataclass
from typing import Any

from gmmpipe.audio.thrift import ThriftError, ThriftReader

_TAIL_BYTES = 8
_LONGEST_FOOTER_BYTES = 1 << 26
_FIRST_READ_BYTES = 1 << 12
_LONGEST_PAGE_HEADER_BYTES = 1 << 20


class LayoutError(Exception):
    """The footer, or a page's header, is damaged."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A column's bytes in one row group.

    Args:
        start: where they begin in the file.
        stop: where they end.
        values: how many values there are, nulls among them.
        nulls: how many nulls, or None if that is not stated.
    """

    start: int
    stop: int
    values: int
    nulls: int | None


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows that are stored together.

    Args:
        rows: how many.
        chunks: the columns by their names, ``audio.bytes``.
    """

    rows: int
    chunks: dict[str, Chunk]


def row_groups(descriptor: int) -> list[RowGroup]:
    """The row groups of an open Parquet file.

    Raises:
        LayoutError: the footer is damaged.
    """
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or length > min(size - _TAIL_BYTES, _LONGEST_FOOTER_BYTES):
        raise LayoutError("no footer, or one that is too long")
    footer = os.pread(descriptor, length, size - _TAIL_BYTES - length)
    try:
        groups = [_row_group(group) for group in ThriftReader(footer).struct()[4]]
    except (ThriftError, IndexError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise LayoutError("a footer that cannot be read") from error
    # Whatever there is in a file takes a byte; only nulls take none.
    if any(group.rows < 0 for group in groups) or sum(group.rows for group in groups) > size:
        raise LayoutError("a footer that states more rows than there are bytes")
    return groups


def _row_group(fields: dict[int, Any]) -> RowGroup:
    chunks = {}
    for column in fields[1]:
        about = column[3]
        start = min(about[9], about.get(11) or about[9])
        name = b".".join(about[3]).decode(errors="replace")
        nulls = about.get(12, {}).get(3)
        chunks[name] = Chunk(start, start + about[7], about[5], nulls)
    return RowGroup(fields[3], chunks)


def largest_page_bytes(descriptor: int, chunk: Chunk) -> int:
    """How many bytes the largest page of a column has, unpacked or as it is stored.

    Raises:
        LayoutError: a page is damaged.
    """
    largest, at = 0, chunk.start
    while at < chunk.stop:
        size, stored, length = _page_header(descriptor, at)
        if size < 0 or stored < 0:
            raise LayoutError(f"a page of {min(size, stored)} bytes")
        largest = max(largest, size, stored)
        at += length + stored
    return largest


def _page_header(descriptor: int, at: int) -> tuple[int, int, int]:
    """The bytes of the page there, unpacked and as they are stored, and of its header."""
    count = _FIRST_READ_BYTES
    while True:
        data = os.pread(descriptor, count, at)
        reader = ThriftReader(data)
        try:
            fields = reader.struct()
            return int(fields[2]), int(fields[3]), reader.at
        except IndexError as error:
            # Statistics may make it long.
            if len(data) < count or count >= _LONGEST_PAGE_HEADER_BYTES:
                raise LayoutError("a page without a header") from error
            count *= 16
        except (ThriftError, KeyError, TypeError, ValueError) as error:
            raise LayoutError("a page whose header cannot be read") from error

"""A file made of bytes in memory and ranges of another file, for libsndfile to read."""

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate


class SplicedFile(io.RawIOBase):
    """Bytes, then ranges of an open file, as one file; only what is read is copied.

    Args:
        descriptor: the open file; it must stay open, and is not closed.
        ranges: where the parts of the file begin and end, in order.
        head: the bytes in front of them.
    """

    def __init__(
        self, descriptor: int, ranges: Sequence[tuple[int, int]], head: bytes = b""
    ) -> None:
        self._descriptor, self._head = descriptor, head
        self._ranges = list(ranges)
        lengths = (stop - start for start, stop in ranges)
        self._starts = list(accumulate(lengths, initial=len(head)))
        self._at = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a byte; returns it."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._starts[-1]}[whence]
        self._at = max(0, origin + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` as far as the bytes go; returns how many."""
        # libsndfile takes a short read for the end of the file.
        wanted, got = len(buffer), 0
        while got < wanted and (part := self._part(wanted - got)):
            buffer[got : got + len(part)] = part
            got += len(part)
            self._at += len(part)
        return got

    def _part(self, most: int) -> bytes:
        """Up to `most` bytes of one part, from the current place."""
        if self._at < len(self._head):
            return self._head[self._at : self._at + most]
        number = bisect_right(self._starts, self._at) - 1
        if number >= len(self._ranges):
            return b""
        start, stop = self._ranges[number]
        start += self._at - self._starts[number]
        return os.pread(self._descriptor, min(most, stop - start), start)

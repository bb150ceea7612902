"""Members of archives that can be read from front to end only: a tar.gz.

The archive of the last member stays open where that member ended, so that members that are asked
for in the archive's order cost one pass over it. An earlier member begins another pass.
"""

import os
import threading
from collections.abc import Iterator

from gmmpipe.audio.gzip_bytes import GzipBytes
from gmmpipe.audio.inflate import refuse_bomb
from gmmpipe.audio.memory_file import memory_file
from gmmpipe.audio.tar_headers import DamagedArchiveError
from gmmpipe.errors import AudioError

_Identity = tuple[str, int, int]


class _Stream:
    """An archive that is being read, and the last member of it."""

    def __init__(self, path: str, identity: _Identity) -> None:
        self.identity = identity
        self._descriptor = os.open(path, os.O_RDONLY)
        self._bytes = GzipBytes(self._descriptor)
        self._last: tuple[int, int] | None = None
        self._last_descriptor = -1

    def member(self, start: int, count: int) -> int:
        """A descriptor of a range of the unpacked bytes; see `streamed_member`."""
        if self._last != (start, count):
            self._forget()
            self._last_descriptor = memory_file(self._pieces(start, count))
            self._last = start, count
        # Opened anew, a descriptor has a place of its own.
        return os.open(f"/proc/self/fd/{self._last_descriptor}", os.O_RDONLY)

    def is_ahead_of(self, start: int, count: int) -> bool:
        """Whether a range can be had from here on."""
        return start >= self._bytes.at or self._last == (start, count)

    def close(self) -> None:
        self._forget()
        os.close(self._descriptor)

    def _pieces(self, start: int, count: int) -> Iterator[memoryview]:
        stop = start + count
        if self._bytes.skip_to(start):
            packed_at = self._bytes.packed_at
            for piece in self._bytes.pieces(count):
                yield piece
                refuse_bomb(self._bytes.packed_at - packed_at + 1, self._bytes.at - start)
        if self._bytes.at != stop:
            raise AudioError("truncated", f"the archive ends within its {count} bytes")

    def _forget(self) -> None:
        if self._last_descriptor >= 0:
            os.close(self._last_descriptor)
        self._last, self._last_descriptor = None, -1


class _Open(threading.local):
    """The stream that a thread has open."""

    stream: _Stream | None = None


_open = _Open()


def streamed_member(path: str, archive: int, start: int, count: int) -> int:
    """A descriptor of a nameless file in memory of a range of what a gzip file unpacks to.

    Args:
        path: the archive.
        archive: the same, open.
        start: where the range begins.
        count: how many bytes it has.

    Raises:
        AudioError: undecodable, unreadable or truncated.
    """
    status = os.fstat(archive)
    identity = path, status.st_size, status.st_mtime_ns
    stream = _open.stream
    try:
        if stream is None or stream.identity != identity or not stream.is_ahead_of(start, count):
            if stream is not None:
                _open.stream = None
                stream.close()
            stream = _open.stream = _Stream(path, identity)
        return stream.member(start, count)
    except DamagedArchiveError as error:
        raise AudioError("undecodable", f"its archive: {error}") from error
    except OSError as error:
        raise AudioError("unreadable", error.strerror or "cannot be read") from error

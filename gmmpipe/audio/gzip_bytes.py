"""The bytes that a gzip file unpacks to, from front to end, as a `ForwardFile`."""

import os
import zlib
from collections.abc import Iterator

from gmmpipe.audio.tar_headers import DamagedArchiveError

GZIP_MAGIC = b"\x1f\x8b"
_PACKED_BYTES = 1 << 18
_PIECE_BYTES = 1 << 20


class GzipBytes:
    """What a gzip file unpacks to; a few MB of it are held at a time.

    A file that is cut off ends where it is cut.

    Args:
        descriptor: the open file, which is not closed. Its own place is neither used nor moved, so
            that a process may be forked from this one.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._packed, self.packed_at = b"", 0
        self._unpacker = _unpacker()
        self._piece = memoryview(b"")
        self.at = 0

    def pieces(self, count: int) -> Iterator[memoryview]:
        """The next `count` bytes in pieces, fewer at the end.

        Raises:
            DamagedArchiveError: the file is no gzip file, or is damaged.
        """
        while count > 0:
            if not self._piece:
                self._piece = memoryview(self._unpacked())
                if not self._piece:
                    return
            piece, self._piece = self._piece[:count], self._piece[count:]
            self.at += len(piece)
            count -= len(piece)
            yield piece

    def read(self, count: int) -> bytes:
        """See `ForwardFile`."""
        return b"".join(self.pieces(count))

    def skip_to(self, place: int) -> bool:
        """See `ForwardFile`."""
        for _ in self.pieces(place - self.at):
            pass
        return self.at == place

    def _unpacked(self) -> bytes:
        """The next bytes; nothing at the end."""
        try:
            while True:
                if not self._packed:
                    self._packed = os.pread(self._descriptor, _PACKED_BYTES, self.packed_at)
                    self.packed_at += len(self._packed)
                is_last = not self._packed
                if self._unpacker.eof:  # several may follow each other, or padding
                    if self._packed[:1] in (b"", b"\0"):
                        return b""
                    self._unpacker = _unpacker()
                piece = self._unpacker.decompress(self._packed, _PIECE_BYTES)
                is_whole = self._unpacker.eof
                unpacker = self._unpacker
                self._packed = unpacker.unused_data if is_whole else unpacker.unconsumed_tail
                if piece or (is_last and not is_whole):
                    return piece
        except zlib.error as error:
            raise DamagedArchiveError(str(error)) from error


def _unpacker() -> "zlib._Decompress":
    return zlib.decompressobj(zlib.MAX_WBITS | 16)

"""Deflated bytes of an archive, unpacked piece by piece, never more than is stated."""

import os
import zlib
from collections.abc import Iterator

from gmmpipe.errors import AudioError

_PIECE_BYTES = 1 << 20
_UNSUSPICIOUS_BYTES = 1 << 26
_MOST_RATIO = 200
"""How many times smaller more bytes than that may be: audio is not, unless all of it is silent."""


def refuse_bomb(packed_bytes: int, size: int) -> None:
    """Refuse bytes that unpack to far more than audio does.

    Raises:
        AudioError: undecodable.
    """
    if size > _UNSUSPICIOUS_BYTES and size > _MOST_RATIO * packed_bytes:
        detail = f"{packed_bytes} bytes unpack to {size} or more, as those of no recording do"
        raise AudioError("undecodable", detail)


def inflated(descriptor: int, start: int, stored_bytes: int, size: int) -> Iterator[bytes]:
    """What a range of an open file unpacks to, by pieces of some MB.

    Args:
        descriptor: the file.
        start: where the raw deflate stream begins.
        stored_bytes: how long it is.
        size: how many bytes it unpacks to.

    Raises:
        AudioError: undecodable or truncated: damaged, or not of that size.
    """
    refuse_bomb(stored_bytes, size)
    unpacker, at, got = zlib.decompressobj(-zlib.MAX_WBITS), start, 0
    packed = b""
    try:
        while not unpacker.eof:
            if not packed:
                count = min(_PIECE_BYTES, start + stored_bytes - at)
                packed = os.pread(descriptor, count, at)
                at += len(packed)
                if not packed:
                    raise AudioError("truncated", "the archive ends within the member")
            piece = unpacker.decompress(packed, _PIECE_BYTES)
            packed = unpacker.unconsumed_tail
            got += len(piece)
            if got > size:
                break
            yield piece
    except zlib.error as error:
        raise AudioError("undecodable", f"damaged in its archive: {error}") from error
    if got != size:
        raise AudioError("undecodable", f"its archive states {size} bytes, which it has not")

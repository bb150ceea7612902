"""Ogg by its page headers: libsndfile reads only the first of several files in a row."""

import os

_PAGE_HEADER_BYTES = 27
_FIRST_PAGE = 0x02
_CHUNK_BYTES = 1 << 20


def find_links(descriptor: int, size: int) -> list[tuple[int, int]]:
    """Where each link of a chained file of `size` bytes begins and ends; one if it is not chained.

    A link begins with the first pages of its streams. A first page after other pages begins another
    link.
    """
    starts, position, in_front = [0], 0, True
    while position < size:
        header = os.pread(descriptor, _PAGE_HEADER_BYTES + 255, position)
        if header[:4] != b"OggS" or len(header) < _PAGE_HEADER_BYTES:
            position = _next_page(descriptor, position + 1, size)
            continue
        is_first = bool(header[5] & _FIRST_PAGE)
        if is_first and not in_front:
            starts.append(position)
        in_front = is_first
        segments = header[26]
        lengths = header[_PAGE_HEADER_BYTES : _PAGE_HEADER_BYTES + segments]
        position += _PAGE_HEADER_BYTES + segments + sum(lengths)
    return list(zip(starts, [*starts[1:], size], strict=True))


def _next_page(descriptor: int, position: int, size: int) -> int:
    """Where the next page begins after damage, or `size`."""
    while position < size:
        data = os.pread(descriptor, _CHUNK_BYTES, position)
        at = data.find(b"OggS")
        if at >= 0:
            return position + at
        position += max(1, len(data) - 3)
    return size

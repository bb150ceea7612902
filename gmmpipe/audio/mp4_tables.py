"""The tables of an MP4 file, before FFmpeg makes an index of all the samples that they state.

A file of some kilobytes may state as many samples as no memory holds, or play its audio over and
over by its edit list.
"""

import os
from collections.abc import Iterator

import numpy as np

from gmmpipe.errors import AudioError

_WITHIN = frozenset((b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl", b"moof", b"traf"))
"""Boxes that hold boxes."""

_COUNT_AT = {b"stsz": 8, b"stz2": 8, b"trun": 4, b"elst": 4}
"""Where a table states how many entries it has, behind its head."""

_MOST_EDITS = 200
_MOST_BOXES = 1_000_000
_MOST_LEVELS = 10
_MOST_TABLE_BYTES = 1 << 28


def refuse_unlikely_tables(descriptor: int) -> None:
    """Refuse a file with tables of more samples than it has bytes, or with too many edits.

    Raises:
        AudioError: undecodable.
    """
    size = os.fstat(descriptor).st_size
    samples = 0
    for number, (name, start, stop) in enumerate(_boxes(descriptor, 0, size, 0)):
        if number == _MOST_BOXES or name == b"cmov":
            raise AudioError("undecodable", "a container of too many parts, or of packed ones")
        if name in (b"stts", b"ctts"):
            most = _samples_of_times(descriptor, start, stop)
        elif name in _COUNT_AT:
            at = start + _COUNT_AT[name]
            most = int.from_bytes(os.pread(descriptor, 4, at), "big")
        else:
            continue
        samples += most if name == b"trun" else 0
        if name == b"elst":
            if most > _MOST_EDITS:
                raise AudioError("undecodable", f"a container with a list of {most} edits")
        elif max(samples, most) > size:
            text = f"a container of {size} bytes that states {max(samples, most)} samples"
            raise AudioError("undecodable", text)


def _samples_of_times(descriptor: int, start: int, stop: int) -> int:
    """How many samples a table of times is for: the sum of every other number in it."""
    if stop - start > _MOST_TABLE_BYTES:
        raise AudioError("undecodable", f"a container with a table of {stop - start} bytes")
    table = os.pread(descriptor, stop - start, start)[8:]
    numbers = np.frombuffer(table[: len(table) // 8 * 8], ">u4")
    return int(numbers[::2].sum(dtype=np.uint64))


def _boxes(descriptor: int, start: int, stop: int, level: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes in a part of the file, at any depth: name, and where the content is."""
    while start + 8 <= stop:
        head = os.pread(descriptor, 16, start)
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        content = start + 8
        if length == 1:
            length, content = int.from_bytes(head[8:16], "big"), start + 16
        end = stop if length == 0 else min(stop, start + length)
        if end < content:
            return
        yield name, content, end
        if name in _WITHIN and level < _MOST_LEVELS:
            yield from _boxes(descriptor, content, end, level + 1)
        start = end

"""Headers that state no audio though there is some, as left by a recorder that was never closed."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

STREAMED_LENGTHS = range(0x7FFF_0000, 0x1_0000_0000)
"""Data lengths that writers to a pipe leave in a WAV header. They promise nothing."""

_MOST_CHUNKS = 1_000
_LARGEST_SIZE = 0xFFFF_FFF0
_LONGEST_HEADER_BYTES = 1 << 24


@dataclass(frozen=True)
class _Chunks:
    """How a container lays out its chunks: name, size, content, name, size, content...

    Args:
        first: where the first chunk begins.
        size: the format of a size, for `struct`.
        padding: contents are padded to a multiple of this number of bytes.
        data: the name of the chunk that holds the audio.
        lead: how many bytes of that chunk come before the audio.
    """

    first: int
    size: str
    padding: int
    data: bytes
    lead: int

    def walk(self, descriptor: int, start: int, file_size: int) -> Iterator[tuple[int, bytes, int]]:
        """The place of each chunk's size, its name and its size, as far as they make sense."""
        header_bytes = 4 + self.size_bytes
        for _ in range(_MOST_CHUNKS):
            header = os.pread(descriptor, header_bytes, start)
            if len(header) < header_bytes or not all(32 <= byte < 127 for byte in header[:4]):
                return
            (size,) = struct.unpack_from(self.size, header, 4)
            yield start + 4, header[:4], size
            start += header_bytes + max(0, size) + -size % self.padding
            if start > file_size:
                return

    @property
    def size_bytes(self) -> int:
        """How many bytes a size takes."""
        return struct.calcsize(self.size)


_CONTAINERS = {
    "WAV": _Chunks(12, "<I", 2, b"data", 0),
    "WAVEX": _Chunks(12, "<I", 2, b"data", 0),
    "AIFF": _Chunks(12, ">I", 2, b"SSND", 8),
    "CAF": _Chunks(8, ">q", 1, b"data", 4),
}


def data_span(descriptor: int, container: str, file_size: int) -> tuple[int, int] | None:
    """Where a container's audio begins, and how many bytes the container states for it."""
    chunks = _CONTAINERS.get(container)
    if chunks is not None:
        for place, name, size in chunks.walk(descriptor, chunks.first, file_size):
            if name == chunks.data:
                return place + chunks.size_bytes + chunks.lead, max(0, size - chunks.lead)
    return None


def closed_header(descriptor: int, container: str, file_size: int) -> bytes | None:
    """The header that a file would have if its writer had finished it.

    Args:
        descriptor: the open file.
        container: libsndfile's name for its format.
        file_size: bytes of the file.

    Returns:
        None where there is no audio, or where the header is not an unfinished one.
    """
    if container == "AU":
        return _closed_au(descriptor, file_size)
    if container == "RF64":
        return _closed_rf64(descriptor, file_size)
    chunks = _CONTAINERS.get(container)
    if chunks is None:
        return None
    for place, name, size in chunks.walk(descriptor, chunks.first, file_size):
        if name != chunks.data:
            continue
        audio = place + chunks.size_bytes + chunks.lead
        if size > chunks.lead or audio > _LONGEST_HEADER_BYTES or audio >= file_size:
            return None
        if _ends_in_chunks(descriptor, chunks, audio, file_size):
            return None
        head = os.pread(descriptor, audio, 0)
        stated = struct.pack(chunks.size, min(file_size - audio + chunks.lead, _LARGEST_SIZE))
        return head[:place] + stated + head[place + chunks.size_bytes :]
    return None


def _ends_in_chunks(descriptor: int, chunks: _Chunks, start: int, file_size: int) -> bool:
    """Whether other chunks follow an empty chunk of audio, up to the file's end."""
    end = start
    for place, _, size in chunks.walk(descriptor, start, file_size):
        end = place + chunks.size_bytes + size
    return end >= file_size and end - file_size < 2 and end > start


def _closed_au(descriptor: int, file_size: int) -> bytes | None:
    head = os.pread(descriptor, 24, 0)
    if len(head) < 24:
        return None
    order = ">" if head[:4] == b".snd" else "<"
    start, size = struct.unpack_from(f"{order}II", head, 4)
    if size or not 24 <= start < min(file_size, _LONGEST_HEADER_BYTES):
        return None
    return head[:8] + b"\xff" * 4 + os.pread(descriptor, start - 12, 12)


def _closed_rf64(descriptor: int, file_size: int) -> bytes | None:
    """The sizes of an RF64 are in its first chunk, ds64."""
    chunks = _CONTAINERS["WAV"]
    for place, name, _ in chunks.walk(descriptor, chunks.first, file_size):
        if name == b"data":
            audio = place + 4
            head = os.pread(descriptor, min(audio, _LONGEST_HEADER_BYTES), 0)
            if head[12:16] != b"ds64" or audio >= file_size or any(head[28:36]):
                return None
            return head[:28] + struct.pack("<Q", file_size - audio) + head[36:]
    return None

"""A shard as a plain tar in WebDataset convention: ``{key}.json`` and ``{key}.logmel.npy``."""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import StoreError
from gmmpipe.files import canonical_json
from gmmpipe.store.rows import crc32c
from gmmpipe.store.schema import ShardIndex

_BLOCK = tarfile.BLOCKSIZE
_SIZE, _CHECKSUM = slice(124, 135), slice(148, 154)  # fields of a ustar header
_BLANK_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_BLANK_CHECKSUM = int(_BLANK_HEADER[_CHECKSUM], 8) - sum(_BLANK_HEADER[_SIZE])


class TarShardWriter:
    """Writes samples to an open file, hashing as it goes, so that nothing is read again.

    Headers are ustar with every field that could vary (times, owners) left at zero.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._position = 0
        self._columns: dict[str, list[Any]] = {
            "keys": [],
            "num_frames": [],
            "byte_offset": [],
            "crc32c": [],
        }

    def add(
        self, key: str, metadata: dict[str, Any], frames: NDArray[Any], audio: bytes | None
    ) -> None:
        """Append one sample.

        Args:
            key: sorted after the keys before it.
            metadata: goes to ``{key}.json``.
            frames: [T, D] in the stored dtype, C order.
            audio: a FLAC file for ``{key}.flac``, or None.
        """
        if audio is not None:
            self._add_member(f"{key}.flac", audio)
        self._add_member(f"{key}.json", canonical_json(metadata).encode())
        header = _npy_header(frames.shape, frames.dtype)
        offset = self._add_member(f"{key}.logmel.npy", header, frames)
        self._columns["keys"].append(key)
        self._columns["num_frames"].append(len(frames))
        self._columns["byte_offset"].append(offset + len(header))
        self._columns["crc32c"].append(crc32c(frames))

    def finish(self) -> tuple[ShardIndex, int, str]:
        """End the archive: its index, size in bytes and SHA-256."""
        used = self._position + 2 * _BLOCK
        self._write(bytes(2 * _BLOCK + -used % tarfile.RECORDSIZE))
        return ShardIndex.from_json(self._columns), self._position, self._sha256.hexdigest()

    def _add_member(self, name: str, head: bytes, body: NDArray[Any] | None = None) -> int:
        """Append a member of `head` and the bytes of `body`; where its content begins."""
        size = len(head) + (0 if body is None else body.nbytes)
        start = self._position + _BLOCK
        padding = bytes(-size % _BLOCK)
        if body is None:
            self._write(_tar_header(name, size) + head + padding)
        else:
            self._write(_tar_header(name, size) + head)
            self._write(body.data.cast("B"))
            self._write(padding)
        return start

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._position += len(data)


def _tar_header(name: str, size: int) -> bytes:
    """What ``TarInfo(name).tobuf(USTAR_FORMAT)`` gives for a member of `size` bytes, 10 x faster.

    Args:
        name: ASCII, at most 100 characters: a key has 80.
        size: below 8 GiB.
    """
    encoded, digits = name.encode("ascii"), b"%011o" % size
    assert len(encoded) <= 100, f"{name} is too long for a ustar header"
    assert len(digits) == 11, f"{name} is too large for a ustar header"
    header = bytearray(_BLANK_HEADER)
    header[: len(encoded)] = encoded
    header[_SIZE] = digits
    header[_CHECKSUM] = b"%06o" % (_BLANK_CHECKSUM + sum(encoded) + sum(digits))
    return bytes(header)


@lru_cache(maxsize=4096)  # utterances of equal length are common
def _npy_header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """What stands before the values in a ``.npy`` file of a C-ordered array."""
    header = BytesIO()
    layout = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
    np.lib.format.write_array_header_1_0(header, layout)
    return header.getvalue()


def read_metadata(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and JSON of each sample of a shard, in order; the features are skipped, not read.

    Raises:
        StoreError: the shard is missing or damaged.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                if extension == "json":
                    content = archive.extractfile(member)
                    assert content is not None, "a JSON member is a regular file"
                    yield key, json.loads(content.read())
    except (OSError, ValueError, tarfile.TarError) as error:
        raise StoreError(f"{path}: damaged or missing: {error}") from error

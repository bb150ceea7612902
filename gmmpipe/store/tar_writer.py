"""Plain tar archives that are the same bytes every time, hashed while they are written."""

import hashlib
import tarfile
from functools import lru_cache
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_BLOCK = tarfile.BLOCKSIZE
_SIZE, _CHECKSUM = slice(124, 135), slice(148, 154)  # fields of a ustar header
_BLANK_HEADER = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_BLANK_CHECKSUM = int(_BLANK_HEADER[_CHECKSUM], 8) - sum(_BLANK_HEADER[_SIZE])


class TarWriter:
    """Writes members to an open file, and hashes them as it goes, so that nothing is read again.

    Headers are ustar with every field that could vary (times, owners) left at zero.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._position = 0

    def add_bytes(self, name: str, content: bytes) -> None:
        """Append `content` as a member."""
        self._write(_tar_header(name, len(content)) + content + bytes(-len(content) % _BLOCK))

    def add_array(self, name: str, array: NDArray[Any]) -> int:
        """Append an array in C order as an ``.npy`` member; where its raw bytes begin."""
        head = _npy_header(array.shape, array.dtype)
        size = len(head) + array.nbytes
        self._write(_tar_header(name, size) + head)
        start = self._position
        self._write(array.data.cast("B"))
        self._write(bytes(-size % _BLOCK))
        return start

    def finish(self) -> tuple[int, str]:
        """End the archive: its size in bytes and SHA-256."""
        used = self._position + 2 * _BLOCK
        self._write(bytes(2 * _BLOCK + -used % tarfile.RECORDSIZE))
        return self._position, self._sha256.hexdigest()

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

"""Plain tar archives that are the same bytes every time, hashed while they are written."""

import hashlib
import tarfile
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_BLOCK = tarfile.BLOCKSIZE


class TarWriter:
    """Writes members to an open file, hashing as it goes, so that nothing is read again.

    Headers are ustar with every field that could vary (times, owners) left at zero.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self._position = 0

    def add_bytes(self, name: str, content: bytes) -> None:
        """Append `content` as a member."""
        self._add(name, content)

    def add_array(self, name: str, array: NDArray[Any]) -> int:
        """Append a contiguous array as an ``.npy`` member; where its raw bytes begin."""
        header = BytesIO()
        np.lib.format.write_array_header_1_0(
            header, np.lib.format.header_data_from_array_1_0(array)
        )
        return self._add(name, header.getvalue(), array) + header.tell()

    def finish(self) -> tuple[int, str]:
        """End the archive: its size in bytes and SHA-256."""
        used = self._position + 2 * _BLOCK
        self._write(bytes(2 * _BLOCK + -used % tarfile.RECORDSIZE))
        return self._position, self._sha256.hexdigest()

    def _add(self, name: str, head: bytes, body: NDArray[Any] | None = None) -> int:
        info = tarfile.TarInfo(name)
        info.size = len(head) + (0 if body is None else body.nbytes)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        start = self._position
        self._write(head)
        if body is not None:
            self._write(body.data.cast("B"))
        self._write(bytes(-info.size % _BLOCK))
        return start

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self._position += len(data)

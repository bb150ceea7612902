"""A NumPy file whose rows are read in ranges, and never unpickled."""

import math
import os
import stat
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import AudioError

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def open_regular(path: str) -> BinaryIO:
    """Open a regular file; a FIFO or a device is not waited for.

    Raises:
        AudioError: not_found, not_a_regular_file or unreadable.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise AudioError("not_found", "no such file") from None
    except (OSError, ValueError) as error:
        raise AudioError("unreadable", getattr(error, "strerror", None) or "a bad path") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise AudioError("not_a_regular_file", "not a regular file")
    return os.fdopen(descriptor, "rb")


class NpyFile:
    """The array [rows, D] of a ``.npy`` file of numbers.

    Args:
        path: the file. It is opened, and closed by `close`.

    Raises:
        AudioError: it cannot be read, holds no matrix of real numbers, or is shorter than its
            header says.
    """

    def __init__(self, path: str) -> None:
        self._file = open_regular(path)
        try:
            self._read_header()
        except AudioError:
            self._file.close()
            raise
        except (ValueError, TypeError, SyntaxError, EOFError, OSError, RecursionError) as error:
            self._file.close()
            reason = f"not a NumPy file: {type(error).__name__}"
            raise AudioError("undecodable", reason) from None

    def _read_header(self) -> None:
        version = np.lib.format.read_magic(self._file)
        if version not in _HEADERS:
            raise ValueError("an unknown version")
        self.shape, self._is_fortran, self._dtype = _HEADERS[version](self._file)
        self._start = self._file.tell()
        if self._dtype.kind not in "fiu":
            kind = "objects, which are never unpickled" if self._dtype.hasobject else self._dtype
            raise AudioError("undecodable", f"an array of {kind}, not of real numbers")
        if len(self.shape) != 2 or min(self.shape) < 0:
            raise AudioError("wrong_shape", f"an array of shape {list(self.shape)}, not [T, D]")
        there = os.fstat(self._file.fileno()).st_size - self._start
        stated = math.prod(self.shape) * self._dtype.itemsize
        if there < stated:
            raise AudioError("truncated", f"{there} bytes of {stated} that the header states")

    def rows(self, begin: int, end: int) -> NDArray[Any]:
        """The rows from `begin` to before `end`, in the file's dtype.

        Raises:
            AudioError: truncated or unreadable.
        """
        num_rows, width = self.shape
        size = self._dtype.itemsize
        if not width:
            raise AudioError("wrong_shape", "frames of no dimension")
        if not self._is_fortran:
            return self._read(begin * width * size, (end - begin) * width).reshape(-1, width)
        columns = [self._read((d * num_rows + begin) * size, end - begin) for d in range(width)]
        return np.stack(columns, axis=1)

    def _read(self, offset: int, count: int) -> NDArray[Any]:
        numbers = np.empty(count, self._dtype)
        target = memoryview(numbers.view(np.uint8).data) if count else memoryview(b"")
        done = 0
        try:
            while done < len(target):
                at = self._start + offset + done
                read = os.preadv(self._file.fileno(), [target[done:]], at)
                if not read:
                    raise AudioError("truncated", "the file has become shorter")
                done += read
        except OSError as error:
            raise AudioError("unreadable", error.strerror or "an I/O error") from None
        return numbers

    def close(self) -> None:
        """Close the file."""
        self._file.close()

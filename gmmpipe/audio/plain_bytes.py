"""The bytes of an open file as a `ForwardFile`."""

import os


class PlainBytes:
    """The bytes of an open file, which is not closed; only what is read is touched.

    Args:
        descriptor: the file.
        size: how many bytes it has.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor, self._size = descriptor, size
        self.at = 0

    def read(self, count: int) -> bytes:
        """See `ForwardFile`."""
        content = os.pread(self._descriptor, count, self.at)
        self.at += len(content)
        return content

    def skip_to(self, place: int) -> bool:
        """See `ForwardFile`."""
        self.at = min(place, self._size)
        return place <= self._size

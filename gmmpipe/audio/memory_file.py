"""Nameless files in memory, which take the same way through the decoders as any file."""

import os
from collections.abc import Iterable


def memory_file(pieces: Iterable[bytes | memoryview]) -> int:
    """A descriptor of a nameless file of these bytes, at its beginning."""
    descriptor = os.memfd_create("audio")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.writelines(pieces)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor

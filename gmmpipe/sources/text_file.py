"""Text files of a source by their lines, also compressed by gzip, within bounds of memory."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gmmpipe.errors import ManifestError
from gmmpipe.sources.manifest import clean_line

LONGEST_LINE_BYTES = 1 << 26
"""A small compressed file may hold a line that no memory does."""
_LONGEST_FIRST_LINE_BYTES = 1 << 20


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file, decompressed; what is wrong with it becomes a ManifestError that names it."""
    try:
        with open(path, "rb") as raw:
            if path.suffix == ".gz":
                # GzipFile's own lines take several times as long.
                yield io.BufferedReader(gzip.GzipFile(fileobj=raw, mode="rb"), 1 << 16)
            else:
                yield raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ManifestError(f"{path}: damaged: {error}") from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error


def raw_lines(path: Path) -> Iterator[bytes]:
    """The lines of the file, with their ends.

    Raises:
        ManifestError: the file cannot be read, is damaged, or has a line that is too long.
    """
    with opened(path) as file:
        while raw := file.readline(LONGEST_LINE_BYTES):
            if len(raw) == LONGEST_LINE_BYTES:
                raise ManifestError(f"{path}: a line of {LONGEST_LINE_BYTES} bytes or more")
            yield raw


def first_lines(path: Path, count: int) -> list[bytes]:
    """At most `count` lines from the front, to look at; of a very long one, only its beginning.

    Raises:
        ManifestError: the file cannot be read, or is damaged.
    """
    with opened(path) as file:
        lines = (file.readline(_LONGEST_FIRST_LINE_BYTES) for _ in range(count))
        return [line for line in lines if line]


def first_line(path: Path, longest_bytes: int = _LONGEST_FIRST_LINE_BYTES) -> bytes:
    """The first line that is not blank, cleaned; of a very long one, only its beginning.

    Nothing if there is none among the first 1,000.

    Raises:
        ManifestError: the file cannot be read, or is damaged.
    """
    with opened(path) as file:
        for number in range(1_000):
            raw = file.readline(longest_bytes)
            line = clean_line(raw, first=number == 0)
            if line or not raw:
                break
        return line

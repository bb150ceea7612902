"""Translations that cost a pass over a whole archive, kept for when they are asked for again."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

_MOST_BYTES = 1 << 30
"""Of lines that are kept, on the disk of temporary files."""


class Translations:
    """The lines that this process has made of files, in a nameless file.

    Args:
        translate: makes the lines of a file, and counts what it passes over.
    """

    def __init__(self, translate: Callable[[Path, Counter[str]], Iterator[bytes]]) -> None:
        self._translate = translate
        self._kept: dict[tuple[Path, int, int], tuple[int, int, Counter[str]]] = {}
        self._file: Any = None
        self._process = os.getpid()
        self._is_writing = False

    def lines(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """The lines of a file, which is read once as long as its size and time are the same."""
        if self._process != os.getpid():  # a fork would share the file
            self._kept, self._file, self._process = {}, None, os.getpid()
        status = os.stat(path)
        identity = path, status.st_size, status.st_mtime_ns
        if identity not in self._kept:
            if self._is_writing:  # the lines of another file, not all of which are taken yet
                return self._translate(path, passed_over)
            return self._made(path, identity, passed_over)
        start, stop, counts = self._kept[identity]
        passed_over.update(counts)
        return self._read(start, stop)

    def _made(
        self, path: Path, identity: tuple[Path, int, int], passed_over: Counter[str]
    ) -> Iterator[bytes]:
        """The lines as they are made; they are kept once they are complete."""
        self._file = self._file or TemporaryFile()
        counts = Counter[str]()
        start = at = os.fstat(self._file.fileno()).st_size
        is_kept = True
        self._is_writing = True
        try:
            for raw in self._translate(path, counts):
                is_kept = is_kept and at < _MOST_BYTES and self._keep(raw, at)
                at += len(raw)
                yield raw
        finally:
            self._is_writing = False
        passed_over.update(counts)
        if is_kept:
            self._kept[identity] = start, at, counts

    def _keep(self, raw: bytes, at: int) -> bool:
        """Write a line at a place; returns whether there was room for all of it."""
        try:
            return os.pwrite(self._file.fileno(), raw, at) == len(raw)
        except OSError:  # a full disk: the archive is then read once more
            return False

    def _read(self, start: int, stop: int) -> Iterator[bytes]:
        # Opened anew, it has a place of its own: several may be read by turns.
        with open(f"/proc/self/fd/{self._file.fileno()}", "rb") as file:
            file.seek(start)
            while file.tell() < stop:
                yield file.readline()

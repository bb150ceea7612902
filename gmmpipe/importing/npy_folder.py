"""A folder of ``{id}.npy``, each an utterance's frames [T, D]."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.importing.npy_file import NpyFile
from gmmpipe.importing.source import Entry, Source


class NpyFolder(Source):
    """The files of a folder, at any depth, sorted by their paths.

    The manifest is the folder itself, whose name is ``.``; the line is the number of the file.

    Args:
        folder: the folder.

    Raises:
        ManifestError: it cannot be read.
    """

    num_files = 1

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self.passed_over = 0
        self._paths = sorted(self._find())
        digest = hashlib.sha256(b"npy\n")
        for path in self._paths:
            try:
                size = os.stat(os.path.join(self._folder, path)).st_size
            except OSError:
                size = -1
            digest.update(os.fsencode(path) + b"\0%d\n" % size)
        self.digest = digest.hexdigest()

    def _find(self) -> Iterator[str]:
        """The paths of the files below the folder; others are counted in `passed_over`."""

        def fail(error: OSError) -> None:
            raise ManifestError(f"{error.filename}: cannot be read: {error.strerror}")

        for place, folders, names in os.walk(self._folder, onerror=fail):
            self.passed_over += sum(name.startswith(".") for name in folders)
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if name.startswith(".") or not name.endswith(".npy"):
                    self.passed_over += 1
                else:
                    yield os.path.relpath(os.path.join(place, name), self._folder)

    def __len__(self) -> int:
        """How many files there are."""
        return len(self._paths)

    def entry(self, number: int) -> Entry:
        """The file `number`: its id is its path without the ending."""
        path = self._paths[number]
        return Entry(path.removesuffix(".npy"), path, ".", number + 1)

    def frames(self, number: int) -> NDArray[Any]:
        """All rows of the file.

        Raises:
            AudioError: they cannot be read.
        """
        file = NpyFile(os.path.join(self._folder, self._paths[number]))
        try:
            return file.rows(0, file.shape[0])
        except MemoryError:
            raise AudioError("unreadable", "it does not fit into memory") from None
        finally:
            file.close()

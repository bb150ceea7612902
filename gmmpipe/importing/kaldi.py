"""Kaldi's ``feats.scp``: a name, and where in an archive its matrix is, a line."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import AudioError, ManifestError, OptionError
from gmmpipe.importing.npy_file import open_regular
from gmmpipe.importing.source import Entry, Source

SCP = "feats.scp"


class KaldiScript(Source):
    """The lines of a ``feats.scp``, whose relative paths are relative to its folder.

    Of kaldiio only the reading of a matrix is used: it would run a command that a line names, and
    unpickle what an archive holds.

    Args:
        folder: the folder of ``feats.scp``.

    Raises:
        ManifestError: it cannot be read.
        OptionError: kaldiio is not installed.
    """

    num_files = 1

    def __init__(self, folder: Path) -> None:
        try:
            import kaldiio.matio
        except ImportError:
            raise OptionError('Kaldi\'s matrices need pip install "gmmpipe[kaldi]"') from None
        self._kaldi = kaldiio.matio
        self._folder = str(folder)
        digest = hashlib.sha256(b"kaldi\n")
        self._lines: list[tuple[str, str]] = []
        self._sizes: dict[str, int] = {}
        try:
            text = (folder / SCP).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError(f"{folder / SCP}: cannot be read: {error}") from None
        for number, line in enumerate(text.splitlines(), start=1):
            name, _, where = line.strip().partition(" ")
            if not name or not where.strip():
                raise ManifestError(f"{folder / SCP}: line {number} is not: name, place")
            self._lines.append((name, where.strip()))
            digest.update(f"{name}\0{os.path.basename(where)}\0{self._size(where)}\n".encode())
        self.digest = digest.hexdigest()

    def _size(self, where: str) -> int:
        """The bytes of the archive that a line names; -1 where there is none, or a command."""
        if _is_command(where):
            return -1
        path: str = self._kaldi._parse_arkpath(where)[0]
        if path not in self._sizes:
            try:
                self._sizes[path] = os.stat(os.path.join(self._folder, path)).st_size
            except (OSError, ValueError):
                self._sizes[path] = -1
        return self._sizes[path]

    def __len__(self) -> int:
        """How many lines there are."""
        return len(self._lines)

    def entry(self, number: int) -> Entry:
        """The utterance of a line."""
        name, where = self._lines[number]
        return Entry(name, where, SCP, number + 1)

    def frames(self, number: int) -> NDArray[Any]:
        """The matrix, or the range of it, that a line names.

        Raises:
            AudioError: it cannot be read.
        """
        where = self._lines[number][1]
        if _is_command(where):
            raise AudioError("unsafe_path", "a command, which is never run")
        path, offset, ranges = self._kaldi._parse_arkpath(where)
        with open_regular(os.path.join(self._folder, path)) as file:
            try:
                file.seek(offset or 0)
                start = file.read(3)
                file.seek(offset or 0)
                if start[:2] != b"\0B" or start[2:] not in (b"F", b"D", b"C"):
                    raise AudioError("undecodable", "no binary matrix of Kaldi's")
                matrix = self._kaldi.read_matrix_or_vector(file)
            except AudioError:
                raise
            except Exception as error:
                # kaldiio says of damage whatever struct, NumPy or an assertion says.
                detail = f"no matrix of Kaldi's: {type(error).__name__}"
                raise AudioError("undecodable", detail) from None
        if np.ndim(matrix) != 2:
            raise AudioError("wrong_shape", f"an array of shape {list(np.shape(matrix))}")
        frames: NDArray[Any] = np.asarray(matrix if ranges is None else matrix[ranges])
        return frames


def _is_command(where: str) -> bool:
    return where.startswith("|") or where.endswith("|")

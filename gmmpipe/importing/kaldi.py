"""Kaldi's matrices: the lines of a ``feats.scp``, or archives read from front to end.

Of kaldiio only the reading of a token and of a matrix is used: it would run a command that a line
names, and unpickle what an archive holds.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import AudioError, ManifestError, OptionError
from gmmpipe.files import open_regular as open_descriptor
from gmmpipe.importing.npy_file import open_regular
from gmmpipe.importing.source import Entry, Source

SCP = "feats.scp"


class KaldiScript(Source):
    """The lines of a ``feats.scp``: a name, and where in an archive its matrix is.

    Relative paths are relative to its folder.

    Args:
        path: the file.

    Raises:
        ManifestError: it cannot be read.
        OptionError: kaldiio is not installed.
    """

    num_files = 1

    def __init__(self, path: Path) -> None:
        self._kaldi = _kaldiio()
        self._name, self._folder = path.name, str(path.parent)
        digest = hashlib.sha256(b"kaldi\n")
        self._lines: list[tuple[str, str]] = []
        self._sizes: dict[str, int] = {}
        try:
            with open(open_descriptor(path), encoding="utf-8") as file:
                for number, line in enumerate(file, start=1):
                    parts = line.split(maxsplit=1)
                    if len(parts) < 2:
                        raise ManifestError(f"{path}: line {number} is not: name, place")
                    name, where = parts[0], parts[1].strip()
                    self._lines.append((name, where))
                    named = f"{name}\0{os.path.basename(where)}\0{self._size(where)}\n"
                    digest.update(named.encode("utf-8", "surrogatepass"))
        except (OSError, ValueError) as error:
            raise ManifestError(f"{path}: cannot be read: {_reason(error)}") from None
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
        return Entry(name, where, self._name, number + 1)

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
            except (OverflowError, ValueError, OSError):
                raise AudioError("undecodable", f"no place in a file: {offset}") from None
            matrix = _read_matrix(self._kaldi, file)
        try:
            frames: NDArray[Any] = np.asarray(matrix if ranges is None else matrix[ranges])
        except IndexError:
            raise AudioError(
                "wrong_shape", "a range of more dimensions than a matrix has"
            ) from None
        except ValueError:  # a step of 0
            raise AudioError("wrong_shape", "a range that takes no rows") from None
        return frames


class KaldiArchives(Source):
    """The matrices of archives, in the order of the archives and as they lie in each.

    The manifest is the archive, the line the number of the matrix in it. The archives are read
    once to find where each matrix begins.

    Args:
        paths: the archives, in order.

    Raises:
        ManifestError: one cannot be read, or is no archive of binary matrices.
        OptionError: kaldiio is not installed.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._kaldi = _kaldiio()
        self._paths, self.num_files = list(paths), len(paths)
        digest = hashlib.sha256(b"kaldi archives\n")
        self._matrices: list[tuple[int, int, str, int]] = []  # archive, line, name, offset
        for number, path in enumerate(self._paths):
            for line, (name, offset) in enumerate(self._find(path), start=1):
                self._matrices.append((number, line, name, offset))
                digest.update(f"{name}\0{offset}\n".encode())
            digest.update(os.fsencode(path.name) + b"\0%d\n" % path.stat().st_size)
        self.digest = digest.hexdigest()

    def _find(self, path: Path) -> list[tuple[str, int]]:
        """The name of each matrix, and where it begins; after a damaged one there is none."""
        found: list[tuple[str, int]] = []
        try:
            with open(open_descriptor(path), "rb") as file:
                while name := self._kaldi.read_token(file):
                    found.append((name, file.tell()))
                    if not _is_matrix(file):
                        raise ManifestError(f"{path}: {name!r:.80} is no binary matrix of Kaldi's")
                    try:
                        _read_matrix(self._kaldi, file)
                    except AudioError:
                        break  # it is a reject, and where the next one begins is not known
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read: {_reason(error)}") from None
        except ValueError:  # a name that is no text
            raise ManifestError(f"{path}: no archive of Kaldi's binary matrices") from None
        return found

    def __len__(self) -> int:
        """How many matrices there are."""
        return len(self._matrices)

    def entry(self, number: int) -> Entry:
        """The utterance of a matrix."""
        archive, line, name, offset = self._matrices[number]
        path = self._paths[archive].name
        return Entry(name, f"{path}:{offset}", path, line)

    def frames(self, number: int) -> NDArray[Any]:
        """The matrix.

        Raises:
            AudioError: it cannot be read.
        """
        archive, _, _, offset = self._matrices[number]
        with open_regular(str(self._paths[archive])) as file:
            file.seek(offset)
            return _read_matrix(self._kaldi, file)


def _kaldiio() -> ModuleType:
    try:
        import kaldiio.matio
    except ImportError:
        raise OptionError('Kaldi\'s matrices need pip install "gmmpipe[kaldi]"') from None
    matio: ModuleType = kaldiio.matio
    return matio


def _is_matrix(file: BinaryIO) -> bool:
    """Whether a binary matrix begins where the file is, which stays there."""
    at = file.tell()
    start = file.read(3)
    file.seek(at)
    return start in (b"\0BF", b"\0BD", b"\0BC")


def _read_matrix(kaldi: ModuleType, file: BinaryIO) -> NDArray[Any]:
    """The matrix that begins where the file is.

    Raises:
        AudioError: there is none, or it is damaged.
    """
    if not _is_matrix(file):
        raise AudioError("undecodable", "no binary matrix of Kaldi's")
    try:
        matrix: NDArray[Any] = kaldi.read_matrix_or_vector(file)
    except Exception as error:
        # kaldiio says of damage whatever struct, NumPy or an assertion says.
        if not file.read(1):
            raise AudioError("truncated", "the archive ends within the matrix") from None
        raise AudioError("undecodable", f"no matrix of Kaldi's: {type(error).__name__}") from None
    if np.ndim(matrix) != 2:
        raise AudioError("wrong_shape", f"an array of shape {list(np.shape(matrix))}")
    return matrix


def _is_command(where: str) -> bool:
    return where.startswith("|") or where.endswith("|")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)

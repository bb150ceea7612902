"""fairseq's dumps: the frames of many utterances in one ``.npy``, their numbers in a ``.len``."""

import hashlib
import math
import os
import re
from array import array
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.files import open_regular
from gmmpipe.importing.npy_file import NpyFile
from gmmpipe.importing.source import Entry, Source

_SHARD = re.compile(r"(.+)_([0-9]+)_([0-9]+)")


def _rounded(total: int, rank: int, count: int) -> tuple[int, int]:
    return round(total / count * rank), round(total / count * (rank + 1))


def _ceiled(total: int, rank: int, count: int) -> tuple[int, int]:
    size = math.ceil(total / count)
    return min(rank * size, total), min((rank + 1) * size, total)


_RULES: tuple[Callable[[int, int, int], tuple[int, int]], ...] = (_rounded, _ceiled)
"""Which rows of a ``.tsv`` a shard has: by today's dump scripts, and by earlier ones."""


@dataclass
class _Dump:
    """One ``.npy`` with its ``.len``, and its rows of the ``.tsv``, if there is one."""

    stem: str
    starts: NDArray[np.int64]
    rows: list[tuple[str, int | None]]
    problem: AudioError | None


class FairseqDumps(Source):
    """The utterances of some dumps of a folder, in the order of the split and the rank.

    The manifest is the ``.npy``, the line that of the ``.len``. An id is the path in the ``.tsv``
    without its ending; without a ``.tsv`` it is the name of the ``.npy`` and the line.

    Args:
        folder: the folder of the dumps.
        stems: their names without the ending.

    Raises:
        ManifestError: a ``.len`` or a ``.tsv`` cannot be used.
    """

    def __init__(self, folder: Path, stems: Collection[str]) -> None:
        self._folder = folder
        stems = sorted(stems, key=_place)
        digest = hashlib.sha256(b"fairseq\n")
        self._dumps = [self._open(stem, digest) for stem in stems]
        self.num_files = len(stems)
        self._add_rows(digest)
        self.digest = digest.hexdigest()
        lengths = [len(dump.starts) - 1 for dump in self._dumps]
        self._first = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._opened: tuple[int, NpyFile] | None = None

    def _open(self, stem: str, digest: Any) -> _Dump:
        """A dump with what its ``.len`` says; the digest gets that and the size of the array."""
        path = self._folder / f"{stem}.len"
        lengths = array("q")
        try:
            with open(open_regular(path), "rb") as file:
                for number, line in enumerate(file, start=1):
                    if not line.strip().isdigit() or len(line) > 18:
                        raise ManifestError(f"{path}: line {number} is no number of frames")
                    lengths.append(int(line))
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read: {error.strerror}") from None
        counts = np.frombuffer(lengths, dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        array_path = self._folder / f"{stem}.npy"
        size = array_path.stat().st_size if array_path.exists() else -1
        digest.update(os.fsencode(stem) + b"\0%d\n" % size + counts.astype("<i8").tobytes())
        return _Dump(stem, starts, [], self._problem(array_path, int(starts[-1])))

    def _problem(self, path: Path, stated: int) -> AudioError | None:
        """What keeps all frames of a dump from being used."""
        try:
            file = NpyFile(str(path))
        except AudioError as error:
            return error
        file.close()
        if file.shape[0] != stated:
            detail = f"{file.shape[0]} frames, but the .len states {stated}"
            return AudioError("wrong_shape", detail)
        return None

    def _add_rows(self, digest: Any) -> None:
        """Give the dumps their rows of the ``.tsv`` of their split, where there is one."""
        splits: dict[str, list[tuple[_Dump, int, int]]] = {}
        for dump in self._dumps:
            if found := _SHARD.fullmatch(dump.stem):
                splits.setdefault(found[1], []).append((dump, int(found[2]), int(found[3])))
        for split, dumps in splits.items():
            path = self._folder / f"{split}.tsv"
            if not path.exists():
                continue
            rows = _read_tsv(path, digest)
            lengths = [len(dump.starts) - 1 for dump, _, _ in dumps]
            for rule in _RULES:
                ranges = [rule(len(rows), rank, max(1, count)) for _, rank, count in dumps]
                if [end - begin for begin, end in ranges] == lengths:
                    break
            else:
                raise ManifestError(
                    f"{path}: {len(rows)} rows, which do not agree with the lines of {split}_*.len"
                )
            for (begin, end), (dump, _, _) in zip(ranges, dumps, strict=True):
                dump.rows = rows[begin:end]

    def __len__(self) -> int:
        """How many lines all ``.len`` have."""
        return int(self._first[-1])

    def _find(self, number: int) -> tuple[int, int]:
        """The number of the dump, and of the line in it, both from 0."""
        dump = int(np.searchsorted(self._first, number, side="right")) - 1
        return dump, number - int(self._first[dump])

    def entry(self, number: int) -> Entry:
        """The utterance `number`."""
        index, line = self._find(number)
        dump = self._dumps[index]
        name = f"{dump.stem}.npy"
        if not dump.rows:
            return Entry(f"{dump.stem}-{line + 1:010d}", name, name, line + 1)
        path, num_samples = dump.rows[line]
        return Entry(os.path.splitext(path)[0], path, name, line + 1, num_samples)

    def frames(self, number: int) -> NDArray[Any]:
        """Its rows of the array.

        Raises:
            AudioError: they cannot be read.
        """
        index, line = self._find(number)
        dump = self._dumps[index]
        if dump.problem:
            raise dump.problem
        if self._opened is None or self._opened[0] != index:
            self.close()
            self._opened = index, NpyFile(str(self._folder / f"{dump.stem}.npy"))
        begin, end = int(dump.starts[line]), int(dump.starts[line + 1])
        return self._opened[1].rows(begin, end)

    def close(self) -> None:
        """Close the array that is open."""
        if self._opened:
            self._opened[1].close()
            self._opened = None


def _place(stem: str) -> tuple[str, int, int]:
    """Where a dump comes: by its split, its rank as a number, and how many ranks there were."""
    found = _SHARD.fullmatch(stem)
    return (found[1], int(found[2]), int(found[3])) if found else (stem, -1, -1)


def _read_tsv(path: Path, digest: Any) -> list[tuple[str, int | None]]:
    """The path and the number of samples of each row; the digest gets them too.

    Raises:
        ManifestError: it cannot be read, or a row is not so.
    """
    rows: list[tuple[str, int | None]] = []
    try:
        with open(open_regular(path), encoding="utf-8") as file:
            file.readline()  # the root: an absolute path
            for number, line in enumerate(file, start=2):
                digest.update(line.encode())
                name, _, samples = line.rstrip().partition("\t")
                if not name or not (samples.isascii() and samples.isdigit()):
                    raise ManifestError(f"{path}: line {number} is not: path, tab, samples")
                rows.append((name, int(samples)))
    except (OSError, ValueError) as error:  # no UTF-8, or a number of thousands of digits
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(f"{path}: cannot be read: {reason}") from None
    return rows

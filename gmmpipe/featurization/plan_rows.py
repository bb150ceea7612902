"""The rows of a published plan that some shards need; nothing that it says is taken on trust.

All of the file is read and checked, block by block. Only the rows that are needed are kept, so a
slice of a large job takes the memory of its own shards.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from gmmpipe.featurization.manifest_index import COLUMN_DTYPES, MAX_WINDOWS, ManifestIndex
from gmmpipe.featurization.plan_file import array_length, read_array, read_blocks
from gmmpipe.featurization.shard_order import checked_order
from gmmpipe.sources.manifest import Manifest
from gmmpipe.store.plans import PlanOptions

_MANIFEST_COLUMN = "first_ordinal"
_LINE_COLUMNS = tuple(name for name in COLUMN_DTYPES if name != _MANIFEST_COLUMN)


def check_lengths(archive: ZipFile, options: PlanOptions) -> None:
    """Make sure that the columns have a row for each line that was planned.

    Raises:
        ValueError: they have not.
    """
    lengths = {array_length(archive, name, COLUMN_DTYPES[name]) for name in _LINE_COLUMNS}
    if lengths != {options.lines} or options.lines < 1:
        raise ValueError(f"columns of {sorted(lengths)} lines, not of {options.lines}")


def read_order(archive: ZipFile, options: PlanOptions, own: slice) -> tuple[int, NDArray[np.int64]]:
    """How many items there are, and those of the shards `own`, in the order of the shards.

    Raises:
        ValueError: it is not the order that the options give.
    """
    num_items = array_length(archive, "order", np.int64)
    at, kept = 0, [np.empty(0, dtype=np.int64)]
    for block in checked_order(read_blocks(archive, "order", np.int64), num_items, options):
        shard = np.arange(at, at + len(block)) // options.utterances_per_shard
        kept.append(block[(shard >= own.start) & ((shard - own.start) % own.step == 0)])
        at += len(block)
    return num_items, np.concatenate(kept)


def read_index(
    archive: ZipFile,
    manifests: Sequence[Manifest],
    options: PlanOptions,
    num_items: int,
    own: NDArray[np.int64],
) -> tuple[ManifestIndex, NDArray[np.int64]]:
    """The index of the lines that some items are of, and the first item of each of those lines.

    Args:
        archive: the plan.
        manifests: the manifests that it must be of.
        options: what it is for.
        num_items: how many items its order has.
        own: the items, ascending, int64.

    Raises:
        ValueError: it cannot be a plan of `manifests`.
    """
    first_ordinal = read_array(archive, _MANIFEST_COLUMN, COLUMN_DTYPES[_MANIFEST_COLUMN])
    check = _IndexCheck(manifests, first_ordinal, options)
    kept: dict[str, list[NDArray[Any]]] = {name: [] for name in _LINE_COLUMNS}
    first_items = []
    taken = begin = 0
    blocks = (read_blocks(archive, name, COLUMN_DTYPES[name]) for name in _LINE_COLUMNS)
    for block in zip(*blocks, strict=True):
        columns = dict(zip(_LINE_COLUMNS, block, strict=True))
        check.add(columns)
        ends = begin + np.cumsum(columns["num_windows"], dtype=np.int64)
        first = ends - columns["num_windows"]
        upto = int(np.searchsorted(own, ends[-1]))
        lines = np.unique(np.searchsorted(first, own[taken:upto], side="right") - 1)
        for name, column in columns.items():
            kept[name].append(column[lines])
        first_items.append(first[lines])
        taken, begin = upto, int(ends[-1])
    check.finish()
    if begin != num_items:
        raise ValueError(f"another order: of {num_items} items, not of {begin}")
    rows = {name: np.concatenate(kept.pop(name)) for name in _LINE_COLUMNS}
    return ManifestIndex(**rows, first_ordinal=first_ordinal), np.concatenate(first_items)


class _IndexCheck:
    """Makes sure that an index can be that of `manifests`; a ValueError says why it cannot."""

    def __init__(
        self,
        manifests: Sequence[Manifest],
        first_ordinal: NDArray[np.int64],
        options: PlanOptions,
    ) -> None:
        self._sizes = np.array([_num_bytes(manifest) for manifest in manifests])
        self._splits = options.long_audio == "split"
        self._windows_sha256 = options.windows_sha256
        self._windows = hashlib.sha256()
        self._last: dict[str, NDArray[Any]] = {}
        if len(first_ordinal) != len(manifests) or first_ordinal[0] != 0:
            raise ValueError(f"lines of {len(first_ordinal)} manifests, not of {len(manifests)}")
        # A line takes a byte or more, so no manifest has more lines than bytes.
        lengths = np.diff(first_ordinal)
        if np.any(lengths < 0) or np.any(lengths > self._sizes[:-1]):
            raise ValueError("manifests of impossible lengths")

    def add(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Check the next rows."""
        index, number, place = (columns[name] for name in _LINE_COLUMNS[:3])
        if index.min() < 0 or index.max() >= len(self._sizes):
            raise ValueError("a manifest beyond the last")
        if place.min() < 0 or np.any(place >= self._sizes[index]):
            raise ValueError("a line beyond its manifest's end")
        if number.min() < 1 or np.any(number > place + 1):
            raise ValueError("lines out of order")
        self._check_rise(columns)
        windows = columns["num_windows"]
        most = MAX_WINDOWS if self._splits else 1
        if windows.min() < 1 or windows.max() > most:
            raise ValueError(f"a line of no windows, or of more than {most}")
        if self._splits:
            self._windows.update(windows.tobytes())

    def _check_rise(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Make sure that lines rise within a manifest, from the row before these rows on."""
        names = _LINE_COLUMNS[:3]
        index, number, place = (
            np.concatenate([self._last.get(name, columns[name][:0]), columns[name]])
            for name in names
        )
        same = index[1:] == index[:-1]
        falls = (number[1:] <= number[:-1]) | (place[1:] <= place[:-1])
        if np.any(index[1:] < index[:-1]) or np.any(falls & same):
            raise ValueError("lines out of order")
        self._last = {name: columns[name][-1:] for name in names}

    def finish(self) -> None:
        """Check what all rows together must be."""
        if self._splits and self._windows.hexdigest() != self._windows_sha256:
            raise ValueError("other windows than it says")


def _num_bytes(manifest: Manifest) -> int:
    assert manifest.lines_path is not None, "a manifest is translated before its plan is read"
    return os.stat(manifest.lines_path).st_size

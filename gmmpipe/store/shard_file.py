"""The interface of a shard on the disk, which each kind of shard implements: one writer, one file.

`gmmpipe.store.shard_kinds` lists the kinds.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import StoreError
from gmmpipe.files import canonical_json
from gmmpipe.store.columns import Column
from gmmpipe.store.names import Kind
from gmmpipe.store.read_ranges import crc32c
from gmmpipe.store.shard_index import ShardIndex
from gmmpipe.store.sidecar import ShardRow, Sidecar


class ShardWriter(ABC):
    """Writes the utterances of a shard, and gathers their index.

    Args:
        name: the shard's file name.
        columns: the arrays that each utterance has.
        has_json: whether each has metadata too.
    """

    json_end: ClassVar[bytes] = b""
    """What follows the JSON of an utterance where it is stored."""

    def __init__(self, name: str, columns: Sequence[Column], has_json: bool) -> None:
        self._name = name
        self.columns = tuple(columns)
        self.has_json = has_json
        self._shared: dict[str, list[Any]] = {"keys": [], "num_frames": []}
        self._own: dict[str, dict[str, list[int]]] = {
            column.name: {"byte_offset": [], "crc32c": []} for column in columns
        }
        if has_json:
            self._own[columns[0].name]["json_crc32c"] = []

    def add(
        self,
        key: str,
        arrays: Mapping[str, NDArray[Any]],
        metadata: Mapping[str, Any] | None = None,
        audio: bytes | None = None,
    ) -> None:
        """Append an utterance.

        Args:
            key: sorted after the keys before it.
            arrays: of each column by its name, [T, width], or [T] where that is 1; in the column's
                dtype. T is at least 1, and the same for all.
            metadata: its JSON.
            audio: a FLAC file, for all utterances or for none.

        Raises:
            ValueError: the arrays are not those of the columns.
        """
        if (metadata is not None) != self.has_json:
            raise ValueError(f"utterance {key}: metadata for some utterances only")
        num_frames = len(next(iter(arrays.values()), ()))
        stored = {
            column.name: _as_stored(arrays, column, num_frames, key) for column in self.columns
        }
        text = None
        if metadata is not None:
            text = canonical_json(metadata).encode() + self.json_end
            self._own[self.columns[0].name]["json_crc32c"].append(crc32c(text))
        for name, byte_offset in self._append(key, stored, text, audio).items():
            self._own[name]["byte_offset"].append(byte_offset)
            self._own[name]["crc32c"].append(crc32c(stored[name]))
        self._shared["keys"].append(key)
        self._shared["num_frames"].append(num_frames)

    def finish(self, kind: Kind = "features") -> Sidecar:
        """Write what is left of the shard; nothing can be added then.

        Args:
            kind: of the store.

        Returns:
            Its sidecar, to be published once the shard is: with the counts of its row, no rejects
            and nothing left out.

        Raises:
            ValueError: a key is none, or they were not sorted.
        """
        num_bytes, sha256 = self._end()
        indices = {n: ShardIndex.from_json({**self._shared, **own}) for n, own in self._own.items()}
        index = indices.pop(self.columns[0].name)
        num_frames = int(index.frame_offset[-1])
        row = ShardRow(self._name, len(index.keys), num_frames, num_bytes, sha256)
        return Sidecar(kind, row, index, indices, row.counts)

    @abstractmethod
    def _append(
        self, key: str, arrays: dict[str, NDArray[Any]], text: bytes | None, audio: bytes | None
    ) -> dict[str, int]:
        """Store an utterance; where each column's array begins in its raw file, by the column."""

    @abstractmethod
    def _end(self) -> tuple[int, str]:
        """End the shard: its size in bytes and its SHA-256."""


def _as_stored(
    arrays: Mapping[str, NDArray[Any]], column: Column, num_frames: int, key: str
) -> NDArray[Any]:
    array, name = arrays.get(column.name), column.name
    if array is None or array.shape not in ((num_frames, column.width), column.shape(num_frames)):
        found = "missing" if array is None else f"{list(array.shape)}"
        raise ValueError(f"{name} of utterance {key} is {found}, not [T, {column.width}]")
    if array.dtype != column.numpy_dtype or not num_frames:
        raise ValueError(f"{name} of utterance {key}: {num_frames} frames of {array.dtype}")
    return np.ascontiguousarray(array).reshape(column.shape(num_frames))


class ShardFile(ABC):
    """A shard on the disk: a file or a folder.

    What it says of its parts is compared with its size before it is used, and it is never read into
    memory whole. All methods raise a `StoreError` where the shard is missing or damaged, unless
    they say otherwise.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def open_writer(
        self, columns: Sequence[Column], *, has_json: bool = True
    ) -> AbstractContextManager[ShardWriter]:
        """A writer; the shard appears once the block has ended without an error.

        Args:
            columns: the arrays that each utterance has.
            has_json: whether each has metadata too; the labels of earlier versions have none.
        """

    @abstractmethod
    def raw_file(self, column: Column) -> Path:
        """The file that the byte offsets of a column count in."""

    @abstractmethod
    def size(self) -> int:
        """Size in bytes; OSError where the shard is missing."""

    @abstractmethod
    def sha256(self) -> str:
        """SHA-256, read from the disk; OSError where the shard cannot be read."""

    @abstractmethod
    def read_json(self, keys: Sequence[str]) -> Iterator[bytes]:
        """The JSON of each utterance, in order, as stored; no array is read."""

    @abstractmethod
    def read_json_and_audio(
        self, index: ShardIndex, position: int, column: Column
    ) -> tuple[bytes, bytes]:
        """JSON and FLAC of the utterance at `position`, unchecked.

        Args:
            index: that of `column`.
            position: which utterance.
            column: the store's first.
        """

    @abstractmethod
    def check_layout(
        self, columns: Sequence[Column], indices: Sequence[ShardIndex], has_json: bool
    ) -> None:
        """Make sure that other libraries find in the shard what the indices of `columns` say."""

    def read_metadata(self, index: ShardIndex) -> Iterator[tuple[str, dict[str, Any]]]:
        """Key and JSON of each utterance, in order, each checked by its CRC."""
        for position, text in enumerate(self.read_json(index.keys)):
            yield index.keys[position], self._parse(index, position, text)

    def read_audio(
        self, index: ShardIndex, position: int, column: Column
    ) -> tuple[dict[str, Any], bytes]:
        """The checked JSON of the utterance at `position`, and its FLAC, which is not checked."""
        text, flac = self.read_json_and_audio(index, position, column)
        return self._parse(index, position, text), flac

    def _parse(self, index: ShardIndex, position: int, text: bytes) -> dict[str, Any]:
        """An utterance's JSON from its bytes; StoreError where it is damaged or another's."""
        key, what = index.keys[position], f"{self.path}: the JSON of utterance"
        if index.json_crc32c is not None and crc32c(text) != index.json_crc32c[position]:
            raise StoreError(f"{what} {key} is corrupt (its checksum differs)")
        try:
            values: dict[str, Any] = json.loads(text)
            whole = (values["key"], values["num_frames"]) == (key, int(index.num_frames[position]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{what} {key} is corrupt: {error!r}") from error
        if not whole:
            raise StoreError(f"{what} {key} is that of another")
        return values

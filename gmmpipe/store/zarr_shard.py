"""A shard as a Zarr v3 group, for those who read arrays: opens with plain ``zarr.open``.

    logmel        [frames, D]       an array a column: all utterances, one after another
    offsets       [utterances + 1]  where each begins in them, int64
    json          [bytes]           their JSON, a line each, uint8
    json_offsets  [utterances + 1]  where each line begins in json, int64
    flac, flac_offsets              with --store_audio, their waveforms likewise

A column is one object (``logmel/c/0/0``) of uncompressed chunks in order, so the raw array of each
utterance lies in one piece of it, and is read by its byte offset just as from a tar.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from gmmpipe.errors import StoreError
from gmmpipe.files import atomic_folder, read_regular, sha256_of_file
from gmmpipe.store.columns import Column
from gmmpipe.store.read_ranges import read_bytes
from gmmpipe.store.shard_file import ShardFile, ShardWriter
from gmmpipe.store.shard_index import ShardIndex

CHUNK_FRAMES = 8192
_MAX_DESCRIPTION = 1 << 20


class ZarrShardWriter(ShardWriter):
    """Gathers utterances, then writes them as a group into a folder that is empty before."""

    json_end = b"\n"

    def __init__(self, folder: Path, name: str, columns: Sequence[Column], has_json: bool) -> None:
        super().__init__(name, columns, has_json)
        self._folder = folder
        self._arrays: dict[str, list[NDArray[Any]]] = {column.name: [] for column in columns}
        self._num_frames = 0
        self._bytes: dict[str, list[bytes]] = {"json": [], "flac": []}

    def _append(
        self, key: str, arrays: dict[str, NDArray[Any]], text: bytes | None, audio: bytes | None
    ) -> dict[str, int]:
        for name, content in (("json", text), ("flac", audio)):
            if content is not None:
                self._bytes[name].append(content)
        frames_before = self._num_frames
        self._num_frames += len(next(iter(arrays.values())))
        for name, array in arrays.items():
            self._arrays[name].append(array)
        return {column.name: frames_before * column.frame_bytes for column in self.columns}

    def _end(self) -> tuple[int, str]:
        group = zarr.create_group(self._folder)
        offsets = _offsets(self._shared["num_frames"])
        for column in self.columns:
            _write_column(group, column, self._arrays[column.name], int(offsets[-1]))
        plain: dict[str, NDArray[Any]] = {"offsets": offsets}
        for name, parts in self._bytes.items():
            if parts or (name == "json" and self.has_json):
                plain[name] = np.frombuffer(b"".join(parts), dtype=np.uint8)
                plain[f"{name}_offsets"] = _offsets([len(part) for part in parts])
        for name, values in plain.items():
            chunks = (max(1, len(values)),)
            array = group.create_array(
                name, shape=values.shape, dtype=values.dtype, chunks=chunks, compressors=None
            )
            array[:] = values
        return digest_folder(self._folder)


def _write_column(
    group: zarr.Group, column: Column, arrays: list[NDArray[Any]], num_frames: int
) -> None:
    chunks = max(1, -(-num_frames // CHUNK_FRAMES))
    array = group.create_array(
        column.name,
        shape=column.shape(num_frames),
        dtype=column.numpy_dtype,
        chunks=column.shape(CHUNK_FRAMES),
        shards=column.shape(chunks * CHUNK_FRAMES),
        compressors=None,
        filters=None,
        config={"write_empty_chunks": True},
    )
    if arrays:
        array[:] = np.concatenate(arrays)


class ZarrShard(ShardFile):
    """A shard that is a folder, read without zarr, since a group may claim any shape."""

    @contextmanager
    def open_writer(
        self, columns: Sequence[Column], *, has_json: bool = True
    ) -> Iterator[ShardWriter]:
        """A writer; the folder appears once the block has ended without an error."""
        with atomic_folder(self.path) as folder:
            yield ZarrShardWriter(folder, self.path.name, columns, has_json)

    def raw_file(self, column: Column) -> Path:
        """The column's one object."""
        return self._object(column.name, dimensions=len(column.shape(0)))

    def size(self) -> int:
        """Total size of the files; OSError where there is no such folder."""
        if not self.path.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def sha256(self) -> str:
        """See `digest_folder`; OSError where a file cannot be read."""
        return digest_folder(self.path)[1]

    def read_json(self, keys: Sequence[str]) -> Iterator[bytes]:
        """The JSON line of each utterance, in order."""
        for begin, end in pairwise(self._read_offsets("json_offsets", 0, len(keys))):
            yield read_bytes(self._object("json"), begin, end)

    def read_json_and_audio(
        self, index: ShardIndex, position: int, column: Column
    ) -> tuple[bytes, bytes]:
        """A part of each of the arrays ``json`` and ``flac``."""
        text, flac = (self._read_part(name, position) for name in ("json", "flac"))
        return text, flac

    def check_layout(
        self, columns: Sequence[Column], indices: Sequence[ShardIndex], has_json: bool
    ) -> None:
        """Make sure of the arrays' shapes and dtypes, and of the utterances' offsets in them."""
        index = indices[0]
        count, frames = len(index.keys), int(index.frame_offset[-1])
        expected = {column.name: (list(column.shape(frames)), column.dtype) for column in columns}
        for name in ("offsets", "json_offsets") if has_json else ("offsets",):
            expected[name] = ([count + 1], "int64")
        for name, said in expected.items():
            self._check_description(self.path / name / "zarr.json", *said)
        if count and self._read_offsets("offsets", 0, count) != index.frame_offset.tolist():
            raise StoreError(f"{self.path}: its offsets are not those of its index")

    @staticmethod
    def _check_description(path: Path, shape: list[int], dtype: str) -> None:
        try:
            found = json.loads(read_regular(path, _MAX_DESCRIPTION))
            said = found["shape"], found["data_type"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{path}: damaged or missing: {error}") from error
        if said != (shape, dtype):
            raise StoreError(f"{path}: not what its index says")

    def _read_part(self, name: str, position: int) -> bytes:
        """Element `position` of the arrays ``name`` and ``name_offsets``."""
        begin, end = self._read_offsets(f"{name}_offsets", position, 1)
        return read_bytes(self._object(name), begin, end)

    def _read_offsets(self, name: str, position: int, count: int) -> list[int]:
        """Where `count` elements begin, from `position` on, and where the last of them ends."""
        if not count:  # zarr writes no object of zeros alone
            return []
        begin, end = 8 * position, 8 * (position + count + 1)
        content = read_bytes(self._object(name), begin, end)
        offsets: list[int] = np.frombuffer(content, "<i8").tolist()
        return offsets

    def _object(self, name: str, dimensions: int = 1) -> Path:
        """The one object that an array of the group lies in, uncompressed."""
        return self.path.joinpath(name, "c", *["0"] * dimensions)


def digest_folder(folder: Path) -> tuple[int, str]:
    """Total size, and SHA-256 over the sorted lines ``path NUL size NUL sha256`` of its files."""
    lines, total = [], 0
    for path in folder.rglob("*"):
        if path.is_file():
            size = path.stat().st_size
            total += size
            name = path.relative_to(folder).as_posix()
            lines.append(f"{name}\0{size}\0{sha256_of_file(path)}\n")
    return total, hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _offsets(lengths: list[int]) -> NDArray[np.int64]:
    return np.cumsum([0, *lengths], dtype=np.int64)

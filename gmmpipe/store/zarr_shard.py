"""A shard as a Zarr v3 group, for those who read arrays: opens with plain ``zarr.open``.

    logmel        [frames, D]       all utterances, one after another
    offsets       [utterances + 1]  where each begins in logmel, int64
    json          [bytes]           their JSON, a line each, uint8
    json_offsets  [utterances + 1]  where each line begins in json, int64
    flac, flac_offsets              with --store_audio, their waveforms likewise

logmel is one object (``logmel/c/0/0``) of uncompressed chunks in order, so the raw array of each
utterance lies in one piece of it, and is read by its byte offset just as from a tar.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from gmmpipe.errors import StoreError
from gmmpipe.files import canonical_json, read_regular
from gmmpipe.store.read_ranges import crc32c, read_bytes
from gmmpipe.store.shard_index import ShardIndex

CHUNK_FRAMES = 8192
_MAX_DESCRIPTION = 1 << 20
RAW_OBJECT = Path("logmel", "c", "0", "0")


class ZarrShardWriter:
    """Gathers samples, then writes them as a group into a folder.

    Args:
        folder: empty; becomes the group.
        dim: D.
        dtype: the stored dtype, ``float16`` or ``float32``.
    """

    def __init__(self, folder: Path, dim: int, dtype: str) -> None:
        self._folder = folder
        self._dim = dim
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._keys: list[str] = []
        self._frames: list[NDArray[Any]] = []
        self._lines: list[bytes] = []
        self._audio: list[bytes] = []

    def add(
        self, key: str, metadata: dict[str, Any], frames: NDArray[Any], audio: bytes | None
    ) -> None:
        """Append one sample; see `gmmpipe.store.tar_shard.TarShardWriter.add`."""
        self._keys.append(key)
        self._frames.append(frames)
        self._lines.append(canonical_json(metadata).encode() + b"\n")
        if audio is not None:
            self._audio.append(audio)

    def finish(self) -> tuple[ShardIndex, int, str]:
        """Write the group: its index, size in bytes and SHA-256 (see `digest_folder`)."""
        offsets = _offsets(self._frames)
        group = zarr.create_group(self._folder)
        total = int(offsets[-1])
        frames = group.create_array(
            "logmel",
            shape=(total, self._dim),
            dtype=self._dtype,
            chunks=(CHUNK_FRAMES, self._dim),
            shards=(max(1, -(-total // CHUNK_FRAMES)) * CHUNK_FRAMES, self._dim),
            compressors=None,
            filters=None,
            config={"write_empty_chunks": True},
        )
        if self._frames:
            frames[:] = np.concatenate(self._frames)
        plain: dict[str, NDArray[Any]] = {
            "offsets": offsets,
            "json": np.frombuffer(b"".join(self._lines), dtype=np.uint8),
            "json_offsets": _offsets(self._lines),
        }
        if self._audio:
            plain["flac"] = np.frombuffer(b"".join(self._audio), dtype=np.uint8)
            plain["flac_offsets"] = _offsets(self._audio)
        for name, values in plain.items():
            chunks = (max(1, len(values)),)
            array = group.create_array(
                name, shape=values.shape, dtype=values.dtype, chunks=chunks, compressors=None
            )
            array[:] = values
        row_bytes = self._dim * self._dtype.itemsize
        index = ShardIndex(
            keys=self._keys,
            num_frames=np.diff(offsets),
            byte_offset=offsets[:-1] * row_bytes,
            crc32c=np.array([crc32c(array) for array in self._frames], dtype=np.int64),
            json_crc32c=np.array([crc32c(line) for line in self._lines], dtype=np.int64),
        )
        return index, *digest_folder(self._folder)


def read_json(path: Path, keys: Sequence[str]) -> Iterator[bytes]:
    """The JSON line of each sample of a shard, in order, as stored.

    Plain reads, as everywhere here: a group that claims a monstrous shape is then not believed.

    Raises:
        StoreError: the shard is missing or damaged.
    """
    for begin, end in pairwise(_read_offsets(path, "json", 0, len(keys))):
        yield read_bytes(_object(path, "json"), begin, end)


def check_group(path: Path, index: ShardIndex, dim: int, dtype: str) -> None:
    """Make sure that a stranger who opens the group gets what the index says.

    Raises:
        StoreError: the shard is missing or damaged.
    """
    count, frames = len(index.keys), int(index.row_offset[-1])
    expected = {
        "logmel": ([frames, dim], dtype),
        "offsets": ([count + 1], "int64"),
        "json_offsets": ([count + 1], "int64"),
    }
    for name, (shape, data_type) in expected.items():
        description = path / name / "zarr.json"
        try:
            found = json.loads(read_regular(description, _MAX_DESCRIPTION))
            said = found["shape"], found["data_type"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{description}: damaged or missing: {error}") from error
        if said != (shape, data_type):
            raise StoreError(f"{description}: not what its index says")
    if count and _read_offsets(path, "", 0, count) != index.row_offset.tolist():
        raise StoreError(f"{path}: its offsets are not those of its index")


def read_audio(path: Path, position: int) -> tuple[bytes, bytes]:
    """JSON and FLAC of the sample at `position`; plain reads, since zarr would read all of both.

    Raises:
        StoreError: they are not there. Their content is not checked.
    """
    text, flac = (_read_part(path, name, position) for name in ("json", "flac"))
    return text, flac


def _read_part(path: Path, name: str, position: int) -> bytes:
    """Element `position` of the arrays ``name`` and ``name_offsets``."""
    begin, end = _read_offsets(path, name, position, 1)
    return read_bytes(_object(path, name), begin, end)


def _read_offsets(path: Path, name: str, position: int, count: int) -> list[int]:
    """Where `count` elements of the array ``name`` begin, from `position` on, and the last ends."""
    if not count:  # zarr writes no object of zeros alone
        return []
    array = f"{name}_offsets" if name else "offsets"
    begin, end = 8 * position, 8 * (position + count + 1)
    offsets: list[int] = np.frombuffer(read_bytes(_object(path, array), begin, end), "<i8").tolist()
    return offsets


def _object(path: Path, name: str) -> Path:
    """The one object that a plain array of the group lies in, uncompressed."""
    return path / name / "c" / "0"


def size_of(folder: Path) -> int:
    """Total size of a shard's files; OSError where there is no such folder."""
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def digest_folder(folder: Path) -> tuple[int, str]:
    """Total size, and SHA-256 over the sorted lines ``path NUL size NUL sha256`` of its files."""
    lines, total = [], 0
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = path.stat().st_size
            total += size
            lines.append(f"{path.relative_to(folder).as_posix()}\0{size}\0{digest}\n")
    return total, hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _offsets(parts: list[Any]) -> NDArray[np.int64]:
    return np.cumsum([0, *map(len, parts)], dtype=np.int64)

"""A shard as a plain tar in WebDataset convention: ``{key}.json`` and ``{key}.logmel.npy``."""

import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import StoreError
from gmmpipe.files import canonical_json
from gmmpipe.store.read_ranges import crc32c
from gmmpipe.store.shard_index import ShardIndex
from gmmpipe.store.tar_reader import StoredArray, TarReader
from gmmpipe.store.tar_writer import TarWriter


class TarShardWriter:
    """Writes samples to an open file, and gathers their index."""

    def __init__(self, file: BinaryIO) -> None:
        self._tar = TarWriter(file)
        self._columns: dict[str, list[Any]] = {
            "keys": [],
            "num_frames": [],
            "byte_offset": [],
            "crc32c": [],
            "json_crc32c": [],
        }

    def add(
        self, key: str, metadata: dict[str, Any], frames: NDArray[Any], audio: bytes | None
    ) -> None:
        """Append one sample.

        Args:
            key: sorted after the keys before it.
            metadata: goes to ``{key}.json``.
            frames: [T, D] in the stored dtype, C order.
            audio: a FLAC file for ``{key}.flac``, or None.
        """
        if audio is not None:
            self._tar.add_bytes(f"{key}.flac", audio)
        text = canonical_json(metadata).encode()
        self._tar.add_bytes(f"{key}.json", text)
        offset = self._tar.add_array(f"{key}.logmel.npy", frames)
        self._columns["keys"].append(key)
        self._columns["num_frames"].append(len(frames))
        self._columns["byte_offset"].append(offset)
        self._columns["crc32c"].append(crc32c(frames))
        self._columns["json_crc32c"].append(crc32c(text))

    def finish(self) -> tuple[ShardIndex, int, str]:
        """End the archive: its index, size in bytes and SHA-256."""
        return ShardIndex.from_json(self._columns), *self._tar.finish()


def read_json(path: Path, keys: Sequence[str]) -> Iterator[bytes]:
    """The JSON of each sample of a shard, in order, as stored; the features are not read.

    Raises:
        StoreError: the shard is missing or damaged, or its samples are not those of `keys`.
    """
    expected = iter(keys)
    with TarReader(path) as archive:
        for member in archive.members():
            if member.name.endswith(".json"):
                key = next(expected, None)
                if member.name != f"{key}.json":
                    raise StoreError(f"{path}: holds {member.name} where the index says {key}")
                yield archive.content(member)
    if (key := next(expected, None)) is not None:
        raise StoreError(f"{path}: holds no JSON of utterance {key}")


def read_audio(path: Path, after: int, key: str) -> tuple[bytes, bytes]:
    """JSON and FLAC of one sample: what stands before its array.

    Args:
        path: the shard.
        after: where the array of the sample before ends; 0 for the first sample.
        key: the sample's.

    Raises:
        StoreError: the two members are not there. Their content is not checked.
    """
    with TarReader(path) as archive:
        start = after + -after % tarfile.BLOCKSIZE
        members = {m.name: m for m in islice(archive.members(start), 2)}
        try:
            return archive.content(members[f"{key}.json"]), archive.content(members[f"{key}.flac"])
        except KeyError as error:
            raise StoreError(
                f"{path}: utterance {key} has no readable audio: no {error}"
            ) from error


def check_members(path: Path, index: ShardIndex, dim: int, dtype: str) -> None:
    """Make sure that a stranger who decodes the members gets what the index says.

    Raises:
        StoreError: the shard is missing or damaged.
    """
    columns = zip(index.keys, index.byte_offset.tolist(), index.num_frames.tolist(), strict=True)
    with TarReader(path) as archive:
        archive.check_arrays(
            StoredArray(f"{key}.logmel.npy", offset, (frames, dim), np.dtype(dtype))
            for key, offset, frames in columns
        )

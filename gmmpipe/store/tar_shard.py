"""A shard as a plain tar in WebDataset convention: ``{key}.json`` and ``{key}.logmel.npy``."""

import json
import tarfile
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from gmmpipe.errors import StoreError
from gmmpipe.files import canonical_json
from gmmpipe.store.rows import crc32c, read_bytes
from gmmpipe.store.shard_index import ShardIndex
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
        self._tar.add_bytes(f"{key}.json", canonical_json(metadata).encode())
        offset = self._tar.add_array(f"{key}.logmel.npy", frames)
        self._columns["keys"].append(key)
        self._columns["num_frames"].append(len(frames))
        self._columns["byte_offset"].append(offset)
        self._columns["crc32c"].append(crc32c(frames))

    def finish(self) -> tuple[ShardIndex, int, str]:
        """End the archive: its index, size in bytes and SHA-256."""
        return ShardIndex.from_json(self._columns), *self._tar.finish()


def read_metadata(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and JSON of each sample of a shard, in order; the features are skipped, not read.

    Raises:
        StoreError: the shard is missing or damaged.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                if extension == "json":
                    content = archive.extractfile(member)
                    assert content is not None, "a JSON member is a regular file"
                    yield key, json.loads(content.read())
    except (OSError, ValueError, tarfile.TarError) as error:
        raise StoreError(f"{path}: damaged or missing: {error}") from error


def read_audio(path: Path, after: int, before: int, key: str) -> tuple[bytes, bytes]:
    """JSON and FLAC of one sample: what lies between two arrays of a shard.

    Args:
        path: the shard.
        after: where the array of the sample before ends; 0 for the first sample.
        before: where the sample's own array begins.
        key: the sample's.

    Raises:
        StoreError: the two members are not there. Their content is not checked.
    """
    between = read_bytes(path, after + -after % tarfile.BLOCKSIZE, before)
    members = {}
    try:
        with tarfile.open(fileobj=BytesIO(between), mode="r:") as archive:
            for member in islice(archive, 2):  # the third is the array, cut short
                content = archive.extractfile(member)
                members[member.name] = content.read() if content else b""
        return members[f"{key}.json"], members[f"{key}.flac"]
    except (KeyError, ValueError, tarfile.TarError) as error:
        raise StoreError(f"{path}: utterance {key} has no readable audio: {error}") from error

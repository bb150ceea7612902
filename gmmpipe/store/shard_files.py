"""Where the kinds of shard meet: everything that depends on a shard being a tar or a Zarr group."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gmmpipe.errors import StoreError
from gmmpipe.files import atomic_file, atomic_folder, open_regular
from gmmpipe.store import tar_shard, zarr_shard
from gmmpipe.store.read_ranges import crc32c
from gmmpipe.store.schema import SHARD_SUFFIXES
from gmmpipe.store.shard_index import ShardIndex

ShardWriter = tar_shard.TarShardWriter | zarr_shard.ZarrShardWriter


@contextmanager
def open_writer(path: Path, dim: int, dtype: str) -> Iterator[ShardWriter]:
    """A writer of the shard `path`, which appears once the block has ended without an error."""
    if is_tar(path):
        with atomic_file(path) as file:
            yield tar_shard.TarShardWriter(file)
    else:
        with atomic_folder(path) as folder:
            yield zarr_shard.ZarrShardWriter(folder, dim, dtype)


def read_metadata(path: Path, index: ShardIndex) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and JSON of each sample of a shard, in order, each checked by its CRC.

    Raises:
        StoreError: the shard is missing or damaged, or holds other samples than its index.
    """
    kind = tar_shard if is_tar(path) else zarr_shard
    for position, text in enumerate(kind.read_json(path, index.keys)):
        yield index.keys[position], parse_metadata(path, index, position, text)


def parse_metadata(path: Path, index: ShardIndex, position: int, text: bytes) -> dict[str, Any]:
    """The JSON of the sample at `position`, from its bytes as stored.

    Raises:
        StoreError: they are damaged, or of another sample.
    """
    key = index.keys[position]
    if index.json_crc32c is not None and crc32c(text) != index.json_crc32c[position]:
        raise StoreError(f"{path}: the JSON of utterance {key} is corrupt (its checksum differs)")
    try:
        values: dict[str, Any] = json.loads(text)
        whole = (values["key"], values["num_frames"]) == (key, int(index.num_frames[position]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StoreError(f"{path}: the JSON of utterance {key} is corrupt: {error!r}") from error
    if not whole:
        raise StoreError(f"{path}: the JSON of utterance {key} is that of another")
    return values


def read_audio(
    path: Path, index: ShardIndex, position: int, frame_bytes: int
) -> tuple[dict[str, Any], bytes]:
    """JSON and FLAC of the sample at `position` of a shard; StoreError where they are not there.

    Args:
        path: the shard.
        index: its index.
        position: which sample.
        frame_bytes: size of a stored frame.
    """
    if is_tar(path):
        ends = index.byte_offset + index.num_frames * frame_bytes
        after = int(ends[position - 1]) if position else 0
        text, flac = tar_shard.read_audio(path, after, index.keys[position])
    else:
        text, flac = zarr_shard.read_audio(path, position)
    return parse_metadata(path, index, position, text), flac


def check_layout(path: Path, index: ShardIndex, dim: int, dtype: str) -> None:
    """Make sure that a stranger who opens a shard gets what the index says; else StoreError."""
    check = tar_shard.check_members if is_tar(path) else zarr_shard.check_group
    check(path, index, dim, dtype)


def raw_file(path: Path) -> Path:
    """The file that the index's byte offsets are of."""
    return path if is_tar(path) else path / zarr_shard.RAW_OBJECT


def size(path: Path) -> int:
    """Size of a shard in bytes; OSError where it is missing."""
    return path.stat().st_size if is_tar(path) else zarr_shard.size_of(path)


def sha256(path: Path) -> str:
    """SHA-256 of a shard, read from the disk; OSError where it is missing or no regular file."""
    return sha256_of_file(path) if is_tar(path) else zarr_shard.digest_folder(path)[1]


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a regular file; OSError where it is missing or none."""
    with open(open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_tar(path: Path) -> bool:
    """Whether a shard is a tar, by its name."""
    return path.suffix == SHARD_SUFFIXES["tar"]

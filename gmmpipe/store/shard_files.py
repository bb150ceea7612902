"""Where the kinds of shard meet: everything that depends on a shard being a tar or a Zarr group."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gmmpipe.files import atomic_file, atomic_folder
from gmmpipe.store import tar_shard, zarr_shard
from gmmpipe.store.schema import SHARD_SUFFIXES
from gmmpipe.store.shard_index import ShardIndex

ShardWriter = tar_shard.TarShardWriter | zarr_shard.ZarrShardWriter


@contextmanager
def open_writer(path: Path, dim: int, dtype: str) -> Iterator[ShardWriter]:
    """A writer of the shard `path`, which appears once the block has ended without an error."""
    if _is_tar(path):
        with atomic_file(path) as file:
            yield tar_shard.TarShardWriter(file)
    else:
        with atomic_folder(path) as folder:
            yield zarr_shard.ZarrShardWriter(folder, dim, dtype)


def read_metadata(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and JSON of each sample of a shard, in order; StoreError where it is damaged."""
    return tar_shard.read_metadata(path) if _is_tar(path) else zarr_shard.read_metadata(path)


def read_audio(
    path: Path, index: ShardIndex, position: int, frame_bytes: int
) -> tuple[bytes, bytes]:
    """JSON and FLAC of the sample at `position` of a shard; StoreError where they are not there.

    Args:
        path: the shard.
        index: its index.
        position: which sample.
        frame_bytes: size of a stored frame.
    """
    if not _is_tar(path):
        return zarr_shard.read_audio(path, position)
    ends = index.byte_offset + index.num_frames * frame_bytes
    after = int(ends[position - 1]) if position else 0
    return tar_shard.read_audio(path, after, int(index.byte_offset[position]), index.keys[position])


def raw_file(path: Path) -> Path:
    """The file that the index's byte offsets are of."""
    return path if _is_tar(path) else path / zarr_shard.RAW_OBJECT


def digest(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a shard, read from the disk; OSError where it is missing."""
    if not _is_tar(path):
        return zarr_shard.digest_folder(path)
    with open(path, "rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _is_tar(path: Path) -> bool:
    return path.suffix == SHARD_SUFFIXES["tar"]

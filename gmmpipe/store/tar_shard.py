"""A shard as a plain tar in WebDataset convention: ``{key}.json``, ``{key}.logmel.npy`` and so on.

The members of an utterance are sorted by name, as utterances are by key.
"""

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray

from gmmpipe.errors import StoreError
from gmmpipe.files import atomic_file, sha256_of_file
from gmmpipe.store.columns import Column
from gmmpipe.store.shard_file import ShardFile, ShardWriter
from gmmpipe.store.shard_index import ShardIndex
from gmmpipe.store.tar_reader import StoredArray, TarReader
from gmmpipe.store.tar_writer import TarWriter


class TarShardWriter(ShardWriter):
    """Writes utterances to an open file, one after another."""

    def __init__(
        self, file: BinaryIO, name: str, columns: Sequence[Column], has_json: bool
    ) -> None:
        super().__init__(name, columns, has_json)
        self._tar = TarWriter(file)

    def _append(
        self, key: str, arrays: dict[str, NDArray[Any]], text: bytes | None, audio: bytes | None
    ) -> dict[str, int]:
        plain = {"flac": audio, "json": text}
        places = {}
        for name in sorted([*plain, *arrays]):
            if name in arrays:
                places[name] = self._tar.add_array(f"{key}.{name}.npy", arrays[name])
            elif (content := plain[name]) is not None:
                self._tar.add_bytes(f"{key}.{name}", content)
        return places

    def _end(self) -> tuple[int, str]:
        return self._tar.finish()


class TarShard(ShardFile):
    """A shard that is one file."""

    @contextmanager
    def open_writer(
        self, columns: Sequence[Column], *, has_json: bool = True
    ) -> Iterator[ShardWriter]:
        """A writer; the file appears once the block has ended without an error."""
        with atomic_file(self.path) as file:
            yield TarShardWriter(file, self.path.name, columns, has_json)

    def raw_file(self, column: Column) -> Path:
        """The file itself, for every column."""
        return self.path

    def size(self) -> int:
        """Size in bytes; OSError where the file is missing."""
        return self.path.stat().st_size

    def sha256(self) -> str:
        """SHA-256, read from the disk; OSError where there is no regular file."""
        return sha256_of_file(self.path)

    def read_json(self, keys: Sequence[str]) -> Iterator[bytes]:
        """The JSON of each utterance, in order; StoreError too where they are not those of `keys`.

        The arrays are passed over.
        """
        expected = iter(keys)
        with TarReader(self.path) as archive:
            for member in archive.members():
                if member.name.endswith(".json"):
                    key = next(expected, None)
                    if member.name != f"{key}.json":
                        said = f"{self.path}: holds {member.name} where the index says {key}"
                        raise StoreError(said)
                    yield archive.content(member)
        if (key := next(expected, None)) is not None:
            raise StoreError(f"{self.path}: holds no JSON of utterance {key}")

    def read_json_and_audio(
        self, index: ShardIndex, position: int, column: Column
    ) -> tuple[bytes, bytes]:
        """The two members of an utterance, which are near its array."""
        key, found = index.keys[position], {}
        wanted = [f"{key}.json", f"{key}.flac"]
        with TarReader(self.path) as archive:
            for member in archive.members(_end_of_array(index, position - 1, column)):
                owner = member.name.partition(".")[0]
                if owner > key:
                    break
                if member.name in wanted:
                    found[member.name] = archive.content(member)
                if len(found) == len(wanted):
                    return found[wanted[0]], found[wanted[1]]
        missing = next(name for name in wanted if name not in found)
        raise StoreError(f"{self.path}: utterance {key} has no readable audio: no '{missing}'")

    def check_layout(
        self, columns: Sequence[Column], indices: Sequence[ShardIndex], has_json: bool
    ) -> None:
        """Make sure that all ``.npy`` members are where, and as, the indices say."""
        sorted_columns = sorted(zip(columns, indices, strict=True), key=lambda pair: pair[0].name)
        lengths = indices[0].num_frames.tolist()
        with TarReader(self.path) as archive:
            archive.check_arrays(
                StoredArray(
                    f"{key}.{column.name}.npy",
                    int(index.byte_offset[position]),
                    column.shape(lengths[position]),
                    column.numpy_dtype,
                )
                for position, key in enumerate(indices[0].keys)
                for column, index in sorted_columns
            )


def _end_of_array(index: ShardIndex, position: int, column: Column) -> int:
    """Where the member after an utterance's array begins; 0 where `position` is -1."""
    if position < 0:
        return 0
    num_bytes = int(index.num_frames[position]) * column.frame_bytes
    end = int(index.byte_offset[position]) + num_bytes
    return end + -end % tarfile.BLOCKSIZE

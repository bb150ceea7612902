"""A shard of labels: a plain tar in WebDataset convention, with ``{key}.labels.npy`` and so on."""

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gmmpipe.store.read_ranges import crc32c
from gmmpipe.store.shard_index import ShardIndex
from gmmpipe.store.tar_writer import TarWriter


class LabelShardWriter:
    """Writes the arrays of utterances to an open file, and gathers their indices.

    Args:
        file: to write to.
        names: of the arrays that each utterance has, sorted.
    """

    def __init__(self, file: BinaryIO, names: list[str]) -> None:
        self._tar = TarWriter(file)
        self._keys: list[str] = []
        self._num_frames: list[int] = []
        self._offsets: dict[str, list[int]] = {name: [] for name in names}
        self._crcs: dict[str, list[int]] = {name: [] for name in names}

    def add(self, key: str, arrays: dict[str, NDArray[Any]]) -> None:
        """Append one utterance's contiguous arrays, [T] or [T, k] by their names."""
        self._keys.append(key)
        self._num_frames.append(len(next(iter(arrays.values()))))
        for name, offsets in self._offsets.items():
            offsets.append(self._tar.add_array(f"{key}.{name}.npy", arrays[name]))
            self._crcs[name].append(crc32c(arrays[name]))

    def finish(self) -> tuple[dict[str, ShardIndex], int, str]:
        """End the archive: the index of each array, its size in bytes and SHA-256."""
        indices = {
            name: ShardIndex(
                keys=self._keys,
                num_frames=np.array(self._num_frames, dtype=np.int64),
                byte_offset=np.array(offsets, dtype=np.int64),
                crc32c=np.array(self._crcs[name], dtype=np.int64),
            )
            for name, offsets in self._offsets.items()
        }
        return indices, *self._tar.finish()

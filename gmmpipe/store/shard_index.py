"""Where each utterance of a shard lies, and what its bytes are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmpipe.store.documents import int_list

_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_JSON_CRC = "json_crc32c"
_INDEX_NUMBERS = ("num_frames", "byte_offset", "crc32c", _JSON_CRC)


def is_key(key: object) -> bool:
    """Whether an utterance may have that key."""
    return type(key) is str and _KEY.fullmatch(key) is not None


@dataclass(frozen=True)
class ShardIndex:
    """Where each utterance of a shard lies, a column a field, in the order of the shard.

    Args:
        keys: the samples' keys, sorted.
        num_frames: frames of each utterance, int64 [utterances].
        byte_offset: where its raw [T, D] array begins in the shard's data, int64 [utterances].
        crc32c: CRC-32C (Castagnoli) of those raw bytes, as stored, int64 [utterances].
        json_crc32c: that of each sample's JSON, as stored; None in stores of earlier versions,
            and for arrays that have none.
    """

    keys: list[str]
    num_frames: NDArray[np.int64]
    byte_offset: NDArray[np.int64]
    crc32c: NDArray[np.int64]
    json_crc32c: NDArray[np.int64] | None = None

    @cached_property
    def frame_offset(self) -> NDArray[np.int64]:
        """First frame of each utterance within the shard, and the total, int64 [utterances + 1]."""
        return np.concatenate([[0], np.cumsum(self.num_frames)]).astype(np.int64)

    def blocks(self, num_frames: int) -> Iterator[tuple[int, int]]:
        """The utterances in blocks [first, beyond) of `num_frames` frames or a few more."""
        first = 0
        for at, end in enumerate(self.frame_offset[1:].tolist(), start=1):
            if end - int(self.frame_offset[first]) >= num_frames or at == len(self.keys):
                yield first, at
                first = at

    def take(self, order: NDArray[np.int64]) -> "ShardIndex":
        """The index with its utterances in another order: frames are then numbered in that."""
        numbers = {name: column[order] for name, column in self._numbers().items()}
        return ShardIndex([self.keys[at] for at in order.tolist()], **numbers)

    def to_json(self) -> dict[str, list[Any]]:
        """The columns as lists."""
        columns = {name: column.tolist() for name, column in self._numbers().items()}
        return {"keys": self.keys, **columns}

    @classmethod
    def from_json(cls, columns: dict[str, Any]) -> "ShardIndex":
        """The inverse of `to_json`.

        Raises:
            KeyError, TypeError, ValueError: a column is missing, or of another type or length;
                keys are not sorted, or a number is not possible.
        """
        names = [name for name in _INDEX_NUMBERS if name != _JSON_CRC or name in columns]
        numbers = {name: np.array(int_list(columns[name]), dtype=np.int64) for name in names}
        keys = columns["keys"]
        if any(column.shape != (len(keys),) for column in numbers.values()):
            raise ValueError("index columns of different lengths")
        if not all(map(is_key, keys)):
            raise ValueError("keys that are none")
        if any(keys[at] >= keys[at + 1] for at in range(len(keys) - 1)):
            raise ValueError("keys that are not sorted")
        for name, column in numbers.items():
            if column.size and column.min() < (name == "num_frames"):
                raise ValueError(f"{name} of {column.min()}")
        return cls(keys=keys, **numbers)

    def _numbers(self) -> dict[str, NDArray[np.int64]]:
        columns = {name: getattr(self, name) for name in _INDEX_NUMBERS}
        return {name: column for name, column in columns.items() if column is not None}

"""The utterances of a label store in manifest order, read shard by shard in bounded memory."""

import pickle
import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import StoreError
from gmmpipe.files import scratch_file
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.label_store import LabelStore
from gmmpipe.store.shard import Shard
from gmmpipe.store.shard_reader import ShardReader

_WINDOW = re.compile(r"-w[0-9]{5,}")
_PART_BYTES = 64 << 20
"""What is sorted in memory at once, unless that takes more than `_MAX_PARTS` files."""
_MAX_PARTS = 256


@dataclass(frozen=True)
class LabelledUtterance:
    """An utterance, or a window of one, and its labels.

    Args:
        metadata: its JSON.
        arrays: those of the label store by their names, in the stored dtypes.
    """

    metadata: dict[str, Any]
    arrays: dict[str, NDArray[Any]]

    @property
    def key(self) -> str:
        """Unique within the store."""
        return str(self.metadata["key"])

    @property
    def window(self) -> str:
        """What the key of a window adds: ``-w00002``; empty for a whole utterance."""
        name = self.metadata.get("id")
        found = None if name in (None, self.key) else re.search(rf"{_WINDOW.pattern}$", self.key)
        return found[0] if found else ""

    @property
    def id(self) -> str:
        """The manifest's id, and of a window its number too; the key where there is none."""
        name = self.metadata.get("id")
        return self.key if name is None else f"{name}{self.window}"

    @property
    def labels(self) -> list[int]:
        """One of each frame."""
        labels: list[int] = self.arrays["labels"].tolist()
        return labels


@dataclass(frozen=True)
class ManifestOrder:
    """Where each utterance of a label store comes in its manifests.

    Args:
        rank: int64 [utterances], by its number in the store.
        only_absolute: whether all audio paths are absolute.
    """

    rank: NDArray[np.int64]
    only_absolute: bool


def metadata_shards(labels: LabelStore, source: FeatureStore | None) -> list[Shard]:
    """The shards that have the JSON of the utterances: of the labels, or of the feature store.

    Raises:
        StoreError: the labels have none, and no feature store is given, or that of others.
    """
    if source is not None:
        labels.check_source(source)
    if labels.plan.has_json:
        return labels.shards
    if source is None:
        raise StoreError(
            "the label store was made by an earlier version, without the JSON of its samples: "
            "give the feature store that it labels as --data_dir"
        )
    return source.shards


def find_order(shards: list[Shard]) -> ManifestOrder:
    """Find the manifest order from the JSON of all utterances: 32 bytes of each stay in memory.

    That is the order of the lines over all manifests, and within a line that of the windows.
    Utterances that no manifest names, those of a `FeatureStoreWriter`, keep the store's order.

    Raises:
        StoreError: a shard is missing or damaged.
    """
    lines: list[NDArray[np.int64]] = []
    offsets: list[NDArray[np.float64]] = []
    only_absolute = True
    for shard in shards:
        places = []
        for _, values in shard.read_metadata():
            line = values.get("ordinal", values.get("line"))
            offset = values.get("offset")
            places.append(
                (
                    line if type(line) is int else -1,
                    offset if type(offset) in (int, float) else 0.0,
                )
            )
            only_absolute &= str(values.get("wav_path", "")).startswith("/")
        lines.append(np.array([line for line, _ in places], dtype=np.int64))
        offsets.append(np.array([offset for _, offset in places], dtype=np.float64))
    line = np.concatenate([*lines, np.empty(0, np.int64)])
    if (line < 0).any():
        return ManifestOrder(np.arange(len(line)), only_absolute)
    order = np.lexsort((np.concatenate([*offsets, np.empty(0)]), line))
    rank = np.empty(len(line), np.int64)
    rank[order] = np.arange(len(line))
    return ManifestOrder(rank, only_absolute)


def in_order(
    labels: LabelStore, shards: list[Shard], order: ManifestOrder, names: list[str], scratch: Path
) -> Iterator[LabelledUtterance]:
    """Every utterance in manifest order. Shards are read from front to end, once.

    A shard holds utterances from anywhere in the manifests. So each goes to the file of its part of
    the order, and those files are then sorted in memory, one after another.

    Args:
        labels: the label store.
        shards: those that have its utterances' JSON.
        order: that of all utterances.
        names: the columns that are wanted.
        scratch: a path beside which the files may lie; they have no names there.

    Raises:
        StoreError: a shard is missing or damaged.
    """
    count = len(order.rank)
    total = sum(shard.row.bytes for shard in labels.shards)
    parts = min(max(1, -(-total // _PART_BYTES)), _MAX_PARTS, max(1, count))
    with ExitStack() as stack:
        files = [stack.enter_context(scratch_file(scratch)) for _ in range(parts)]
        at = 0
        for shard, other in zip(labels.shards, shards, strict=True):
            for metadata, arrays in _read_shard(shard, other, names):
                rank = int(order.rank[at])
                pickle.dump((rank, metadata, arrays), files[rank * parts // count])
                at += 1
        for file in files:
            file.seek(0)
            for _, metadata, arrays in sorted(_load_all(file), key=lambda one: one[0]):
                yield LabelledUtterance(metadata, arrays)


def _load_all(file: BinaryIO) -> Iterator[Any]:
    """What this process has dumped to a file of its own that has no name."""
    with suppress(EOFError):
        while True:
            yield pickle.load(file)  # noqa: S301


def _read_shard(
    shard: Shard, other: Shard, names: list[str]
) -> Iterator[tuple[dict[str, Any], dict[str, NDArray[Any]]]]:
    """JSON and labels of each utterance of a shard; `other` is the one that has the JSON."""
    reader = ShardReader(shard)
    keys = reader.index.keys
    offsets = reader.index.frame_offset.tolist()
    for at, (key, metadata) in enumerate(other.read_metadata()):
        if at >= len(keys) or key != keys[at]:
            raise StoreError(f"{shard.path}: has other utterances than {other.path}")
        arrays = reader.read_arrays(*offsets[at : at + 2])
        found = {name: arrays[name].numpy() for name in names if name in arrays}
        found["labels"] = found["labels"][:, 0]
        yield metadata, found

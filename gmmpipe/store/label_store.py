"""`LabelStore`: the labels of a feature store's frames, read at random."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from gmmpipe.errors import StoreError
from gmmpipe.store.columns import Column
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.label_schema import (
    LABELS,
    TOPK_IDS,
    TOPK_PROBS,
    LabelInfo,
    LabelPlan,
    LabelSidecar,
)
from gmmpipe.store.read_ranges import TORCH_DTYPES, check_extent, read_rows
from gmmpipe.store.schema import STORE_FILE, ShardRow, check_sidecar, kind_of
from gmmpipe.store.shard_kinds import shard_file


@dataclass(frozen=True)
class FrameLabels:
    """What a label store says of n frames.

    Args:
        labels: the most likely component of each, int64 [n].
        topk_ids: the k most likely ones, best first, int64 [n, k]; None where not stored.
        topk_probs: their posteriors at the store's temperature as rounded to float16, and not
            renormalised: float32 [n, k]; None where not stored.
    """

    labels: Tensor
    topk_ids: Tensor | None = None
    topk_probs: Tensor | None = None


@dataclass(frozen=True)
class LabelShard:
    """One shard: its file and its row in ``store.json``."""

    path: Path
    row: ShardRow

    def sidecar(self) -> LabelSidecar:
        """The shard's sidecar; the last few are kept.

        Raises:
            StoreError: it is missing, damaged, or that of another shard.
        """
        return _read_sidecar(self)


class LabelReader:
    """A label shard with its indices at hand.

    Args:
        shard: a shard of a `LabelStore`.
        plan: the store's.

    Raises:
        StoreError: its sidecar is missing or damaged.
    """

    def __init__(self, shard: LabelShard, plan: LabelPlan) -> None:
        self._shard = shard
        self._plan = plan
        self._indices = shard.sidecar().indices
        self.index = self._indices[LABELS]
        if list(self._indices) != [column.name for column in plan.columns]:
            raise StoreError(f"{shard.path}: its sidecar lists other arrays than its store has")
        for column in plan.columns:
            check_extent(self._raw_file(column), self._indices[column.name], column)

    def read_arrays(self, start: int, stop: int) -> dict[str, Tensor]:
        """The stored arrays of frames [start, stop) of the shard, each [stop - start, width].

        Raises:
            StoreError: the shard is missing or damaged.
        """
        arrays = {}
        for column in self._plan.columns:
            out = torch.empty(stop - start, column.width, dtype=TORCH_DTYPES[column.dtype])
            index = self._indices[column.name]
            read_rows(self._raw_file(column), index, column, start, stop, out)
            arrays[column.name] = out
        return arrays

    def _raw_file(self, column: Column) -> Path:
        return shard_file(self._shard.path).raw_file(column)

    def read(self, start: int, stop: int) -> FrameLabels:
        """The labels of frames [start, stop) of the shard; StoreError where it is damaged."""
        arrays = self.read_arrays(start, stop)
        labels = arrays[LABELS][:, 0].long()
        if self._plan.top_k is None:
            return FrameLabels(labels)
        return FrameLabels(labels, arrays[TOPK_IDS].long(), arrays[TOPK_PROBS].float())

    def read_utterance(self, position: int) -> FrameLabels:
        """The labels of the utterance at `position`; StoreError where the shard is damaged."""
        begin, end = self.index.row_offset[position : position + 2].tolist()
        return self.read(begin, end)


@lru_cache(maxsize=16)
def _read_sidecar(shard: LabelShard) -> LabelSidecar:
    """A shard's sidecar; by its row too, since a store may be made anew at the same place."""
    sidecar = LabelSidecar.read(shard.path.with_suffix(".json"))
    check_sidecar(shard.path, sidecar.row, shard.row)
    return sidecar


def forget_sidecars() -> None:
    """Read sidecars from the disk again, even those that were read a moment ago."""
    _read_sidecar.cache_clear()


class LabelStore:
    """A finished label store: shard by shard and key by key as the feature store that it labels.

    Opening reads ``store.json`` alone. All that is read later is checked against the recorded CRC
    of its utterance.

    Args:
        shards: in order.
        plan: what they were made from, and how.
    """

    def __init__(self, shards: list[LabelShard], plan: LabelPlan) -> None:
        self.shards = shards
        self.plan = plan

    @classmethod
    def open(cls, path: str | Path) -> "LabelStore":
        """Open a label store.

        Raises:
            StoreError: it is missing, unfinished or damaged, or no label store.
        """
        folder = Path(path)
        kind = kind_of(folder)
        if kind is None:
            raise StoreError(f"{folder}: no such label store")
        if kind == "labels" and not (folder / STORE_FILE).exists():
            remedy = "run the same gmmpipe label command again to finish it"
            raise StoreError(f"{folder}: not a finished label store (no {STORE_FILE}); {remedy}")
        if kind != "labels":
            raise StoreError(f"{folder}: a store of {kind}, not of labels")
        info = LabelInfo.read(folder / STORE_FILE)
        return cls([LabelShard(folder / row.name, row) for row in info.shards], info.plan)

    def __len__(self) -> int:
        """How many utterances."""
        return sum(shard.row.utterances for shard in self.shards)

    @property
    def num_frames(self) -> int:
        """How many frames."""
        return sum(shard.row.frames for shard in self.shards)

    def check_source(self, store: FeatureStore) -> None:
        """Make sure that these are the labels of `store`, opened as one folder.

        Raises:
            StoreError: they are those of another store.
        """
        if store.digests != [self.plan.source_sha256]:
            where = self.shards[0].path.parent if self.shards else "labels"
            raise StoreError(
                f"{where}: the labels of another feature store (its store.json has SHA-256 "
                f"{self.plan.source_sha256[:12]}, not {', '.join(d[:12] for d in store.digests)})"
            )

    def open_shard(self, shard: int) -> LabelReader:
        """A shard with its indices at hand, for who reads many utterances of it."""
        return LabelReader(self.shards[shard], self.plan)

    def read(self, shard: int, start: int, stop: int) -> FrameLabels:
        """The labels of frames [start, stop) of a shard, numbered as in the feature store's.

        Raises:
            IndexError: the range is not within the shard.
            StoreError: the shard is missing or damaged.
        """
        there = self.shards[shard]
        if not 0 <= start <= stop <= there.row.frames:
            raise IndexError(f"frames {start} to {stop} of a shard of {there.row.frames}")
        return self.open_shard(shard).read(start, stop)

    def read_utterance(self, shard: int, position: int) -> FrameLabels:
        """The labels of an utterance, by its position in the feature store's shard.

        Raises:
            StoreError: the shard is missing or damaged.
        """
        return self.open_shard(shard).read_utterance(position)

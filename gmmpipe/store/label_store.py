"""`LabelStore`: the labels of a feature store's frames, read at random."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gmmpipe.errors import StoreError
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.schema import LABELS, TOPK_IDS, TOPK_PROBS, LabelIdentity
from gmmpipe.store.shard import Shard, read_finished, shards_of
from gmmpipe.store.shard_reader import ShardReader


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


class LabelReader(ShardReader):
    """A label shard with its indices at hand."""

    def read(self, start: int, stop: int) -> FrameLabels:
        """The labels of frames [start, stop) of the shard; StoreError where it is damaged."""
        arrays = self.read_arrays(start, stop)
        labels = arrays[LABELS][:, 0].long()
        if TOPK_IDS not in arrays:
            return FrameLabels(labels)
        return FrameLabels(labels, arrays[TOPK_IDS].long(), arrays[TOPK_PROBS].float())

    def read_utterance(self, position: int) -> FrameLabels:
        """The labels of the utterance at `position`; StoreError where the shard is damaged."""
        begin, end = self.index.frame_offset[position : position + 2].tolist()
        return self.read(begin, end)


class LabelStore:
    """A finished label store: shard by shard and key by key as the feature store that it labels.

    Opening reads ``store.json`` alone. All that is read later is checked against the recorded CRC
    of its utterance.

    Args:
        shards: in order.
        plan: what they were made from, and how.
    """

    def __init__(self, shards: list[Shard], plan: LabelIdentity) -> None:
        self.shards = shards
        self.plan = plan

    @classmethod
    def open(cls, path: str | Path) -> "LabelStore":
        """Open a label store.

        Raises:
            StoreError: it is missing, unfinished or damaged, or no label store.
        """
        folder = Path(path)
        info = read_finished(folder, LabelIdentity)
        return cls(shards_of(folder, info), info.identity)

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
        """A shard with its indices at hand, to read many utterances of it."""
        return LabelReader(self.shards[shard])

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

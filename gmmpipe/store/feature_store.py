"""`FeatureStore`: the frames and utterances of one or several stores, as a reader sees them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmmpipe.errors import StoreError
from gmmpipe.features.spec import FrameSpec
from gmmpipe.files import listed_paths
from gmmpipe.store.documents import read_document_bytes
from gmmpipe.store.names import STORE_FILE
from gmmpipe.store.plans import PlanOptions
from gmmpipe.store.schema import FeatureIdentity
from gmmpipe.store.shard import Shard, read_finished, shards_of


@dataclass(frozen=True)
class StoredUtterance:
    """One utterance of a store.

    Args:
        key: unique within its store.
        features: float32 [T, D].
        metadata: its JSON. `featurize` stores ``key, id, wav_path, manifest, line, num_frames,
            num_samples, sample_rate, offset`` and what the manifest carried; a
            `FeatureStoreWriter`, ``key, num_frames`` and what the program gave.
    """

    key: str
    features: Tensor
    metadata: dict[str, Any]


class FeatureStore:
    """The frames of one or several feature stores, numbered through in shard order.

    Opening reads ``store.json`` alone; sidecars and shards are read when their frames are. All
    that is read is checked against the recorded CRC of its utterance.

    Args:
        shards: the shards, in order.
        features: what a frame is, equal for all of them.
        digests: SHA-256 of each store's ``store.json``: together, what the data are.
    """

    def __init__(
        self, shards: Sequence[Shard], features: FrameSpec, digests: Sequence[str]
    ) -> None:
        self.shards = list(shards)
        self.features = features
        self.digests = list(digests)
        counts = [shard.row.frames for shard in self.shards]
        self.frames_per_shard: NDArray[np.int64] = np.array(counts, dtype=np.int64)
        self._first_frame = np.concatenate([[0], np.cumsum(self.frames_per_shard)])

    @classmethod
    def open(cls, path: str | Path) -> "FeatureStore":
        """Open a store, or several as one (a comma-separated list of folders).

        A folder whose own name is that, commas and all, is meant rather than a list.

        Raises:
            StoreError: one is missing, unfinished or damaged, or their fingerprints differ.
        """
        folders = listed_paths(path)
        if not folders:
            raise StoreError("no feature store given")
        infos = [read_finished(folder, FeatureIdentity) for folder in folders]
        first = infos[0].identity.features
        for folder, info in zip(folders, infos, strict=True):
            features = info.identity.features
            if features != first:
                raise StoreError(
                    f"{folder}: its features (fingerprint {features.fingerprint[:12]}) are "
                    f"not those of {folders[0]} ({first.fingerprint[:12]})"
                )
        opened = zip(folders, infos, strict=True)
        shards = [shard for folder, info in opened for shard in shards_of(folder, info)]
        digests = [
            hashlib.sha256(read_document_bytes(folder / STORE_FILE)).hexdigest()
            for folder in folders
        ]
        return cls(shards, first, digests)

    def __len__(self) -> int:
        """How many utterances."""
        return sum(shard.row.utterances for shard in self.shards)

    @property
    def num_frames(self) -> int:
        """How many frames."""
        return int(self._first_frame[-1])

    @property
    def dim(self) -> int:
        """Feature dimension D."""
        return self.features.dim

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that holds every stored frame exactly."""
        dtypes = {shard.dtype for shard in self.shards}
        return torch.float16 if dtypes == {torch.float16} else torch.float32

    @property
    def keeps_recordings_together(self) -> bool:
        """Whether a shard may be of a few recordings, and not a sample of the corpus."""
        identities = {id(shard.identity): shard.identity for shard in self.shards}
        plans = [getattr(identity, "plan", None) for identity in identities.values()]
        return any(isinstance(p, PlanOptions) and p.shuffle_by == "recordings" for p in plans)

    def check_files(self) -> None:
        """Look for every shard and sidecar, without reading them.

        Raises:
            StoreError: one is missing, or a tar is not as long as recorded.
        """
        for shard in self.shards:
            shard.check_files()

    def read_frames(self, start: int, stop: int) -> Tensor:
        """Frames [start, stop), numbered across shards in order: float32 [stop - start, D].

        Raises:
            IndexError: the range is not within the store.
            StoreError: a shard is missing or damaged.
        """
        parts = self.parts(start, stop)
        for shard, _, _ in parts:  # before memory is taken for what a store only claims to hold
            shard.check_files()
        frames = torch.empty(stop - start, self.dim, dtype=torch.float32)
        at = 0
        for shard, low, high in parts:
            shard.read_frames(low, high, frames[at : at + high - low])
            at += high - low
        return frames

    def parts(self, start: int, stop: int) -> list[tuple[Shard, int, int]]:
        """Where frames [start, stop) lie: shards, and which frames of each.

        Raises:
            IndexError: the range is not within the store.
        """
        if not 0 <= start <= stop <= self.num_frames:
            raise IndexError(f"frames {start} to {stop} of a store of {self.num_frames}")
        first_shard = int(np.searchsorted(self._first_frame, start, side="right")) - 1
        parts = []
        for number in range(first_shard, int(np.searchsorted(self._first_frame, stop))):
            first, beyond = self._first_frame[number : number + 2].tolist()
            low, high = max(start, first), min(stop, beyond)
            if low < high:
                parts.append((self.shards[number], low - first, high - first))
        return parts

    def utterance_starts(self, start: int, stop: int) -> Tensor:
        """Those of the frames [start, stop) that an utterance begins with, int64.

        Raises:
            IndexError: the range is not within the store.
            StoreError: a sidecar is missing or damaged.
        """
        starts = [np.empty(0, dtype=np.int64)]
        at = start
        for shard, low, high in self.parts(start, stop):
            offsets = shard.sidecar().index.frame_offset[:-1]
            starts.append(offsets[(offsets >= low) & (offsets < high)] - low + at)
            at += high - low
        return torch.from_numpy(np.concatenate(starts))

    def utterances(self) -> Iterator[StoredUtterance]:
        """Every utterance, in shard order.

        Raises:
            StoreError: a shard is missing or damaged.
        """
        for shard in self.shards:
            ends = pairwise(shard.sidecar().index.frame_offset.tolist())
            for (key, values), (begin, end) in zip(shard.read_metadata(), ends, strict=True):
                features = torch.empty(end - begin, self.dim, dtype=torch.float32)
                shard.read_frames(begin, end, features)
                yield StoredUtterance(key, features, values)

"""`FeatureStore`: the frames and utterances of one or several stores, as a reader sees them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
from gmmpipe.store.columns import Column
from gmmpipe.store.documents import read_document_bytes
from gmmpipe.store.read_ranges import TORCH_DTYPES, check_extent, read_rows
from gmmpipe.store.schema import (
    STORE_FILE,
    ShardRow,
    Sidecar,
    StoreInfo,
    check_sidecar,
    find_writer_plan,
    kind_of,
)
from gmmpipe.store.shard_file import ShardFile
from gmmpipe.store.shard_kinds import shard_file


@dataclass(frozen=True)
class StoredUtterance:
    """One utterance of a store.

    Args:
        key: unique within its store.
        features: float32 [T, D].
        metadata: its JSON: ``key, id, wav_path, manifest, line, num_frames, num_samples,
            sample_rate, offset`` and what the manifest carried.
    """

    key: str
    features: Tensor
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Shard:
    """One shard: its path, its row in ``store.json``, its column, and whether it holds audio."""

    path: Path
    row: ShardRow
    column: Column
    has_audio: bool

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored frames."""
        return TORCH_DTYPES[self.column.dtype]

    @property
    def file(self) -> ShardFile:
        """The shard on the disk."""
        return shard_file(self.path)

    def sidecar(self) -> Sidecar:
        """The shard's sidecar; the last few are kept.

        Raises:
            StoreError: it is missing, damaged, or that of another shard.
        """
        return _read_sidecar(self)

    def check_files(self) -> None:
        """Look for the shard and its sidecar, without reading them.

        Raises:
            StoreError: one is missing, or the shard has not as many bytes as it should.
        """
        try:
            size = self.file.raw_file(self.column).stat().st_size
            self.path.with_suffix(".json").stat()
        except OSError as error:
            raise StoreError(f"{error.filename}: {error.strerror}") from error
        if self.path.suffix == ".tar":
            wrong, recorded = size != self.row.bytes, str(self.row.bytes)
        else:
            least = self.row.frames * self.column.frame_bytes
            wrong, recorded = size < least, f"at least {least}"
        if wrong:
            raise StoreError(f"{self.path}: {size} bytes where {recorded} are recorded")

    def read_rows(
        self, start: int, stop: int, out: Tensor, order: NDArray[np.int64] | None = None
    ) -> None:
        """Copy frames [start, stop) of the shard into `out`, as `read_ranges.read_rows` does.

        With `order`, int64 [utterances], the frames are numbered through the utterances in that
        order instead of the stored one.
        """
        index = self.sidecar().index
        if order is not None:
            index = index.take(order)
        read_rows(self.file.raw_file(self.column), index, self.column, start, stop, out)


@lru_cache(maxsize=16)
def _read_sidecar(shard: Shard) -> Sidecar:
    """A shard's sidecar; by its row too, since a store may be made anew at the same place."""
    sidecar = Sidecar.read(shard.path.with_suffix(".json"))
    check_sidecar(shard.path, sidecar.row, shard.row)
    check_extent(shard.file.raw_file(shard.column), sidecar.index, shard.column)
    return sidecar


def forget_sidecars() -> None:
    """Read sidecars from the disk again, even those that were read a moment ago."""
    _read_sidecar.cache_clear()


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
        infos = [_read_info(folder) for folder in folders]
        for folder, info in zip(folders, infos, strict=True):
            if info.features != infos[0].features:
                raise StoreError(
                    f"{folder}: its features (fingerprint {info.features.fingerprint[:12]}) are "
                    f"not those of {folders[0]} ({infos[0].features.fingerprint[:12]})"
                )
        shards = [
            Shard(
                folder / row.name,
                row,
                Column(info.features.column, info.plan.dtype, info.features.dim),
                has_audio=info.plan.has_audio,
            )
            for folder, info in zip(folders, infos, strict=True)
            for row in info.shards
        ]
        digests = [
            hashlib.sha256(read_document_bytes(folder / STORE_FILE)).hexdigest()
            for folder in folders
        ]
        return cls(shards, infos[0].features, digests)

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
        if not 0 <= start <= stop <= self.num_frames:
            raise IndexError(f"frames {start} to {stop} of a store of {self.num_frames}")
        at = start
        shard = int(np.searchsorted(self._first_frame, start, side="right")) - 1
        for touched in self.shards[shard : int(np.searchsorted(self._first_frame, stop))]:
            touched.check_files()  # before memory is taken for what a store only claims to hold
        frames = torch.empty(stop - start, self.dim, dtype=torch.float32)
        while at < stop:
            first, beyond = int(self._first_frame[shard]), int(self._first_frame[shard + 1])
            end = min(stop, beyond)
            if at < end:
                out = frames[at - start : end - start]
                self.shards[shard].read_rows(at - first, end - first, out)
            at = end
            shard += 1
        return frames

    def utterances(self) -> Iterator[StoredUtterance]:
        """Every utterance, in shard order.

        Raises:
            StoreError: a shard is missing or damaged.
        """
        for shard in self.shards:
            index = shard.sidecar().index
            metadata = shard.file.read_metadata(index)
            for (key, values), (begin, end) in zip(
                metadata, pairwise(index.row_offset.tolist()), strict=True
            ):
                features = torch.empty(end - begin, self.dim, dtype=torch.float32)
                shard.read_rows(begin, end, features)
                yield StoredUtterance(key, features, values)


def _read_info(folder: Path) -> StoreInfo:
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such feature store")
    path = folder / STORE_FILE
    if not path.exists():
        if kind_of(folder) == "labels":
            raise StoreError(f"{folder}: a store of labels, not of features")
        remedy = "run the same gmmpipe featurize command again to finish it"
        if find_writer_plan(folder) is not None:
            remedy = "run the program that writes it again to finish it"
        raise StoreError(f"{folder}: not a finished feature store (no {STORE_FILE}); {remedy}")
    return StoreInfo.read(path)

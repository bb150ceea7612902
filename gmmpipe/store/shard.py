"""A shard of a finished store, as a reader sees it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmmpipe.errors import StoreError
from gmmpipe.store.columns import Column
from gmmpipe.store.names import STORE_FILE, kind_of
from gmmpipe.store.plans import ImportPlan, WriterPlan
from gmmpipe.store.read_ranges import TORCH_DTYPES, check_extent, read_frames
from gmmpipe.store.schema import FeatureIdentity, I, Identity, find_identity
from gmmpipe.store.shard_file import ShardFile
from gmmpipe.store.shard_kinds import shard_file
from gmmpipe.store.sidecar import ShardRow, Sidecar
from gmmpipe.store.store_info import StoreInfo


@dataclass(frozen=True)
class Shard:
    """One shard of a store of features or labels. All that is read is checked by its CRC.

    Args:
        path: the shard; its sidecar lies beside it.
        row: what ``store.json`` says of it.
        identity: what decides the bytes of its store.
    """

    path: Path
    row: ShardRow
    identity: Identity

    @property
    def column(self) -> Column:
        """The first column: the frames of a feature store."""
        return self.identity.columns[0]

    @property
    def has_audio(self) -> bool:
        """Whether utterances have their waveforms too."""
        return self.identity.has_audio

    @property
    def dtype(self) -> torch.dtype:
        """Of the first column as stored."""
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
        if self.file.raw_file(self.column) == self.path:
            wrong, recorded = size != self.row.bytes, str(self.row.bytes)
        else:
            least = self.row.frames * self.column.frame_bytes
            wrong, recorded = size < least, f"at least {least}"
        if wrong:
            raise StoreError(f"{self.path}: {size} bytes where {recorded} are recorded")

    def read_frames(
        self, start: int, stop: int, out: Tensor, order: NDArray[np.int64] | None = None
    ) -> None:
        """Copy frames [start, stop) of the first column into `out`; see `read_ranges.read_frames`.

        With `order`, int64 [utterances], the frames are numbered through the utterances in that
        order instead of the stored one.
        """
        index = self.sidecar().index
        if order is not None:
            index = index.take(order)
        read_frames(self.file.raw_file(self.column), index, self.column, start, stop, out)

    def read_metadata(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Key and JSON of each utterance, in order, where the store has metadata.

        Raises:
            StoreError: the shard is missing or damaged, or holds other utterances than its index.
        """
        return self.file.read_metadata(self.sidecar().index)


@lru_cache(maxsize=16)
def _read_sidecar(shard: Shard) -> Sidecar:
    """A shard's sidecar, kept by its row too: a store may be made anew at the same place."""
    sidecar = Sidecar.read(shard.path.with_suffix(".json"), shard.identity.kind)
    if not sidecar.row.is_of(shard.row):
        raise StoreError(f"{shard.path}: its sidecar does not belong to this store")
    columns = shard.identity.columns
    if list(sidecar.further) != [column.name for column in columns[1:]]:
        raise StoreError(f"{shard.path}: its sidecar lists other arrays than its store has")
    for column, index in zip(columns, sidecar.indices, strict=True):
        check_extent(shard.file.raw_file(column), index, column)
    return sidecar


def forget_sidecars() -> None:
    """Read sidecars from the disk again, even those that were read a moment ago."""
    _read_sidecar.cache_clear()


def read_finished(folder: Path, identity: type[I]) -> StoreInfo[I]:
    """The ``store.json`` of a finished store.

    Args:
        folder: the store.
        identity: what it must be of.

    Raises:
        StoreError: the store is missing, unfinished, damaged or of another kind.
    """
    path = folder / STORE_FILE
    if path.exists():
        return StoreInfo.read(path, identity)
    kind = kind_of(folder)
    if kind not in (None, identity.kind):
        raise StoreError(f"{folder}: a store of {kind}, not of {identity.kind}")
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such {identity.name}")
    remedy = f"run the same {identity.command} command again to finish it"
    there = find_identity(folder)
    if isinstance(there, FeatureIdentity) and isinstance(there.plan, ImportPlan):
        remedy = "run the same gmmpipe import command again to finish it"
    if isinstance(there, FeatureIdentity) and isinstance(there.plan, WriterPlan):
        remedy = "run the program that writes it again to finish it"
    raise StoreError(f"{folder}: not a finished {identity.name} (no {STORE_FILE}); {remedy}")


def shards_of(folder: Path, info: StoreInfo[I]) -> list[Shard]:
    """The shards of a finished store."""
    return [Shard(folder / row.name, row, info.identity) for row in info.shards]

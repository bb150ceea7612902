"""`FeatureStoreWriter`: a feature store of frames that the program at work makes itself."""

import logging
import os
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray
from torch import Tensor

from gmmpipe.errors import OptionError, StoreError
from gmmpipe.features.external import ExternalSpec
from gmmpipe.store.folder import StoreFolder
from gmmpipe.store.given import as_stored, json_object
from gmmpipe.store.names import (
    IDENTITY_FILE,
    PLAN_FILE,
    REJECTS_FILE,
    REOPENED_FILE,
    SHARD_SUFFIXES,
    STORE_FILE,
    Format,
    has_shards,
    is_shard_name,
    shard_name,
)
from gmmpipe.store.plans import DTYPES, Dtype, WriterPlan
from gmmpipe.store.replace import finish_swap
from gmmpipe.store.schema import FeatureIdentity
from gmmpipe.store.shard_index import is_key
from gmmpipe.store.shard_kinds import shard_file
from gmmpipe.store.store_info import StoreInfo

log = logging.getLogger(__name__)


class _Folder(StoreFolder[FeatureIdentity]):
    """The folder of the store."""

    command = "a FeatureStoreWriter"
    remedy = "Remove it, or write elsewhere"

    def refuse_other(self) -> None:
        """Raise StoreError where another store is here, or files that this one would replace."""
        super().refuse_other()
        documents = (STORE_FILE, REOPENED_FILE, IDENTITY_FILE)
        is_own = any((self.path / name).exists() for name in documents)
        if (self.path / PLAN_FILE).exists() or (has_shards(self.path) and not is_own):
            raise StoreError(f"{self.path}: holds another unfinished store; write elsewhere")
        if (self.path / REJECTS_FILE).exists() and not is_own:
            raise StoreError(
                f"{self.path / REJECTS_FILE}: the store's own would replace it; write elsewhere"
            )


class FeatureStoreWriter:
    """Writes a feature store of frames of any kind: an encoder's layer, another program's features.

        with FeatureStoreWriter("store", dim=768, frame_rate=50.0, description={"layer": 6}) as w:
            for key, audio in corpus:
                if key not in w:
                    w.add(key, encode(audio), metadata={"speaker": "ann"})

    The store is finished when the block ends. After an error, or a kill, the folder holds an
    unfinished store; `FeatureStore.open` says so. The same program, run again, completes it: full
    shards are kept, and `add` passes over their utterances. ``key in w`` tells which those are,
    so that their frames need not be made again. A program that adds the same frames in the same
    order makes the same bytes, however often it was stopped.

    Utterances go into shards in the order in which they are added, and are sorted by key within
    each. Memory holds the frames of one shard and all keys. Threads may add side by side. One
    writer has a folder at a time; to write from several processes, give each a store of its own:
    ``fit`` takes several stores.

    Args:
        path: the folder of the store. It is made; a finished store there is refused.
        dim: feature dimension D, 1 to 2048.
        frame_rate: frames a second.
        description: what made the frames, as a JSON object: the model, the layer, the version.
            It is part of the fingerprint, by which a mixture knows its frames.
        utterances_per_shard: how many utterances a full shard holds.
        dtype: the stored dtype, ``float16`` or ``float32``.
        format: of the shards, ``tar`` or ``zarr``.

    Raises:
        OptionError: one of these values is not possible.
        StoreError: on entering the block, the folder holds a finished store, another one or a file
            of the user's that would be replaced, or what an earlier run left is damaged. At the end
            of the block, nothing was added.
        ClaimError: on entering the block, another process is writing there.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dim: int,
        frame_rate: float,
        description: Mapping[str, Any] | None = None,
        utterances_per_shard: int = 1024,
        dtype: Dtype = "float16",
        format: Format = "tar",  # noqa: A002
    ) -> None:
        features = ExternalSpec(dim, frame_rate, {} if description is None else description)
        if not os.fspath(path):
            raise OptionError("path is empty, but must be that of a folder")
        _check_choice("dtype", dtype, DTYPES)
        _check_choice("format", format, SHARD_SUFFIXES)
        if type(utterances_per_shard) is not int or utterances_per_shard < 1:
            raise OptionError(
                f"utterances_per_shard is {utterances_per_shard!r}, but must be a whole number, "
                "at least 1"
            )
        self._utterances_per_shard = utterances_per_shard
        self._frame_rate = features.frame_rate
        identity = FeatureIdentity(features, WriterPlan(utterances_per_shard, dtype, format))
        self._folder = _Folder(Path(path).absolute(), identity)
        (self._column,) = identity.columns
        self._lock = Lock()
        self._is_open = False
        self._stored: set[str] = set()
        self._added: set[str] = set()

    def __enter__(self) -> Self:
        """Claim the folder, and look at what an earlier run left there."""
        folder = self._folder
        finish_swap(folder.path, folder.command)
        with ExitStack() as stack:
            stack.enter_context(folder.claim(alone=True))
            if isinstance(folder.obtain_plan(), StoreInfo):
                raise StoreError(f"{folder.path}: holds a finished store. {folder.remedy}")
            self._buffer: dict[str, tuple[NDArray[Any], dict[str, Any]]] = {}
            self._added = set()
            self._take_over()
            self._claim = stack.pop_all()
        self._is_open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Publish the store, unless the block ended with an error."""
        with self._lock, self._claim:
            self._is_open = False
            if error is None:
                self._finish()

    def __contains__(self, key: object) -> bool:
        """Whether the utterance is in the store, or on its way there."""
        return key in self._stored or key in self._added

    def add(
        self, key: str, frames: Tensor | NDArray[Any], metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Add an utterance; one that a shard of an earlier run holds is passed over.

        Args:
            key: unique, 1 to 80 letters of ``A-Z a-z 0-9 _ -``.
            frames: its frames [T, D], real numbers of any dtype, on any device. They are copied.
            metadata: a JSON object to be stored beside them. ``key`` and ``num_frames`` are added.

        Raises:
            StoreError: the key is none or was added before; the frames are not [T, D] with T of at
                least 1, are not finite, or overflow the stored dtype; the metadata is no JSON
                object. Nothing of the utterance is stored then, and others can be added.
        """
        where = f"{self._folder.path}: utterance {key!r:.100}"
        if not is_key(key):
            raise StoreError(f"{where}: a key is 1 to 80 letters of A-Z a-z 0-9 _ -")
        stored = as_stored(frames, self._column, where)
        carried = json_object(metadata, where)
        with self._lock:
            if not self._is_open:
                raise RuntimeError("a FeatureStoreWriter adds only within its with block")
            if key in self._added:
                raise StoreError(f"{where}: added twice")
            if key not in self._stored:
                self._buffer[key] = stored, {**carried, "key": key, "num_frames": len(stored)}
            self._added.add(key)
            if len(self._buffer) >= self._utterances_per_shard:
                self._write_shard()

    def close_shard(self) -> None:
        """End the present shard, however few utterances it holds; the next one begins another.

        Frames made from another store's utterances can so keep to its shards.
        """
        with self._lock:
            if not self._is_open:
                raise RuntimeError("a FeatureStoreWriter adds only within its with block")
            if self._buffer:
                self._write_shard()

    def _take_over(self) -> None:
        """Learn which shards an earlier run has finished, and which utterances they hold."""
        path, suffix = self._folder.path, SHARD_SUFFIXES[self._folder.wanted.format]
        sidecars = (found.with_suffix(suffix).name for found in path.glob("shard-*.json"))
        shards = [name for name in sorted(sidecars) if is_shard_name(name)]
        self._shards: set[str] = set()
        self._stored = set()
        for sidecar in self._folder.without_damaged(shards):
            if (path / sidecar.row.name).exists():
                self._shards.add(sidecar.row.name)
                self._stored.update(sidecar.index.keys)
        if self._stored:
            log.warning(
                "%s: goes on with %d utterances that an earlier run has stored; remove the folder "
                "to begin anew",
                path,
                len(self._stored),
            )

    def _write_shard(self) -> None:
        """Write the utterances at hand as the first shard that is missing."""
        names = (shard_name(number, self._folder.wanted.format) for number in count())
        path = self._folder.path / next(name for name in names if name not in self._shards)
        with shard_file(path).open_writer([self._column]) as writer:
            for key, (frames, metadata) in sorted(self._buffer.items()):
                writer.add(key, {self._column.name: frames}, metadata)
            sidecar = writer.finish()
        counts = sidecar.tally
        seconds = round(counts.frames / self._frame_rate, 6)
        tally = replace(counts, lines=counts.utterances, seconds_kept=seconds)
        replace(sidecar, tally=tally).write(path.with_suffix(".json"))
        self._shards.add(path.name)
        self._buffer = {}

    def _finish(self) -> None:
        """Write the last shard, and publish the store.

        Raises:
            StoreError: there is no utterance, or `verify --repair` has removed a shard whose
                utterances were not added again.
        """
        if self._buffer:
            self._write_shard()
        folder, expected = self._folder, len(self._shards)
        if (reopened := folder.path / REOPENED_FILE).exists():
            expected = max(expected, len(StoreInfo.read(reopened, FeatureIdentity).shards))
        if missing := folder.missing(expected):
            raise StoreError(
                f"{folder.path}: {shard_name(missing[0], folder.wanted.format)} is missing still: "
                "the utterances that it held were not added again"
            )
        if not expected:
            raise StoreError(f"{folder.path}: no utterances were added")
        folder.finish(expected)


def _check_choice(name: str, value: object, known: Collection[str]) -> None:
    if value not in known:
        raise OptionError(f"{name} is {value!r}, but must be {' or '.join(known)}")

"""Reads the frames of each update that this rank holds, while the update before is fitted."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import webdataset as wds
from numpy.typing import NDArray
from torch import Tensor

from gmmpipe.fitting.schedule import Schedule, Update
from gmmpipe.fitting.update_buffers import Places, UpdateBuffers, update_buffers
from gmmpipe.run.world import World
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.frame_order import FrameOrder, FrameRange

_POLL_SECONDS = 0.2
_SHARDS_AN_UPDATE = 256
"""Of how many shards an update has frames, where shards are of a few recordings each."""


def read_pipeline(
    store: FeatureStore,
    order: FrameOrder,
    ranges: list[FrameRange],
    places: Places,
    closing: threading.Event,
) -> wds.DataPipeline:
    """A webdataset pipeline: ranges of frames in, the number of frames that it has placed out.

    Args:
        store: where the frames lie.
        order: what their numbers mean.
        ranges: what to read, and to which numbers of the update.
        places: where frames of these numbers go, in the dtype that they are held in.
        closing: ends the pipeline once it is set.
    """
    stage = partial(_read_ranges, store=store, order=order, places=places, closing=closing)
    return wds.DataPipeline(partial(iter, ranges), stage)


def _read_ranges(
    ranges: Iterator[FrameRange],
    store: FeatureStore,
    order: FrameOrder,
    places: Places,
    closing: threading.Event,
) -> Iterator[int]:
    for part in ranges:
        if not places.wait(closing):
            return
        shard = store.shards[part.shard]
        utterances = order.utterance_order(part.epoch, part.shard, shard.row.utterances)
        with places.place(part.at, part.stop - part.start) as place:
            shard.read_frames(part.start, part.stop, place, utterances)
        yield len(place)


@dataclass(frozen=True)
class HeldFrames:
    """What this rank holds of an update.

    Args:
        frames: [stop - start, D] in the stored dtype, on the rank's device.
        start, stop: the frames' numbers within the update.
    """

    frames: Tensor
    start: int
    stop: int

    def select(self, numbers: NDArray[np.int64]) -> Tensor:
        """Those of the update's frames `numbers` that this rank holds, in their order."""
        here = numbers[(numbers >= self.start) & (numbers < self.stop)] - self.start
        return self.frames.index_select(0, torch.from_numpy(here).to(self.frames.device))


class UpdateReader:
    """Reads one update ahead, into two buffers that take turns (`gmmpipe.fitting.update_buffers`).

    Args:
        store: the frames.
        schedule: which update owns which.
        world: which part of them this rank holds.
        num_workers: reader threads.
        stopping: whether this rank is to stop; waiting for frames ends then.
    """

    def __init__(
        self,
        store: FeatureStore,
        schedule: Schedule,
        world: World,
        num_workers: int,
        stopping: Callable[[], bool],
    ) -> None:
        self._store = store
        self._schedule = schedule
        self._world = world
        self._num_workers = num_workers
        self._stopping = stopping
        self._order = FrameOrder(
            store.frames_per_shard, schedule.seed, num_parts(store, schedule.update_frames)
        )
        self._counting = threading.Lock()
        self._buffers: UpdateBuffers | None = None
        self._iterating = False
        self.frames_read = 0
        self.frames_used = 0
        self.seconds_reading = 0.0

    def updates(self, first: Update) -> Iterator[tuple[Update, HeldFrames | None]]:
        """Each update from `first` on, with this rank's frames of it, or None when stopping.

        The frames are good until the next update is asked for.

        Raises:
            StoreError: a shard is missing or damaged.
            RuntimeError: an earlier iteration is under way; they would share the buffers.
        """
        if self._iterating:
            raise RuntimeError("the updates are being read already: end that iteration first")
        self._iterating = True
        closing = threading.Event()
        update: Update | None = first
        reading: list[Future[None]] = []
        try:
            with _reader_threads(self._num_workers, closing) as readers:
                reading = self._begin(first, readers, closing)
                while update is not None:
                    if not self._wait(reading):
                        yield update, None
                        return
                    held = self._held(update)
                    self.frames_used += held.stop - held.start
                    following = self._schedule.after(update)
                    reading = self._begin(following, readers, closing) if following else []
                    yield update, held
                    update = following
        finally:
            self._iterating = False
            if self._buffers is not None:
                self._buffers.end()

    def _begin(
        self, update: Update, readers: ThreadPoolExecutor, closing: threading.Event
    ) -> list[Future[None]]:
        """Start reading this rank's part of an update."""
        start, stop = update.rank_slice(self._world.rank, self._world.size)
        ranges = self._order.ranges(update.start + start, update.start + stop)
        buffers = self._open_buffers()
        pieces = [piece for part in ranges for piece in _split(part, buffers.piece_frames)]
        reading = []
        for n, places in enumerate(buffers.begin(update.index)):
            own = pieces[n :: self._num_workers]
            pipeline = read_pipeline(self._store, self._order, own, places, closing)
            reading.append(readers.submit(self._drain, pipeline))
        return reading

    def _drain(self, pipeline: wds.DataPipeline) -> None:
        began = time.monotonic()
        for count in pipeline:
            now = time.monotonic()
            with self._counting:
                self.frames_read += count
                self.seconds_reading += now - began
            began = now

    def _wait(self, reading: list[Future[None]]) -> bool:
        """Wait for the readers; False where this rank is to stop before they have ended."""
        waiting: set[Future[None]] = set(reading)
        while waiting and not self._stopping():
            done, waiting = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        return not waiting

    def _open_buffers(self) -> UpdateBuffers:
        """The buffers, which are made once there is something to read."""
        if self._buffers is None:
            num_frames = -(-self._schedule.update_frames // self._world.size)
            store, device = self._store, self._world.device
            self._buffers = update_buffers(
                num_frames, store.dim, store.dtype, device, self._num_workers
            )
        return self._buffers

    def _held(self, update: Update) -> HeldFrames:
        start, stop = update.rank_slice(self._world.rank, self._world.size)
        return HeldFrames(self._open_buffers().frames(update.index, stop - start), start, stop)


def num_parts(store: FeatureStore, update_frames: int) -> int:
    """In how many parts shards are read, so that an update is a sample of the corpus.

    Where shards are samples of it themselves, they are read whole.
    """
    if not store.keeps_recordings_together:
        return 1
    shards = min(len(store.shards), _SHARDS_AN_UPDATE)
    return math.ceil(shards * store.num_frames / len(store.shards) / update_frames)


def _split(part: FrameRange, size: int) -> Iterator[FrameRange]:
    """A range in pieces: several readers can share them, and a stop waits for one at most."""
    for start in range(part.start, part.stop, size):
        stop = min(start + size, part.stop)
        yield FrameRange(part.epoch, part.shard, start, stop, part.at + start - part.start)


@contextmanager
def _reader_threads(count: int, closing: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """Threads that `closing` tells to end with the block, which waits for them."""
    with ThreadPoolExecutor(count, "frame-reader") as readers:
        try:
            yield readers
        finally:
            closing.set()

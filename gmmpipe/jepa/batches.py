"""`JEPABatches`: a store's utterances in shuffled batches with masks and targets."""

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset, get_worker_info

from gmmpipe.errors import OptionError
from gmmpipe.jepa.augmentation import Augmentation
from gmmpipe.jepa.batch import SHARED_MEMORY, JEPABatch
from gmmpipe.jepa.batch_order import BatchOrder, Order
from gmmpipe.jepa.length_order import LengthOrder, LengthPlan, plan_lengths
from gmmpipe.jepa.masking import block_mask
from gmmpipe.jepa.open_pool import OpenPool
from gmmpipe.jepa.targets import NoTargets, TargetSource, label_targets, mixture_targets
from gmmpipe.jepa.waveforms import Waveforms
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.store.feature_store import FeatureStore

log = logging.getLogger(__name__)
BATCH_SIZE = 16
"""Utterances of a step, where no size is given."""


class JEPABatches(IterableDataset[JEPABatch]):
    """Batches of a feature store for a JEPA, in an order that does not depend on the ranks.

    Steps are numbered through all epochs. Step n is a pure function of (store, seed, window, and
    the one given of batch_size, max_seconds and max_frames): a fixed list of utterances, of which
    rank r of W gets every W-th. So the position of a run is one number, the steps that it has done,
    and any number of ranks can go on from there. An epoch has every utterance once, and
    ``steps_per_epoch`` steps on every rank.

    Use it with ``DataLoader(batches, batch_size=None, num_workers=n)``: any n gives the same
    batches in the same order. Each iteration gives the same steps again.

    Args:
        store: a feature store, or several as `FeatureStore.open` takes them.
        gmm: the frozen mixture whose posteriors are the targets, or its model file.
        labels: instead of `gmm`, the label store of `store` (for several stores, theirs in the same
            order). Its top k are the targets, or else its labels with probability 1. With neither
            `gmm` nor `labels`, batches have no targets.
        labels_of: the feature store that `labels` are of, where that is not `store`: other frames
            of the same utterances, such as an encoder's layer. Both have the same shards and keys,
            and as many frames for each key.
        batch_size: the largest number of utterances of a step, over all ranks; two steps differ by
            at most one. 16 where neither this nor another size is given.
        max_seconds: instead of `batch_size`, the largest size of a step in seconds, over all ranks
            and padding included: its utterances times the longest of them. An utterance that is
            longer is a step of its own.
        max_frames: the same in frames.
        seed: the seed of the order and the masks.
        start_step: the number of the first step, which is how many have been done.
        stop_step: the number of the first step not to give; None for the end of the epoch of
            `start_step`.
        rank: the number of this process among `world_size`.
        world_size: W.
        top_k: how many of the largest posteriors are targets; None for all K.
        temperature: targets are softmax(log joint / temperature).
        wav: whether to add the waveforms, of a store made with ``--store_audio flac``.
        augment: what is added to the waveforms, with `wav`; features and targets stay those of the
            clean ones. It is a pure function of (store, seed, epoch, key).
        window: about how many utterances are sorted by length together (a pool). A larger number
            means less padding; a loader process holds the index of this many utterances. With
            `max_seconds` or `max_frames` the pools are the same in all epochs, and the sidecars
            of all shards are read at the start to count their steps.

    Raises:
        StoreError: the store is missing, unfinished or damaged, or lacks the audio asked for. While
            iterating: a shard is missing or damaged where it is read, named with the utterance.
        CheckpointError: the mixture cannot be read, or was fitted to other features.
        OptionError: options contradict each other or the store.
    """

    def __init__(
        self,
        store: FeatureStore | str | Path,
        gmm: GradientGMM | str | Path | None = None,
        *,
        labels: str | Path | None = None,
        labels_of: str | Path | None = None,
        batch_size: int | None = None,
        max_seconds: float | None = None,
        max_frames: int | None = None,
        seed: int = 0,
        start_step: int = 0,
        stop_step: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        top_k: int | None = None,
        temperature: float = 1.0,
        wav: bool = False,
        augment: Augmentation | None = None,
        window: int = 16384,
    ) -> None:
        self.store = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
        self.store.check_files()  # before memory is taken for what the store claims to hold
        if window < 1:
            raise OptionError(f"window is {window}, but must be at least 1")
        if not 0 <= rank < world_size:
            raise OptionError(f"rank is {rank}, but must be within 0 and {world_size - 1}")
        if augment and not wav:
            raise OptionError("augment is of waveforms, and without wav=True there are none")
        self._waveforms = Waveforms.of(self.store, augment, seed) if wav else None
        self._seed, self._pool_utterances = seed, window
        self._size = self._plan_sizes(batch_size, max_seconds, max_frames)
        self._rank, self._world_size = rank, world_size
        self._targets = _target_source(self.store, gmm, labels, labels_of, temperature, top_k)
        order = self._make_order()
        if order.smallest_batch < world_size:
            raise OptionError(
                f"{len(self.store)} utterances in batches of {self._said_size()} come to as few as "
                f"{order.smallest_batch} a step, too few for {world_size} ranks"
            )
        self.steps_per_epoch = order.steps_per_epoch
        if stop_step is None:
            stop_step = (order.epoch_of(start_step) + 1) * order.steps_per_epoch
        if not 0 <= start_step <= stop_step:
            raise OptionError(f"steps {start_step} to {stop_step} are none")
        self.start_step, self.stop_step = start_step, stop_step

    def __len__(self) -> int:
        """How many steps iterating gives."""
        return self.stop_step - self.start_step

    def __iter__(self) -> Iterator[JEPABatch]:
        """The steps; one of n loader processes gives every n-th of them.

        A DataLoader takes a batch from each of its processes in turn, which restores the order.
        """
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        order = self._make_order()
        warned = False
        opened: OpenPool | None = None
        for step in range(self.start_step + first, self.stop_step, stride):
            if opened is None or step not in opened.pool.steps:
                opened = OpenPool.open(self.store, self._targets, order, order.pool_of(step))
            batch = self._read(opened, step, order.epoch_of(step))
            if worker and worker.id == 0 and not warned and not batch.fits_shared_memory():
                warned = True
                log.warning(
                    "warning: %s has too little room for batches of %d loader processes: they come "
                    "through a pipe, a copy slower, and not at all if a collate_fn takes them "
                    "apart; docker run --shm-size 8g, or num_workers=0",
                    *(SHARED_MEMORY, worker.num_workers),
                )
            yield batch

    def _plan_sizes(
        self, batch_size: int | None, max_seconds: float | None, max_frames: int | None
    ) -> int | LengthPlan:
        """Utterances of a step, or what there is to know of steps of a length."""
        sizes = {"batch_size": batch_size, "max_seconds": max_seconds, "max_frames": max_frames}
        given = {name: value for name, value in sizes.items() if value is not None}
        if len(given) > 1:
            raise OptionError(f"{' and '.join(given)} are given, but a step has one size")
        for name, value in given.items():
            least = 1 / self.store.features.frame_rate if name == "max_seconds" else 1
            if not least <= value < math.inf:
                raise OptionError(f"{name} is {value}, but must be at least {least:g}")
        if max_seconds is not None:
            max_frames = int(max_seconds * self.store.features.frame_rate)
        if max_frames is None:
            return BATCH_SIZE if batch_size is None else batch_size
        return plan_lengths(
            self._utterances_per_shard(),
            lambda shard: self.store.shards[shard].sidecar().index.num_frames,
            max_frames,
            self._pool_utterances,
            self._seed,
        )

    def _said_size(self) -> str:
        size = self._size
        return f"{size.max_frames} frames" if isinstance(size, LengthPlan) else str(size)

    def _make_order(self) -> Order:
        """The order is made where it is used: its cache cannot be sent to a loader process."""
        counts, size = self._utterances_per_shard(), self._size
        if isinstance(size, LengthPlan):
            return LengthOrder(counts, size, self._seed)
        return BatchOrder(counts, size, self._pool_utterances, self._seed)

    def _utterances_per_shard(self) -> NDArray[np.int64]:
        return np.array([shard.row.utterances for shard in self.store.shards], dtype=np.int64)

    def _read(self, opened: OpenPool, step: int, epoch: int) -> JEPABatch:
        """This rank's utterances of a step."""
        pool = opened.pool
        numbers = opened.batches[step - pool.steps.start]
        keys: list[str] = []
        columns: dict[str, list[Tensor]] = {}
        for number in numbers[self._rank :: self._world_size].tolist():
            shard, position = int(pool.shards[number]), int(pool.positions[number])
            reader = opened.readers[shard]
            key = reader.index.keys[position]
            frames = reader.read_frames(position)
            utterance = {
                "features": frames,
                "mask": torch.from_numpy(block_mask(len(frames), self._seed, epoch, key)),
                **opened.targets[shard](position, frames),
            }
            if self._waveforms:
                utterance["wav"] = self._waveforms.read(reader, position, epoch)
            keys.append(key)
            for name, value in utterance.items():
                columns.setdefault(name, []).append(value)
        lengths = torch.tensor([len(frames) for frames in columns["features"]])
        padded = {name: pad_sequence(values, True) for name, values in columns.items()}
        padded["features"] = padded["features"].transpose(1, 2).contiguous()
        padding_mask = torch.arange(padded["features"].shape[2]) >= lengths[:, None]
        kind = self.store.features.kind
        return JEPABatch(step, keys, kind, lengths=lengths, padding_mask=padding_mask, **padded)


def _target_source(
    store: FeatureStore,
    gmm: GradientGMM | str | Path | None,
    labels: str | Path | None,
    labels_of: str | Path | None,
    temperature: float,
    top_k: int | None,
) -> TargetSource:
    if gmm is not None and labels is not None:
        raise OptionError("targets are of a mixture or of a label store, not of both")
    if labels_of is not None and labels is None:
        raise OptionError("labels_of says what the labels are of, but there are no labels")
    if gmm is not None:
        return mixture_targets(gmm, store, temperature, top_k)
    if (top_k, temperature) != (None, 1.0):
        raise OptionError("top_k and temperature are of a mixture's posteriors; none is given")
    return NoTargets() if labels is None else label_targets(labels, store, labels_of)

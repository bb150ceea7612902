"""The class of each frame, as a field of the samples' JSON says it: a speaker, a phone."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gmmpipe.errors import StoreError
from gmmpipe.run.world import World
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.shard import Shard

_ROUNDING = 1e-6
"""Of a frame: how far a time may be off by rounding, as (1.1 - 1.0) seconds are."""


@dataclass(frozen=True)
class FrameClasses:
    """The class of each frame of a store.

    A sample's field is one of

    - a text or a number: the class of all its frames;
    - a list of as many texts or numbers as it has frames: the class of each;
    - a list of [start, end, class], in seconds on the clock of the sample's ``offset``: the class
      of the frames whose centre is from start on and before end. Other frames have none.

    Args:
        store: the frames.
        field: the name of the field.
        names: the classes, in the order of their numbers.
    """

    store: FeatureStore
    field: str
    names: list[str]

    @classmethod
    def find(cls, store: FeatureStore, field: str, num_frames: int, world: World) -> "FrameClasses":
        """Look what classes the samples of the first frames carry; the same on every rank.

        Raises:
            StoreError: no sample carries the field, or one carries what is no class.
        """
        names = world.on_first_rank(lambda: _names_in(store, field, num_frames))
        return cls(store, field, names)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    @cached_property
    def _last(self) -> dict[Shard, Tensor]:
        """The classes of the shard that was read last."""
        return {}

    def read(self, start: int, stop: int) -> Tensor:
        """The numbers of the classes of frames [start, stop), int64; -1 where there is none.

        Raises:
            StoreError: a shard is damaged.
        """
        parts = [
            self._of_shard(shard)[low:high] for shard, low, high in self.store.parts(start, stop)
        ]
        return torch.cat(parts)

    def _of_shard(self, shard: Shard) -> Tensor:
        if shard not in self._last:
            self._last.clear()
            self._last[shard] = torch.tensor(
                [
                    -1 if name is None else self._numbers.get(name, -1)
                    for classes in _classes_in(self.store, shard, self.field)
                    for name in classes
                ],
                dtype=torch.int64,
            )
        return self._last[shard]


def _names_in(store: FeatureStore, field: str, num_frames: int) -> list[str]:
    names: set[str] = set()
    others = Counter[str]()
    for shard, _, beyond in store.parts(0, num_frames):
        for classes in _classes_in(store, shard, field, others):
            read = classes[: max(0, beyond)]  # a class of later frames alone is none here
            names.update(name for name in set(read) if name is not None)
            beyond -= len(classes)
    if not names and field in others:
        raise StoreError(f"--labels_from {field}: no frame that is read has a class in it")
    if not names:
        known = ", ".join(sorted(others)) or "none"
        raise StoreError(
            f"--labels_from {field}: no sample carries such a field; there are: {known}"
        )
    return sorted(names)


def _classes_in(
    store: FeatureStore, shard: Shard, field: str, others: Counter[str] | None = None
) -> "list[Sequence[str | None]]":
    """The class of each frame of each utterance of a shard; `others` counts the fields there are.

    Raises:
        StoreError: the shard is damaged, or a field is no class.
    """
    found: list[Sequence[str | None]] = []
    counts = shard.sidecar().index.num_frames.tolist()
    for (key, values), count in zip(shard.read_metadata(), counts, strict=True):
        if others is not None:
            others.update(values.keys())
        try:
            found.append(
                _per_frame(
                    values.get(field), count, values.get("offset"), store.features.frame_rate
                )
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise StoreError(
                f"{shard.path}: utterance {key}: --labels_from {field}: {error}"
            ) from error
    return found


def _per_frame(value: Any, count: int, offset: Any, frame_rate: float) -> "Sequence[str | None]":
    """The class of each of `count` frames."""
    if not isinstance(value, list):
        return [_name(value)] * count
    if value and isinstance(value[0], list):
        begin = float(offset or 0.0)
        classes: list[str | None] = [None] * count
        for start, end, name in value:
            first = _first_from(float(start) - begin, frame_rate)
            beyond = min(count, _first_from(float(end) - begin, frame_rate))
            classes[first:beyond] = [_name(name)] * (beyond - first)
        return classes
    if len(value) != count:
        raise ValueError(f"{len(value)} classes for {count} frames")
    return [_name(one) for one in value]


def _first_from(seconds: float, frame_rate: float) -> int:
    """The first frame whose centre is not before a time; frame t's is at t / frame_rate."""
    return max(0, math.ceil(seconds * frame_rate - _ROUNDING))


def _name(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{value!r:.60} is no class: not a text or a number")

"""The plan: which line goes into which shard, and the task that makes a shard.

Every manifest line that is not blank is planned, good or not. A line that gives no features is a
reject of its shard. So the plan needs to know where each line begins and nothing more, and a shard
is a pure function of its task.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmmpipe.features.spec import ComputedSpec
from gmmpipe.featurization.manifest_index import COLUMN_DTYPES, ManifestIndex, index_manifests
from gmmpipe.featurization.plan_file import array_length, open_plan, read_identity
from gmmpipe.featurization.plan_rows import check_lengths, read_index, read_order
from gmmpipe.featurization.shard_order import RecordingOrder, utterance_order
from gmmpipe.files import atomic_file, canonical_json
from gmmpipe.sources.lines import read_lines
from gmmpipe.sources.manifest import Manifest, ManifestLine, clean_line
from gmmpipe.sources.registry import is_streamed
from gmmpipe.store.names import shard_names
from gmmpipe.store.plans import PlanOptions


@dataclass(frozen=True)
class PlanItem:
    """One line, or one window of its audio, to be made into features."""

    line: ManifestLine
    byte_offset: int
    duplicate: bool
    window: int = 0
    num_windows: int = 1


@dataclass(frozen=True)
class ShardTask:
    """All that a worker needs to make one shard; small enough to be sent to it.

    Args:
        number: the shard's number.
        items: its lines, or windows of lines, in manifest order; where whole recordings are
            shuffled, recording by recording, each in time order.
        output_dir: the store.
        base_path: prefix of relative audio paths, or None for their manifest's folder.
        features: what a frame is.
        options: what else decides the bytes.
    """

    number: int
    items: list[PlanItem]
    output_dir: Path
    base_path: Path | None
    features: ComputedSpec
    options: PlanOptions


@dataclass(frozen=True)
class Plan:
    """Which line goes into which shard, of all shards or of every N-th.

    Args:
        manifests: the manifests, in order.
        features: what a frame is.
        options: what else decides the bytes.
        num_items: how many items there are, over all shards.
        shards: the numbers of the shards whose items are known.
        index: where the lines of those items stand.
        first_item: the number of the first item of each of those lines, int64 [lines].
        order: the numbers of those items in the order of the shards, int64.
    """

    manifests: Sequence[Manifest]
    features: ComputedSpec
    options: PlanOptions
    num_items: int
    shards: range
    index: ManifestIndex
    first_item: NDArray[np.int64]
    order: NDArray[np.int64]

    @property
    def num_shards(self) -> int:
        """How many shards the store will have."""
        return _num_shards(self.num_items, self.options)

    @property
    def shard_names(self) -> list[str]:
        """Their file names."""
        return shard_names(self.num_shards, self.options.format)

    def task(self, shard: int, output_dir: Path, base_path: Path | None) -> ShardTask:
        """The task that makes shard number `shard`, which is one of `shards`."""
        size, index = self.options.utterances_per_shard, self.index
        start = self.shards.index(shard) * size
        numbers = self.order[start : start + size]
        if self.options.shuffle_by == "utterances":
            numbers = np.sort(numbers)
        owners = np.searchsorted(self.first_item, numbers, side="right") - 1
        items = [
            PlanItem(
                index.line(self.manifests, at),
                int(index.byte_offset[at]),
                bool(index.duplicate[at]),
                number - int(self.first_item[at]),
                int(index.num_windows[at]),
            )
            for number, at in zip(numbers.tolist(), owners.tolist(), strict=True)
        ]
        return ShardTask(shard, items, output_dir, base_path, self.features, self.options)

    def save(self, path: Path) -> None:
        """Publish a plan of all shards, so that no rerun or other machine need make it again."""
        identity = canonical_json(
            {"features": self.features.to_json(), "options": self.options.to_json()}
        )
        with atomic_file(path) as file:
            np.savez(
                file,
                identity=np.array(identity),
                order=self.order,
                **{name: getattr(self.index, name) for name in COLUMN_DTYPES},
            )

    @classmethod
    def load(
        cls, path: Path, manifests: Sequence[Manifest], first_shard: int = 0, every: int = 1
    ) -> "Plan":
        """Read a published plan of these manifests; nothing that it says is taken on trust.

        Args:
            path: the file.
            manifests: the manifests.
            first_shard: the first shard whose task is wanted.
            every: every how manieth shard's is wanted from there on; 1 is all of them.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it is damaged, or is not a plan of these manifests.
        """
        with open_plan(path) as archive:
            features, options = read_identity(archive)
            check_lengths(archive, options)
            num_items, order = read_order(archive, options, slice(first_shard, None, every))
            own = np.sort(order)
            index, first_item = read_index(archive, manifests, options, num_items, own)
            shards = range(first_shard, _num_shards(num_items, options), every)
            return cls(manifests, features, options, num_items, shards, index, first_item, order)

    @staticmethod
    def load_identity(path: Path) -> tuple[ComputedSpec, PlanOptions]:
        """What a published plan is for, without its lines.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it is damaged.
        """
        with open_plan(path) as archive:
            return read_identity(archive)

    @staticmethod
    def load_shard_names(path: Path) -> list[str]:
        """The file names of a published plan's shards; errors as of `load_identity`."""
        with open_plan(path) as archive:
            num_items = array_length(archive, "order", np.int64)
            options = read_identity(archive)[1]
            return shard_names(_num_shards(num_items, options), options.format)


def _num_shards(num_items: int, options: PlanOptions) -> int:
    return -(-num_items // options.utterances_per_shard)


def digest_manifests(manifests: Sequence[Manifest]) -> tuple[str, int]:
    """SHA-256 over the manifests' names, contents and order, and how many lines are not blank.

    Raises:
        ManifestError: one cannot be read.
    """
    total = hashlib.sha256()
    lines = 0
    for manifest in manifests:
        content = hashlib.sha256()
        for offset, raw in read_lines(manifest):
            content.update(raw)
            lines += bool(clean_line(raw, first=offset == 0))
        total.update(f"{manifest.name}\0{content.hexdigest()}\0".encode("utf-8", "surrogateescape"))
    return total.hexdigest(), lines


def make_plan(
    manifests: Sequence[Manifest],
    features: ComputedSpec,
    options: PlanOptions,
    base_path: Path | None = None,
) -> Plan:
    """Plan the lines of `manifests`; `base_path` is where relative audio paths start."""
    by_recordings = options.shuffle and options.shuffle_by == "recordings"
    recordings = RecordingOrder(options.seed, [is_streamed(manifest) for manifest in manifests])
    window_seconds = options.max_seconds if options.long_audio == "split" else None
    observers = [recordings.add] if by_recordings else []
    index = index_manifests(manifests, base_path, window_seconds, observers)
    if options.long_audio == "split":
        options = replace(options, windows_sha256=index.windows_sha256)
    ends = np.cumsum(index.num_windows, dtype=np.int64)
    num_items = int(ends[-1]) if len(ends) else 0
    if by_recordings:
        order = recordings.order(index.num_windows, options.max_seconds)
    else:
        order = utterance_order(num_items, options)
    shards = range(_num_shards(num_items, options))
    first_item = ends - index.num_windows
    return Plan(manifests, features, options, num_items, shards, index, first_item, order)

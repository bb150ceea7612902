"""Manifests and options to shard tasks: who goes into which shard, decided once and for all.

Every manifest line that is not blank is planned, good or not: a line that gives no features is a
reject of its shard. So the plan needs only to know where each line begins, and a shard is a pure
function of its task.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import StoreError
from gmmpipe.features import FeatureConfig
from gmmpipe.featurize.line_table import LineTable, scan
from gmmpipe.featurize.manifest import Manifest, ManifestLine, clean_line, read_lines
from gmmpipe.files import atomic_file, canonical_json
from gmmpipe.randomness import permutation
from gmmpipe.store.schema import SHARD_SUFFIXES, PlanOptions, shard_stem


@dataclass(frozen=True)
class LineTask:
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
        lines: its lines, in manifest order.
        output_dir: the store.
        base_path: prefix of relative audio paths, or None for their manifest's folder.
        features: what a frame is.
        options: what else decides the bytes.
    """

    number: int
    lines: list[LineTask]
    output_dir: Path
    base_path: Path | None
    features: FeatureConfig
    options: PlanOptions


@dataclass(frozen=True)
class Plan:
    """Which line goes into which shard.

    Args:
        manifests: the manifests, in order.
        features: what a frame is.
        options: what else decides the bytes.
        table: where the planned lines stand.
        order: the rows (windows of lines) in the order of the shards, int64 [rows].
    """

    manifests: Sequence[Manifest]
    features: FeatureConfig
    options: PlanOptions
    table: LineTable
    order: NDArray[np.int64]

    @property
    def num_shards(self) -> int:
        """How many shards the store will have."""
        return -(-len(self.order) // self.options.utterances_per_shard)

    @property
    def shard_names(self) -> list[str]:
        """Their file names."""
        suffix = SHARD_SUFFIXES[self.options.format]
        return [f"{shard_stem(number)}{suffix}" for number in range(self.num_shards)]

    def task(self, shard: int, output_dir: Path, base_path: Path | None) -> ShardTask:
        """The task that makes shard number `shard`."""
        size = self.options.utterances_per_shard
        table = self.table
        rows = np.sort(self.order[shard * size : (shard + 1) * size])
        owners = np.searchsorted(table.first_row, rows, side="right") - 1
        lines = [
            LineTask(
                table.line(self.manifests, at),
                int(table.byte_offset[at]),
                bool(table.duplicate[at]),
                row - int(table.first_row[at]),
                int(table.num_windows[at]),
            )
            for row, at in zip(rows.tolist(), owners.tolist(), strict=True)
        ]
        return ShardTask(shard, lines, output_dir, base_path, self.features, self.options)

    def save(self, path: Path) -> None:
        """Publish the plan, so that a rerun or another machine need not make it again."""
        identity = canonical_json(
            {"features": self.features.to_json(), "options": asdict(self.options)}
        )
        with atomic_file(path) as file:
            np.savez(
                file,
                identity=np.array(identity),
                order=self.order,
                **{column.name: getattr(self.table, column.name) for column in fields(LineTable)},
            )

    @classmethod
    def load(cls, path: Path, manifests: Sequence[Manifest]) -> "Plan":
        """Read a published plan.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                identity = json.loads(str(arrays["identity"]))
                return cls(
                    manifests=manifests,
                    features=FeatureConfig.from_json(identity["features"]),
                    options=PlanOptions(**identity["options"]),
                    table=LineTable(*(arrays[column.name] for column in fields(LineTable))),
                    order=arrays["order"],
                )
        except (ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise StoreError(f"{path}: not a plan: {error!r}; use --overwrite") from error


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
    features: FeatureConfig,
    options: PlanOptions,
    base_path: Path | None = None,
) -> Plan:
    """Plan the lines of `manifests`; `base_path` is where relative audio paths start."""
    table = scan(manifests, options, base_path)
    num_rows = int(table.first_row[-1])
    if options.shuffle:
        order = permutation(num_rows, "shuffle", options.seed)
    else:
        order = np.arange(num_rows, dtype=np.int64)
    if options.long_audio == "split":
        windows = hashlib.sha256(table.num_windows.tobytes()).hexdigest()
        options = replace(options, windows_sha256=windows)
    return Plan(manifests, features, options, table, order)

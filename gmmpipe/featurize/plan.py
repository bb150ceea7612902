"""Manifests and options to shard tasks: who goes into which shard, decided once and for all.

Every manifest line that is not blank is planned, good or not: a line that gives no features is a
reject of its shard. So the plan needs only to know where each line begins, and a shard is a pure
function of its task.
"""

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import StoreError
from gmmpipe.features import FeatureConfig
from gmmpipe.featurize.manifest import Manifest, ManifestLine, clean_line, key_of, read_lines
from gmmpipe.files import atomic_file, canonical_json
from gmmpipe.randomness import permutation
from gmmpipe.store.schema import PlanOptions


class OpenManifests:
    """Lines of manifests by byte offset; each file is opened once."""

    def __init__(self) -> None:
        self._files: dict[Path, BinaryIO] = {}

    def line_at(self, manifest: Manifest, byte_offset: int) -> bytes:
        """The cleaned line that begins at `byte_offset`."""
        file = self._files.get(manifest.path)
        if file is None:
            file = self._files[manifest.path] = open(manifest.path, "rb")
        file.seek(byte_offset)
        return clean_line(file.readline(), first=byte_offset == 0)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()


@dataclass(frozen=True)
class LineTask:
    """One line to be made into features."""

    line: ManifestLine
    byte_offset: int
    duplicate: bool


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
class LineTable:
    """Where every planned line stands.

    Args:
        manifest_index: int32 [lines].
        line_number: within its manifest, from 1, int64 [lines].
        byte_offset: within its manifest, int64 [lines].
        first_ordinal: lines in all manifests before each one, int64 [manifests].
    """

    manifest_index: NDArray[np.int32]
    line_number: NDArray[np.int64]
    byte_offset: NDArray[np.int64]
    first_ordinal: NDArray[np.int64]

    def line(self, manifests: Sequence[Manifest], at: int) -> ManifestLine:
        """The planned line number `at`."""
        index, number = int(self.manifest_index[at]), int(self.line_number[at])
        return ManifestLine(manifests[index], number, int(self.first_ordinal[index]) + number)


@dataclass(frozen=True)
class Plan:
    """Which line goes into which shard.

    Args:
        manifests: the manifests, in order.
        features: what a frame is.
        options: what else decides the bytes.
        table: where the planned lines stand.
        duplicate: whether an earlier line has the same key, bool [lines].
        order: the planned lines in the order of the shards, int64 [lines].
    """

    manifests: Sequence[Manifest]
    features: FeatureConfig
    options: PlanOptions
    table: LineTable
    duplicate: NDArray[np.bool_]
    order: NDArray[np.int64]

    @property
    def num_shards(self) -> int:
        """How many shards the store will have."""
        return -(-len(self.order) // self.options.utterances_per_shard)

    def task(self, shard: int, output_dir: Path, base_path: Path | None) -> ShardTask:
        """The task that makes shard number `shard`."""
        size = self.options.utterances_per_shard
        lines = [
            LineTask(
                self.table.line(self.manifests, at),
                int(self.table.byte_offset[at]),
                bool(self.duplicate[at]),
            )
            for at in np.sort(self.order[shard * size : (shard + 1) * size]).tolist()
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
                duplicate=self.duplicate,
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
                    duplicate=arrays["duplicate"],
                    order=arrays["order"],
                )
        except (ValueError, KeyError, TypeError, BadZipFile) as error:
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


def make_plan(manifests: Sequence[Manifest], features: FeatureConfig, options: PlanOptions) -> Plan:
    """Plan the lines of `manifests`: 29 bytes a line, beside a passing 8 for its key's hash."""
    manifest_index, line_number, byte_offset = array("i"), array("q"), array("q")
    key_hash = array("q")
    first_ordinal = []
    ordinal = 0
    for index, manifest in enumerate(manifests):
        first_ordinal.append(ordinal)
        for number, (offset, raw) in enumerate(read_lines(manifest), start=1):
            ordinal += 1
            line = clean_line(raw, first=offset == 0)
            if line:
                manifest_index.append(index)
                line_number.append(number)
                byte_offset.append(offset)
                # Lines without a key get numbers of their own, so that they match nothing.
                key_hash.append(hash(key_of(line, ordinal) or -ordinal))
    table = LineTable(
        np.frombuffer(manifest_index, dtype=np.int32),
        np.frombuffer(line_number, dtype=np.int64),
        np.frombuffer(byte_offset, dtype=np.int64),
        np.array(first_ordinal, dtype=np.int64),
    )
    hashes = np.frombuffer(key_hash, dtype=np.int64)
    order = (
        permutation(len(hashes), "shuffle", options.seed)
        if options.shuffle
        else np.arange(len(hashes), dtype=np.int64)
    )
    duplicate = _find_duplicates(manifests, table, hashes)
    return Plan(manifests, features, options, table, duplicate, order)


def _find_duplicates(
    manifests: Sequence[Manifest], table: LineTable, hashes: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which lines repeat an earlier line's key: equal hashes first, then the keys themselves."""
    duplicate = np.zeros(len(hashes), dtype=np.bool_)
    by_hash = np.argsort(hashes, kind="stable")
    equal = hashes[by_hash][1:] == hashes[by_hash][:-1]
    suspects = np.unique(np.concatenate([by_hash[1:][equal], by_hash[:-1][equal]]))
    seen: set[str] = set()
    files = OpenManifests()
    for at in suspects.tolist():
        line = table.line(manifests, at)
        key = key_of(files.line_at(line.manifest, int(table.byte_offset[at])), line.ordinal)
        if key is not None:
            duplicate[at] = key in seen
            seen.add(key)
    files.close()
    return duplicate

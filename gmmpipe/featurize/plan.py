"""Manifests and options to shard tasks: who goes into which shard, decided once and for all.

Every manifest line that is not blank is planned, good or not: a line that gives no features is a
reject of its shard. So the plan needs only to know where each line begins, and a shard is a pure
function of its task.
"""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import StoreError
from gmmpipe.features import FeatureConfig
from gmmpipe.featurize.line_table import MAX_WINDOWS, LineTable, scan
from gmmpipe.featurize.manifest import Manifest, ManifestLine, clean_line, read_lines
from gmmpipe.files import atomic_file, canonical_json, open_regular
from gmmpipe.randomness import permutation
from gmmpipe.store.documents import MAX_INT, pick
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
            arrays = _read_arrays(path)
            identity = json.loads(str(arrays["identity"]))
            plan = cls(
                manifests=manifests,
                features=FeatureConfig.from_json(identity["features"]),
                options=pick(PlanOptions, identity["options"]),
                table=LineTable(*(arrays[column.name] for column in fields(LineTable))),
                order=arrays["order"],
            )
            plan._check()
        except FileNotFoundError:
            raise
        except (
            *(OSError, ValueError, KeyError, TypeError, EOFError, RecursionError),
            *(OverflowError, NotImplementedError, BadZipFile, StoreError),
        ) as error:
            reason = " ".join(str(error).split())[:200]
            raise StoreError(f"{path}: not a plan: {reason}; use --overwrite") from error
        return plan

    def _check(self) -> None:
        """Raise ValueError where the arrays cannot be those of a plan."""
        table, order, options = self.table, self.order, self.options
        num_lines, num_manifests = options.lines, len(table.first_ordinal)
        for column in fields(LineTable):
            array = getattr(table, column.name)
            if column.name != "first_ordinal" and array.shape != (num_lines,):
                raise ValueError(f"{column.name} is of shape {array.shape}, not of {num_lines}")
        if table.first_ordinal.ndim != 1 or order.ndim != 1 or options.utterances_per_shard < 1:
            raise ValueError("not columns")
        if options.format not in SHARD_SUFFIXES:
            raise ValueError(f"shards of format {options.format}")
        if self.manifests and len(self.manifests) != num_manifests:
            raise ValueError(f"of {num_manifests} manifests")
        _check_range("manifest_index", table.manifest_index, 0, num_manifests - 1)
        _check_range("line_number", table.line_number, 1, MAX_INT)
        _check_range("byte_offset", table.byte_offset, 0, MAX_INT)
        _check_range("num_windows", table.num_windows, 0, MAX_WINDOWS)
        _check_range("first_ordinal", table.first_ordinal, 0, MAX_INT)
        rows = int(table.first_row[-1])
        if len(order) != rows:
            raise ValueError(f"an order of {len(order)} rows where there are {rows}")
        _check_range("order", order, 0, rows - 1)
        seen = np.zeros(rows, dtype=bool)
        seen[order] = True
        if not seen.all():
            raise ValueError("an order that lacks a row")


_DTYPES = {
    "manifest_index": np.dtype(np.int32),
    "num_windows": np.dtype(np.int32),
    "duplicate": np.dtype(np.bool_),
}
"""Of the columns of a plan that are not int64."""


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a plan; none takes memory before its header is found to fit the file.

    Raises:
        OSError, ValueError, EOFError, BadZipFile: it is no file that `Plan.save` has written.
    """
    with open(open_regular(path), "rb") as file, ZipFile(file) as archive:
        size = os.fstat(file.fileno()).st_size
        arrays: dict[str, NDArray[Any]] = {}
        for name in ("identity", "order", *(column.name for column in fields(LineTable))):
            member = archive.getinfo(f"{name}.npy")
            if member.compress_type != ZIP_STORED or member.file_size > size:
                raise ValueError(f"{name} is packed, or larger than the file")
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                if version != (1, 0):
                    raise ValueError(f"{name} is of npy version {version}")
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
                wanted = dtype if name == "identity" else _DTYPES.get(name, np.dtype(np.int64))
                if dtype != wanted or dtype.hasobject or (fortran and len(shape) > 1):
                    raise ValueError(f"{name} is of {dtype}")
                if name == "identity" and (shape or dtype.kind != "U"):
                    raise ValueError("its identity is no text")
                if math.prod(shape) * dtype.itemsize + stream.tell() != member.file_size:
                    raise ValueError(f"{name} of shape {shape} is not what the file holds")
                content = bytearray(stream.read())  # checked against the member's CRC-32
                arrays[name] = np.frombuffer(content, dtype).reshape(shape)
    return arrays


def _check_range(name: str, array: NDArray[Any], low: int, high: int) -> None:
    if len(array) and not low <= int(array.min()) <= int(array.max()) <= high:
        raise ValueError(f"{name} is not within {low} to {high}")


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

"""The feature store on disk: ``store.json``, the sidecars and ``rejects.jsonl``.

Version 1, frozen: later versions of gmmpipe may add fields, which a reader ignores, but do not
change these. All JSON is canonical (sorted keys, no spaces, ASCII), so the same store is always
the same bytes.
"""

import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import StoreError
from gmmpipe.features import FeatureConfig
from gmmpipe.files import canonical_json, write_atomic
from gmmpipe.store.ledger import Reject, Tally

FORMAT_VERSION = 1
STORE_FILE = "store.json"
PLAN_FILE = "plan.npz"
LABEL_PLAN_FILE = "plan.json"
"""What an unfinished label store is made by; see `gmmpipe.store.label_schema`."""
REJECTS_FILE = "rejects.jsonl"
REOPENED_FILE = "reopened.json"
"""What ``store.json`` is renamed to while some shards of a finished store are made anew."""
SHARD_SUFFIXES = {"tar": ".tar", "zarr": ".zarr"}
"""The kinds of shard this version reads and writes, and how their names end."""

_T = TypeVar("_T")
Dtype = Literal["float16", "float32"]
Format = Literal["tar", "zarr"]
LongAudio = Literal["crop", "split", "skip"]
StoreAudio = Literal["none", "flac"]


@dataclass(frozen=True)
class ShardIndex:
    """Where each utterance of a shard lies, a column a field, in the order of the shard.

    Args:
        keys: the samples' keys, sorted.
        num_frames: frames of each utterance, int64 [utterances].
        byte_offset: where its raw [T, D] array begins in the shard's data, int64 [utterances].
        crc32c: CRC-32C (Castagnoli) of those raw bytes, as stored, int64 [utterances].
    """

    keys: list[str]
    num_frames: NDArray[np.int64]
    byte_offset: NDArray[np.int64]
    crc32c: NDArray[np.int64]

    @cached_property
    def row_offset(self) -> NDArray[np.int64]:
        """First frame of each utterance within the shard, and the total, int64 [utterances + 1]."""
        return np.concatenate([[0], np.cumsum(self.num_frames)]).astype(np.int64)

    def take(self, order: NDArray[np.int64]) -> "ShardIndex":
        """The index with its utterances in another order: frames are then numbered in that."""
        numbers = {name: getattr(self, name)[order] for name in _INDEX_NUMBERS}
        return ShardIndex([self.keys[at] for at in order.tolist()], **numbers)

    def to_json(self) -> dict[str, list[Any]]:
        """The columns as lists."""
        columns = {name: getattr(self, name).tolist() for name in _INDEX_NUMBERS}
        return {"keys": self.keys, **columns}

    @classmethod
    def from_json(cls, columns: dict[str, list[Any]]) -> "ShardIndex":
        """The inverse of `to_json`; raises ValueError where columns differ in length."""
        numbers = {name: np.asarray(columns[name], dtype=np.int64) for name in _INDEX_NUMBERS}
        keys = columns["keys"]
        if any(column.shape != (len(keys),) for column in numbers.values()):
            raise ValueError("index columns of different lengths")
        return cls(keys=keys, **numbers)


_INDEX_NUMBERS = ("num_frames", "byte_offset", "crc32c")


@dataclass(frozen=True)
class ShardRow:
    """What ``store.json`` says of one shard."""

    name: str
    utterances: int
    frames: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Sidecar:
    """``shard-000000.json``: its presence says that the shard beside it is complete."""

    row: ShardRow
    index: ShardIndex
    tally: Tally
    rejects: list[Reject]

    def write(self, path: Path) -> None:
        """Publish the sidecar as `path`."""
        document = {
            "format_version": FORMAT_VERSION,
            **asdict(self.row),
            "index": self.index.to_json(),
            "tally": asdict(self.tally),
            "rejects": [asdict(reject) for reject in self.rejects],
        }
        write_atomic(path, canonical_json(document).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> "Sidecar":
        """Read and check a sidecar.

        Raises:
            StoreError: it is missing or not a sidecar of this version.
        """
        document = read_document(path)
        try:
            return cls(
                row=pick(ShardRow, document),
                index=ShardIndex.from_json(document["index"]),
                tally=pick(Tally, document["tally"]),
                rejects=[pick(Reject, reject) for reject in document["rejects"]],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path}: not a sidecar: {error!r}") from error


@dataclass(frozen=True)
class PlanOptions:
    """The options, and the input, that decide a store's bytes beyond the features themselves.

    `windows_sha256` is of the number of windows of each line, where long audio is split: those may
    come from the files' headers, and then a plan made again must find the same.
    """

    manifest_sha256: str
    lines: int
    max_seconds: float
    utterances_per_shard: int
    shuffle: bool
    seed: int
    dtype: Dtype
    format: Format = "tar"
    long_audio: LongAudio = "crop"
    store_audio: StoreAudio = "none"
    windows_sha256: str = ""

    def differences(self, other: "PlanOptions") -> list[str]:
        """What differs from `other`, one phrase a field."""
        return [
            f"{f.name} is {getattr(self, f.name)} there and {getattr(other, f.name)} here"
            for f in fields(self)
            if f.name != "windows_sha256" and getattr(self, f.name) != getattr(other, f.name)
        ]


@dataclass(frozen=True)
class StoreInfo:
    """``store.json``: written last; a folder without it is unfinished."""

    features: FeatureConfig
    plan: PlanOptions
    tally: Tally
    shards: list[ShardRow]

    def write(self, path: Path) -> None:
        """Publish the document as `path`."""
        document = {
            "format_version": FORMAT_VERSION,
            "kind": "features",
            "features": self.features.to_json(),
            "fingerprint": self.features.fingerprint,
            "plan": asdict(self.plan),
            "totals": {**asdict(self.tally), "seconds_in": round(self.tally.seconds_in, 6)},
            "shards": [asdict(row) for row in self.shards],
        }
        write_atomic(path, canonical_json(document).encode() + b"\n")

    @classmethod
    def read(cls, path: Path) -> "StoreInfo":
        """Read and check ``store.json``.

        Raises:
            StoreError: it is missing, of another version or kind, or its fingerprint is not that
                of its features.
        """
        document = read_document(path)
        try:
            if document["kind"] != "features":
                raise StoreError(f"{path}: a store of {document['kind']}, not of features")
            try:
                features = FeatureConfig.from_json(document["features"])
            except StoreError as error:
                raise StoreError(f"{path}: {error}") from error
            if features.fingerprint != document["fingerprint"]:
                raise StoreError(f"{path}: the fingerprint is not that of the features")
            info = cls(
                features=features,
                plan=pick(PlanOptions, document["plan"]),
                tally=pick(Tally, document["totals"]),
                shards=[pick(ShardRow, row) for row in document["shards"]],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path}: not a feature store: {error!r}") from error
        if info.plan.format not in SHARD_SUFFIXES or info.plan.dtype not in ("float16", "float32"):
            raise StoreError(f"{path}: {info.plan.format} of {info.plan.dtype} cannot be read here")
        return info


def shard_stem(number: int) -> str:
    """File name of shard `number` without its ending."""
    return f"shard-{number:06d}"


def kind_of(folder: Path) -> str | None:
    """``features`` or ``labels``: what a store, finished or not, holds; None where none is.

    Raises:
        StoreError: the file that says so cannot be read.
    """
    for name in (STORE_FILE, REOPENED_FILE, LABEL_PLAN_FILE):
        if (folder / name).exists():
            return str(read_document(folder / name).get("kind"))
    if (folder / PLAN_FILE).exists():
        return "features"
    for sidecar in folder.glob("shard-*.json"):
        return str(read_document(sidecar).get("kind", "features"))
    return None


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object of this format version.

    Raises:
        StoreError: it is missing, damaged or of another version.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read: {error}") from error
    if not isinstance(document, dict) or document.get("format_version") != FORMAT_VERSION:
        raise StoreError(f"{path}: not of format version {FORMAT_VERSION}")
    return document


def pick(cls: type[_T], values: dict[str, Any]) -> _T:
    """A dataclass from a JSON object; fields that later versions added are left out."""
    names = cls.__dataclass_fields__  # type: ignore[attr-defined]
    return cls(**{name: values[name] for name in names if name in values})

"""The feature store on disk: ``store.json``, the sidecars and ``rejects.jsonl``.

Version 1, frozen: later versions of gmmpipe may add fields, which a reader ignores, but do not
change these. All JSON is canonical (sorted keys, no spaces, ASCII), so the same store is always
the same bytes.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from gmmpipe.errors import StoreError
from gmmpipe.features.kinds import spec_from_json
from gmmpipe.features.spec import ComputedSpec, FrameSpec
from gmmpipe.store.documents import (
    FORMAT_VERSION,
    MAX_INT,
    parse_document,
    pick,
    read_document,
    read_document_bytes,
    write_document,
)
from gmmpipe.store.rejects import Reject, Tally
from gmmpipe.store.shard_index import ShardIndex

STORE_FILE = "store.json"
PLAN_FILE = "plan.npz"
LINES_FOLDER = "plan.lines"
"""The plain lines of manifests that are not plain files, while a store is unfinished."""
LABEL_PLAN_FILE = "plan.json"
"""What an unfinished store of labels, or of a `FeatureStoreWriter`, is made by."""
REJECTS_FILE = "rejects.jsonl"
REOPENED_FILE = "reopened.json"
"""What ``store.json`` is renamed to while some shards of a finished store are made anew."""
SHARD_SUFFIXES = {"tar": ".tar", "zarr": ".zarr"}
"""The kinds of shard this version reads and writes, and how their names end."""

_SHARD_NAME = re.compile(r"shard-[0-9]{6,12}\.(tar|zarr)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
DTYPES = ("float16", "float32")
Dtype = Literal["float16", "float32"]
Format = Literal["tar", "zarr"]
LongAudio = Literal["crop", "split", "skip"]
StoreAudio = Literal["none", "flac"]


@dataclass(frozen=True)
class ShardRow:
    """What ``store.json`` says of one shard.

    Args:
        sidecar_sha256: of the bytes of its sidecar, which cannot say that itself; None in stores
            of earlier versions.

    Raises:
        ValueError: no shard can be so.
    """

    name: str
    utterances: int
    frames: int
    bytes: int
    sha256: str
    sidecar_sha256: str | None = None

    def __post_init__(self) -> None:
        if not is_shard_name(self.name):
            raise ValueError(f"{self.name[:80]!r} is no name of a shard")
        if not 0 <= self.utterances <= self.frames <= self.bytes <= MAX_INT:
            raise ValueError(
                f"{self.name} of {self.utterances} utterances, {self.frames} frames and "
                f"{self.bytes} bytes"
            )
        check_sha256(self.sha256, self.sidecar_sha256)

    def of_itself(self) -> dict[str, Any]:
        """The fields that the sidecar repeats."""
        fields_there = asdict(self)
        del fields_there["sidecar_sha256"]
        return fields_there

    def to_json(self) -> dict[str, Any]:
        """The fields that ``store.json`` has."""
        return self.of_itself() if self.sidecar_sha256 is None else asdict(self)

    def check_index(self, index: ShardIndex) -> None:
        """Raise ValueError if the index is one of other counts."""
        counts = len(index.keys), int(index.row_offset[-1])
        if counts != (self.utterances, self.frames):
            raise ValueError("an index of {} utterances and {} frames".format(*counts))


def check_sidecar(path: Path, there: ShardRow, recorded: ShardRow) -> None:
    """Make sure that the sidecar of the shard `path` is the one that ``store.json`` records.

    Raises:
        StoreError: it is not.
    """
    if recorded.sidecar_sha256 is None:
        there = replace(there, sidecar_sha256=None)
    if there != recorded:
        raise StoreError(f"{path}: its sidecar does not belong to this store")


def sidecar_row(document: dict[str, Any], content: bytes, path: Path) -> ShardRow:
    """What the sidecar at `path`, of these bytes, says of its shard.

    Raises:
        TypeError, ValueError: it cannot be.
        StoreError: it is that of another shard.
    """
    digest = hashlib.sha256(content).hexdigest()
    row = replace(pick(ShardRow, document), sidecar_sha256=digest)
    if row.name.partition(".")[0] != path.stem:
        raise StoreError(f"{path}: damaged: it is that of {row.name}")
    return row


def check_sha256(*digests: str | None) -> None:
    """Raise ValueError if one, where it is given, is no SHA-256 in hexadecimal digits."""
    for digest in digests:
        if digest is not None and not _SHA256.fullmatch(digest):
            raise ValueError(f"{digest[:80]!r} is no SHA-256")


def check_rows(
    rows: Sequence[ShardRow], utterances: int, frames: int, num_bytes: int, frame_bytes: int
) -> None:
    """Raise ValueError if rows are not those of consecutive shards that come to the totals.

    Nor may a shard have less than `frame_bytes` for each of its frames.
    """
    if any(row.frames * frame_bytes > row.bytes for row in rows):
        raise ValueError("a shard of fewer bytes than its frames take")
    if any(row.name.partition(".")[0] != shard_stem(number) for number, row in enumerate(rows)):
        raise ValueError("a shard's row is missing, or out of order")
    sums = [sum(getattr(row, name) for row in rows) for name in ("utterances", "frames", "bytes")]
    if sums != [utterances, frames, num_bytes] or num_bytes > MAX_INT:
        totals = f"{utterances} utterances, {frames} frames and {num_bytes} bytes"
        raise ValueError(f"its totals of {totals} are not the sums of its shards")


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
            **self.row.of_itself(),
            "index": self.index.to_json(),
            "tally": asdict(self.tally),
            "rejects": [asdict(reject) for reject in self.rejects],
        }
        write_document(path, document)

    @classmethod
    def read(cls, path: Path) -> "Sidecar":
        """Read and check a sidecar; its row has the SHA-256 of its bytes.

        Raises:
            StoreError: it is missing, damaged, or not a sidecar of this version and this name.
        """
        content = read_document_bytes(path)
        document = parse_document(content, path)
        try:
            sidecar = cls(
                row=sidecar_row(document, content, path),
                index=ShardIndex.from_json(document["index"]),
                tally=pick(Tally, document["tally"]),
                rejects=[pick(Reject, reject) for reject in document["rejects"]],
            )
            sidecar.row.check_index(sidecar.index)
            sidecar._check_tally()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{path}: not a sidecar: {error!r}") from error
        return sidecar

    def _check_tally(self) -> None:
        tally, row = self.tally, self.row
        reasons = Counter(reject.reason for reject in self.rejects)
        if (tally.utterances, tally.frames, tally.bytes) != (row.utterances, row.frames, row.bytes):
            raise ValueError("a tally of other counts than the shard's")
        if (tally.rejects, tally.rejects_by_reason) != (len(self.rejects), dict(reasons)):
            raise ValueError("a tally of other rejects than are listed")


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

    @property
    def has_audio(self) -> bool:
        """Whether the waveforms are kept beside the features."""
        return self.store_audio == "flac"


@dataclass(frozen=True)
class WriterPlan:
    """The options of a `FeatureStoreWriter` that decide a store's bytes beyond the frames."""

    utterances_per_shard: int
    dtype: Dtype
    format: Format

    @property
    def has_audio(self) -> bool:
        """Whether waveforms are kept beside the features: never."""
        return False


@dataclass(frozen=True)
class StoreInfo:
    """``store.json``: written last; a folder without it is unfinished.

    Args:
        rejects_sha256: of ``rejects.jsonl``; None in stores of earlier versions.
    """

    features: FrameSpec
    plan: PlanOptions | WriterPlan
    tally: Tally
    shards: list[ShardRow]
    rejects_sha256: str | None = None

    @property
    def shard_names(self) -> list[str]:
        """The shards' file names."""
        return [row.name for row in self.shards]

    def write(self, path: Path) -> None:
        """Publish the document as `path`."""
        document = {
            "format_version": FORMAT_VERSION,
            "kind": "features",
            "features": self.features.to_json(),
            "fingerprint": self.features.fingerprint,
            "plan": asdict(self.plan),
            "totals": {**asdict(self.tally), "seconds_in": round(self.tally.seconds_in, 6)},
            "shards": [row.to_json() for row in self.shards],
            "rejects_sha256": self.rejects_sha256,
        }
        write_document(path, document)

    @classmethod
    def read(cls, path: Path) -> "StoreInfo":
        """Read and check ``store.json``.

        Raises:
            StoreError: it is missing, damaged, of another version or kind, its fingerprint is not
                that of its features, or its totals are not those of its shards.
        """
        document = read_document(path)
        try:
            if document["kind"] != "features":
                raise StoreError(f"{path}: a store of {document['kind']}, not of features")
            features, plan = _features_and_plan(document, path)
            if features.fingerprint != document["fingerprint"]:
                raise StoreError(f"{path}: the fingerprint is not that of the features")
            info = cls(
                features=features,
                plan=plan,
                tally=pick(Tally, document["totals"]),
                shards=[pick(ShardRow, row) for row in document["shards"]],
                rejects_sha256=document.get("rejects_sha256"),
            )
            check_sha256(info.rejects_sha256)
            tally, frame_bytes = info.tally, features.dim * (4 if plan.dtype == "float32" else 2)
            check_rows(info.shards, tally.utterances, tally.frames, tally.bytes, frame_bytes)
            info._check_rejects()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{path}: not a feature store: {error!r}") from error
        return info

    def _check_rejects(self) -> None:
        if sum(self.tally.rejects_by_reason.values()) != self.tally.rejects:
            raise ValueError("its rejects are not the sum of those by reason")


def find_writer_plan(folder: Path) -> tuple[FrameSpec, WriterPlan] | None:
    """By what a `FeatureStoreWriter` makes the store in a folder, finished or not.

    Returns:
        None where there is no store, or one that no such writer began.

    Raises:
        StoreError: the file that says so is damaged.
    """
    for path in (folder / name for name in (STORE_FILE, REOPENED_FILE, LABEL_PLAN_FILE)):
        if path.exists():
            document = read_document(path)
            if document.get("kind") != "features":
                return None
            try:
                features, plan = _features_and_plan(document, path)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise StoreError(f"{path}: not of a feature store: {error!r}") from error
            return (features, plan) if isinstance(plan, WriterPlan) else None
    return None


def write_writer_plan(folder: Path, features: FrameSpec, plan: WriterPlan) -> None:
    """Publish by what a `FeatureStoreWriter` makes a store, until ``store.json`` says so."""
    document = {
        "format_version": FORMAT_VERSION,
        "kind": "features",
        "features": features.to_json(),
        "plan": asdict(plan),
    }
    write_document(folder / LABEL_PLAN_FILE, document)


def _features_and_plan(
    document: dict[str, Any], path: Path
) -> tuple[FrameSpec, PlanOptions | WriterPlan]:
    try:
        features = spec_from_json(document["features"])
    except StoreError as error:
        raise StoreError(f"{path}: {error}") from error
    values = document["plan"]
    for name, known in (("format", SHARD_SUFFIXES), ("dtype", DTYPES)):
        if values.get(name, "tar" if name == "format" else None) not in known:
            raise StoreError(f"{path}: shards of {name} {values.get(name)} cannot be read here")
    if isinstance(features, ComputedSpec):
        return features, pick(PlanOptions, values)
    return features, pick(WriterPlan, values)


def shard_stem(number: int) -> str:
    """File name of shard `number` without its ending."""
    return f"shard-{number:06d}"


def is_shard_name(name: str) -> bool:
    """Whether a shard may have that file name."""
    return _SHARD_NAME.fullmatch(name) is not None


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
        if is_shard_name(f"{sidecar.stem}.tar"):
            return str(read_document(sidecar).get("kind", "features"))
    return None

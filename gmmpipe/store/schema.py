"""``store.json``: what a store holds, and what decides its bytes.

Version 1, frozen: later versions of gmmpipe may add fields, which a reader ignores, but do not
change these. All JSON is canonical (sorted keys, no spaces, ASCII), so the same store is always
the same bytes.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

from gmmpipe.errors import StoreError
from gmmpipe.features.kinds import spec_from_json
from gmmpipe.features.spec import ComputedSpec, FrameSpec, differences
from gmmpipe.store.columns import Column
from gmmpipe.store.documents import FORMAT_VERSION, pick, read_document, write_document
from gmmpipe.store.names import IDENTITY_FILE, LINES_FOLDER, PLAN_FILE, SHARD_SUFFIXES, Format, Kind
from gmmpipe.store.rejects import Tally
from gmmpipe.store.sidecar import ShardRow, check_rows, check_sha256
from gmmpipe.store.sums import Sums

I = TypeVar("I", bound="Identity")  # noqa: E741
DTYPES = ("float16", "float32")
Dtype = Literal["float16", "float32"]
LongAudio = Literal["crop", "split", "skip"]
StoreAudio = Literal["none", "flac"]


class Identity(ABC):
    """What decides a store's bytes, as ``store.json`` says it."""

    kind: ClassVar[Kind]
    name: ClassVar[str]
    """The kind in words."""
    command: ClassVar[str]
    """What makes such stores."""

    @property
    @abstractmethod
    def plan_files(self) -> tuple[str, ...]:
        """What an unfinished store is made by."""

    @property
    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """The arrays of each utterance."""

    @property
    @abstractmethod
    def format(self) -> Format:
        """The kind of its shards."""

    @property
    def has_audio(self) -> bool:
        """Whether utterances have their waveforms too."""
        return False

    @property
    def has_json(self) -> bool:
        """Whether utterances have metadata, and the store has rejects."""
        return self.kind == "features"

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Its fields of ``store.json``."""

    @classmethod
    @abstractmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            StoreError, KeyError, TypeError, ValueError: the document cannot be one.
        """

    @abstractmethod
    def differences(self, here: Self) -> list[str]:
        """What of this one, which is there, differs from `here`, one phrase a field."""

    def write(self, path: Path) -> None:
        """Publish it as the ``plan.json`` of an unfinished store."""
        write_document(path, {"format_version": FORMAT_VERSION, **self.to_json()})

    @classmethod
    def of(cls, document: dict[str, Any], path: Path) -> Self:
        """The identity in a document; `path` names it in errors.

        Raises:
            StoreError: it is damaged or of another kind of store.
        """
        if document.get("kind") != cls.kind:
            raise StoreError(f"{path}: a store of {document.get('kind')}, not of {cls.kind}")
        try:
            return cls.from_json(document)
        except StoreError as error:
            raise StoreError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{path}: not a {cls.name}: {error!r}") from error


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


@dataclass(frozen=True)
class WriterPlan:
    """The options of a `FeatureStoreWriter` that decide a store's bytes beyond the frames."""

    utterances_per_shard: int
    dtype: Dtype
    format: Format


@dataclass(frozen=True)
class FeatureIdentity(Identity):
    """What decides a feature store's bytes: what a frame is, and what else."""

    kind = "features"
    name = "feature store"
    command = "gmmpipe featurize"

    features: FrameSpec
    plan: PlanOptions | WriterPlan

    @property
    def plan_files(self) -> tuple[str, ...]:
        """What an unfinished store is made by."""
        is_planned = isinstance(self.plan, PlanOptions)
        return (PLAN_FILE, LINES_FOLDER) if is_planned else (IDENTITY_FILE,)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The frames."""
        return (Column(self.features.column, self.plan.dtype, self.features.dim),)

    @property
    def format(self) -> Format:
        """The kind of its shards."""
        return self.plan.format

    @property
    def has_audio(self) -> bool:
        """Whether utterances have their waveforms too."""
        return isinstance(self.plan, PlanOptions) and self.plan.store_audio == "flac"

    def to_json(self) -> dict[str, Any]:
        """Its fields of ``store.json``."""
        return {
            "kind": self.kind,
            "features": self.features.to_json(),
            "fingerprint": self.features.fingerprint,
            "plan": asdict(self.plan),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        features = spec_from_json(document["features"])
        if features.fingerprint != document["fingerprint"]:
            raise StoreError("the fingerprint is not that of the features")
        plan = document["plan"]
        for name, known in (("format", SHARD_SUFFIXES), ("dtype", DTYPES)):
            if plan.get(name, "tar" if name == "format" else None) not in known:
                raise StoreError(f"shards of {name} {plan.get(name)} cannot be read here")
        if isinstance(features, ComputedSpec):
            return cls(features, pick(PlanOptions, plan))
        return cls(features, pick(WriterPlan, plan))

    def differences(self, here: Self) -> list[str]:
        """What differs, but for the windows, which are found out while a plan is made."""
        ours = differences(self.features.to_json(), here.features.to_json())
        there = self.plan
        if isinstance(there, PlanOptions) and isinstance(here.plan, PlanOptions):
            there = replace(there, windows_sha256=here.plan.windows_sha256)
        return ours + (differing(there, here.plan) if type(there) is type(here.plan) else [])


def differing(there: Any, here: Any) -> list[str]:
    """What differs between two dataclasses of a type, one phrase a field."""
    return [
        f"{f.name} is {getattr(there, f.name)} there and {getattr(here, f.name)} here"
        for f in fields(there)
        if getattr(there, f.name) != getattr(here, f.name)
    ]


@dataclass(frozen=True)
class _LeftOutMass:
    """The field of the totals of labels, by its type."""

    left_out_mass: float | None


@dataclass(frozen=True)
class StoreInfo(Sums, Generic[I]):
    """``store.json``: written last; a folder without it is unfinished.

    Args:
        identity: what decides the store's bytes.
        rejects_sha256: of ``rejects.jsonl``; None in stores of earlier versions, and of labels.
    """

    identity: I = field(kw_only=True)
    rejects_sha256: str | None = field(kw_only=True, default=None)

    @property
    def shard_names(self) -> list[str]:
        """The shards' file names."""
        return [row.name for row in self.shards]

    def write(self, path: Path) -> None:
        """Publish the document as `path`."""
        document = {
            "format_version": FORMAT_VERSION,
            **self.identity.to_json(),
            "totals": self._totals(),
            "shards": [row.to_json() for row in self.shards],
        }
        if self.identity.has_json:
            document["rejects_sha256"] = self.rejects_sha256
        write_document(path, document)

    def _totals(self) -> dict[str, Any]:
        tally = self.tally
        if self.identity.kind == "features":
            return {**asdict(tally), "seconds_in": round(tally.seconds_in, 6)}
        counts = {name: getattr(tally, name) for name in ("utterances", "frames", "bytes")}
        return {**counts, "left_out_mass": self.left_out_mass}

    @classmethod
    def read(cls, path: Path, identity: type[I]) -> "StoreInfo[I]":
        """Read and check ``store.json``.

        Args:
            path: the document.
            identity: what it must be of: `FeatureIdentity` or `LabelIdentity`.

        Raises:
            StoreError: it is missing, damaged, of another version or kind, its fingerprint is not
                that of its features, or its totals are not those of its shards.
        """
        document = read_document(path)
        whose = identity.of(document, path)
        try:
            totals, mass = document["totals"], None
            if whose.kind == "labels":
                mass = pick(_LeftOutMass, totals).left_out_mass
            rows = [pick(ShardRow, row) for row in document["shards"]]
            digest = document.get("rejects_sha256")
            info = cls(rows, pick(Tally, totals), mass, identity=whose, rejects_sha256=digest)
            info._check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{path}: not a {whose.name}: {error!r}") from error
        return info

    def _check(self) -> None:
        check_sha256(self.rejects_sha256)
        frame_bytes = sum(column.frame_bytes for column in self.identity.columns)
        check_rows(self.shards, self.tally, frame_bytes)
        if sum(self.tally.rejects_by_reason.values()) != self.tally.rejects:
            raise ValueError("its rejects are not the sum of those by reason")


FeatureInfo = StoreInfo[FeatureIdentity]
"""``store.json`` of a feature store."""

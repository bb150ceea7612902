"""What decides the bytes of a store: the fields of ``store.json`` and ``plan.json`` that say so.

Version 1, frozen: later versions of gmmpipe may add fields, which a reader ignores, but do not
change these. All JSON is canonical (sorted keys, no spaces, ASCII), so the same store is always
the same bytes.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from gmmpipe.errors import StoreError
from gmmpipe.features.kinds import spec_from_json
from gmmpipe.features.spec import ComputedSpec, FrameSpec, differences
from gmmpipe.store.columns import Column
from gmmpipe.store.documents import FORMAT_VERSION, pick, read_document, write_document
from gmmpipe.store.names import (
    IDENTITY_FILE,
    REOPENED_FILE,
    SHARD_SUFFIXES,
    STORE_FILE,
    Format,
    Kind,
)
from gmmpipe.store.plans import DTYPES, ImportPlan, PlanOptions, WriterPlan
from gmmpipe.store.sidecar import check_sha256

I = TypeVar("I", bound="Identity")  # noqa: E741
LABELS, TOPK_IDS, TOPK_PROBS = "labels", "topk_ids", "topk_probs"
"""The columns."""
MAX_COMPONENTS = 1 << 16
"""More cannot be numbered in uint16."""
_ONE = 0x3C00
"""The bits of 1 in float16."""


@dataclass(frozen=True)
class Identity(ABC):
    """What decides a store's bytes: the fields of a dataclass, as ``store.json`` has them."""

    kind: ClassVar[Kind]
    name: ClassVar[str]
    """The kind in words."""
    command: ClassVar[str]
    """What makes such stores."""

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
        """Whether utterances have metadata."""
        return True

    @property
    def has_rejects(self) -> bool:
        """Whether the store is made of lines, of which some may be rejects."""
        return self.kind == "features"

    def to_json(self) -> dict[str, Any]:
        """Its fields of ``store.json`` and ``plan.json``."""
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            StoreError, KeyError, TypeError, ValueError: the document cannot be one.
        """
        return pick(cls, document)

    def differences(self, here: Self) -> list[str]:
        """How this identity, found in a folder, differs from `here`: a phrase a field."""
        return differing(self, here)

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
class FeatureIdentity(Identity):
    """What decides a feature store's bytes: what a frame is, and what else."""

    kind = "features"
    name = "feature store"
    command = "gmmpipe featurize"

    features: FrameSpec
    plan: PlanOptions | WriterPlan | ImportPlan

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
            "plan": self.plan.to_json(),
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
        if "source_sha256" in plan:
            return cls(features, pick(ImportPlan, plan))
        return cls(features, pick(WriterPlan, plan))

    def differences(self, here: Self) -> list[str]:
        """What differs; the windows are left out, since they become known only in a plan."""
        ours = differences(self.features.to_json(), here.features.to_json())
        there = self.plan
        if isinstance(there, PlanOptions) and isinstance(here.plan, PlanOptions):
            there = replace(there, windows_sha256=here.plan.windows_sha256)
        if type(there) is not type(here.plan):
            return ours or ["another command has made it"]
        return ours + differing(there, here.plan)


@dataclass(frozen=True)
class LabelIdentity(Identity):
    """What decides a label store's bytes.

    Args:
        source_sha256: of the feature store's ``store.json``.
        gmm_sha256: of the model file.
        K: components of the model.
        top_k: how many posteriors of a frame are kept; None where none are.
        temperature: of those posteriors.
        features: what a labelled frame is; None in stores of earlier versions, whose utterances
            have no metadata either.
        device: the kind of device that computed them, ``cpu`` or ``cuda``, or all kinds that did,
            ``cpu, cuda``; None in stores of earlier versions. No part of the identity, because
            labels are the same but for ties.

    Raises:
        ValueError: no labels can be so.
    """

    kind = "labels"
    name = "label store"
    command = "gmmpipe label"
    format = "tar"

    source_sha256: str
    gmm_sha256: str
    K: int
    top_k: int | None
    temperature: float
    features: FrameSpec | None = None
    device: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_sha256(self.source_sha256, self.gmm_sha256)
        if not 1 <= self.K <= MAX_COMPONENTS:
            raise ValueError(f"K is {self.K}")
        if self.top_k is not None and not 1 <= self.top_k <= self.K:
            raise ValueError(f"top_k is {self.top_k} of K = {self.K}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}")

    @property
    def has_json(self) -> bool:
        """Whether utterances have the metadata of the feature store."""
        return self.features is not None

    def to_json(self) -> dict[str, Any]:
        """Its fields of ``store.json`` and ``plan.json``."""
        values = {"kind": self.kind, **vars(self)}
        if self.features is not None:
            values["features"] = self.features.to_json()
        stated = {"features", "device"}
        return {name: v for name, v in values.items() if v is not None or name not in stated}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        plain = {name: value for name, value in document.items() if name != "features"}
        features = spec_from_json(document["features"]) if "features" in document else None
        return replace(pick(cls, plain), features=features)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The most likely component of a frame, and the k most likely ones with posteriors."""
        labels = Column(LABELS, "uint16", 1, flat=True, max_bits=self.K - 1)
        if self.top_k is None:
            return (labels,)
        return (
            labels,
            Column(TOPK_IDS, "uint16", self.top_k, max_bits=self.K - 1),
            # Probabilities within 0 and 1 are in the order of their bits.
            Column(TOPK_PROBS, "float16", self.top_k, max_bits=_ONE),
        )


_BY_KIND: dict[str, type[Identity]] = {"features": FeatureIdentity, "labels": LabelIdentity}


def kind_of_identity(document: dict[str, Any], path: Path) -> type[Identity]:
    """What the identity in a document is of; StoreError where its kind is not known here."""
    kind = str(document.get("kind"))
    if kind not in _BY_KIND:
        raise StoreError(f"{path}: a store of {kind:.80}, which is not known here")
    return _BY_KIND[kind]


def find_identity(folder: Path) -> Identity | None:
    """What the store in `folder`, finished or not, was made with; None where no document says so.

    That of an unfinished feature store is in its plan, which is not read here.

    Raises:
        StoreError: a document that says so is damaged, or of no kind that is known.
    """
    for name in (STORE_FILE, REOPENED_FILE, IDENTITY_FILE):
        path = folder / name
        if path.exists():
            document = read_document(path)
            return kind_of_identity(document, path).of(document, path)
    return None


def differing(there: Any, here: Any) -> list[str]:
    """What differs between two dataclasses of a type, one phrase a field that is compared."""
    return [
        f"{f.name} is {getattr(there, f.name)} there and {getattr(here, f.name)} here"
        for f in fields(there)
        if f.compare and getattr(there, f.name) != getattr(here, f.name)
    ]

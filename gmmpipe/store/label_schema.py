"""The label store on disk: ``store.json``, the sidecars, and ``plan.json`` while it is unfinished.

Shards are named as those of the feature store that they label, and hold the same keys in the same
order. Version 1, as frozen as `gmmpipe.store.schema`.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gmmpipe.errors import StoreError
from gmmpipe.store.columns import Column
from gmmpipe.store.documents import (
    FORMAT_VERSION,
    parse_document,
    pick,
    read_document,
    read_document_bytes,
    write_document,
)
from gmmpipe.store.schema import (
    LABEL_PLAN_FILE,
    REOPENED_FILE,
    STORE_FILE,
    ShardRow,
    check_rows,
    check_sha256,
    sidecar_row,
)
from gmmpipe.store.shard_index import ShardIndex

LABELS, TOPK_IDS, TOPK_PROBS = "labels", "topk_ids", "topk_probs"
"""The columns of a label store."""
_ONE = 0x3C00
"""The bits of 1 in float16."""
MAX_COMPONENTS = 1 << 16
"""More cannot be numbered in uint16."""


@dataclass(frozen=True)
class LabelPlan:
    """What decides a label store's bytes.

    Args:
        source_sha256: of the feature store's ``store.json``.
        gmm_sha256: of the model file.
        K: components of the model.
        top_k: how many posteriors of a frame are kept; None where none are.
        temperature: of those posteriors.

    Raises:
        ValueError: no labels can be so.
    """

    source_sha256: str
    gmm_sha256: str
    K: int
    top_k: int | None
    temperature: float

    def __post_init__(self) -> None:
        check_sha256(self.source_sha256, self.gmm_sha256)
        if not 1 <= self.K <= MAX_COMPONENTS:
            raise ValueError(f"K is {self.K}")
        if self.top_k is not None and not 1 <= self.top_k <= self.K:
            raise ValueError(f"top_k is {self.top_k} of K = {self.K}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}")

    @property
    def columns(self) -> tuple[Column, ...]:
        """The arrays that each utterance has."""
        labels = Column(LABELS, "uint16", 1, flat=True, max_bits=self.K - 1)
        if self.top_k is None:
            return (labels,)
        return (
            labels,
            Column(TOPK_IDS, "uint16", self.top_k, max_bits=self.K - 1),
            # Probabilities within 0 and 1 are in the order of their bits.
            Column(TOPK_PROBS, "float16", self.top_k, max_bits=_ONE),
        )

    def differences(self, other: "LabelPlan") -> list[str]:
        """What differs from `other`, one phrase a field."""
        return [
            f"{f.name} is {getattr(self, f.name)} there and {getattr(other, f.name)} here"
            for f in fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        ]

    def to_json(self) -> dict[str, Any]:
        """The fields, and what kind of document has them."""
        return {"format_version": FORMAT_VERSION, "kind": "labels", **asdict(self)}

    def write(self, path: Path) -> None:
        """Publish the plan as `path`."""
        write_document(path, self.to_json())

    @classmethod
    def of(cls, document: dict[str, Any], path: Path) -> "LabelPlan":
        """The plan in the content of ``plan.json`` or ``store.json``; `path` names it in errors.

        Raises:
            StoreError: it is damaged or of another kind of store.
        """
        if document.get("kind") != "labels":
            raise StoreError(f"{path}: of a store of {document.get('kind')}, not of labels")
        try:
            return pick(cls, document)
        except (TypeError, ValueError) as error:
            raise StoreError(f"{path}: not of a label store: {error}") from error


def find_label_plan(folder: Path) -> LabelPlan | None:
    """What a label store in `folder`, finished or not, is made by; None where nothing says so.

    Raises:
        StoreError: what says so is damaged, or of another kind of store.
    """
    for name in (STORE_FILE, REOPENED_FILE, LABEL_PLAN_FILE):
        if (folder / name).exists():
            return LabelPlan.of(read_document(folder / name), folder / name)
    return None


@dataclass(frozen=True)
class LabelSidecar:
    """``shard-000000.json``: its presence says that the shard beside it is complete.

    Args:
        row: what ``store.json`` says of the shard.
        indices: where each utterance's array of each name lies; keys and frame counts are shared.
        left_out: Σ over the shard's frames of the posterior mass beyond the top k, to nine digits;
            None where none are kept.
    """

    row: ShardRow
    indices: dict[str, ShardIndex]
    left_out: float | None

    def write(self, path: Path) -> None:
        """Publish the sidecar as `path`."""
        document = {
            "format_version": FORMAT_VERSION,
            "kind": "labels",
            **self.row.of_itself(),
            "index": self.indices[LABELS].to_json(),
            "left_out": self.left_out,
        }
        for name in self.indices.keys() - {LABELS}:
            columns = self.indices[name].to_json()
            document[f"{name}_index"] = {n: columns[n] for n in ("byte_offset", "crc32c")}
        write_document(path, document)

    @classmethod
    def read(cls, path: Path) -> "LabelSidecar":
        """Read and check a sidecar; its row has the SHA-256 of its bytes.

        Raises:
            StoreError: it is missing, damaged, or not a label store's sidecar of this version and
                this name.
        """
        content = read_document_bytes(path)
        document = parse_document(content, path)
        try:
            indices = {LABELS: ShardIndex.from_json(document["index"])}
            for name in (TOPK_IDS, TOPK_PROBS):
                if places := document.get(f"{name}_index"):
                    own = {column: places[column] for column in ("byte_offset", "crc32c")}
                    indices[name] = ShardIndex.from_json({**document["index"], **own})
            row = sidecar_row(document, content, path)
            row.check_index(indices[LABELS])
            return cls(row, indices, pick(_LeftOut, document).left_out)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{path}: not a sidecar of labels: {error!r}") from error


@dataclass(frozen=True)
class _LeftOut:
    """The field of a sidecar, by its type."""

    left_out: float | None


@dataclass(frozen=True)
class LabelTotals:
    """Sums over a label store; `left_out_mass` is a mean over its frames, None without top k."""

    utterances: int
    frames: int
    bytes: int
    left_out_mass: float | None


@dataclass(frozen=True)
class LabelInfo:
    """``store.json`` of a label store: written last; a folder without it is unfinished."""

    plan: LabelPlan
    totals: LabelTotals
    shards: list[ShardRow]

    @classmethod
    def over(cls, plan: LabelPlan, sidecars: Iterable[LabelSidecar]) -> "LabelInfo":
        """What the sidecars come to; no more than a row of each is kept."""
        rows: list[ShardRow] = []
        left_out: list[float] = []
        for sidecar in sidecars:
            rows.append(sidecar.row)
            if sidecar.left_out is not None:
                left_out.append(sidecar.left_out)
        frames = sum(row.frames for row in rows)
        totals = LabelTotals(
            utterances=sum(row.utterances for row in rows),
            frames=frames,
            bytes=sum(row.bytes for row in rows),
            left_out_mass=math.fsum(left_out) / max(1, frames) if plan.top_k else None,
        )
        return cls(plan, totals, rows)

    def write(self, path: Path) -> None:
        """Publish the document as `path`."""
        document = {
            **self.plan.to_json(),
            "totals": asdict(self.totals),
            "shards": [row.to_json() for row in self.shards],
        }
        write_document(path, document)

    @classmethod
    def read(cls, path: Path) -> "LabelInfo":
        """Read and check ``store.json``.

        Raises:
            StoreError: it is missing, damaged, of another version or of another kind of store, or
                its totals are not those of its shards.
        """
        document = read_document(path)
        plan = LabelPlan.of(document, path)
        try:
            totals = pick(LabelTotals, document["totals"])
            rows = [pick(ShardRow, row) for row in document["shards"]]
            frame_bytes = sum(column.frame_bytes for column in plan.columns)
            check_rows(rows, totals.utterances, totals.frames, totals.bytes, frame_bytes)
            return cls(plan, totals, rows)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{path}: not a label store: {error!r}") from error

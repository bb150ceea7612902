"""``shard-000000.json``, the sidecar of a shard, and the row that ``store.json`` has of it."""

import hashlib
import re
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gmmpipe.errors import StoreError
from gmmpipe.store.documents import (
    FORMAT_VERSION,
    MAX_INT,
    checked,
    parse_document,
    pick,
    read_document_bytes,
    write_document,
)
from gmmpipe.store.names import Kind, is_shard_name
from gmmpipe.store.rejects import Reject, Tally
from gmmpipe.store.shard_index import ShardIndex

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FURTHER = "_index"
"""A sidecar's ``index`` is of the first column, ``topk_ids_index`` of a further one."""


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

    @property
    def counts(self) -> Tally:
        """What it adds to the totals of its store, beyond lines and seconds."""
        return Tally(utterances=self.utterances, frames=self.frames, bytes=self.bytes)

    def of_itself(self) -> dict[str, Any]:
        """The fields that the sidecar repeats."""
        fields_there = asdict(self)
        del fields_there["sidecar_sha256"]
        return fields_there

    def to_json(self) -> dict[str, Any]:
        """The fields that ``store.json`` has."""
        return self.of_itself() if self.sidecar_sha256 is None else asdict(self)

    def is_of(self, recorded: "ShardRow") -> bool:
        """Whether this row, read from a sidecar, is the one that ``store.json`` records."""
        same = self if recorded.sidecar_sha256 else replace(self, sidecar_sha256=None)
        return same == recorded


def check_sha256(*digests: str | None) -> None:
    """Raise ValueError for a digest that is not a SHA-256 in hexadecimal digits; None may pass."""
    for digest in digests:
        if digest is not None and not _SHA256.fullmatch(digest):
            raise ValueError(f"{digest[:80]!r} is no SHA-256")


@dataclass(frozen=True)
class Sidecar:
    """``shard-000000.json``: its presence says that the shard beside it is complete.

    Args:
        kind: of the store.
        row: what ``store.json`` says of the shard.
        index: where the arrays of the first column lie.
        further: where those of the other columns lie, by the columns' names.
        tally: what the shard's lines came to; of labels, the counts of its row alone.
        rejects: of features: the shard's lines that gave none.
        left_out: of labels: Σ over the frames of the posterior mass beyond the top k, to nine
            digits; None where none are kept.
    """

    kind: Kind
    row: ShardRow
    index: ShardIndex
    further: dict[str, ShardIndex] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    rejects: list[Reject] = field(default_factory=list)
    left_out: float | None = None

    @property
    def indices(self) -> list[ShardIndex]:
        """Those of all columns, in their order."""
        return [self.index, *self.further.values()]

    def write(self, path: Path) -> None:
        """Publish the sidecar as `path`."""
        document: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            **self.row.of_itself(),
            "index": self.index.to_json(),
        }
        for name, index in self.further.items():
            columns = index.to_json()
            document[name + _FURTHER] = {n: columns[n] for n in ("byte_offset", "crc32c")}
        if self.kind == "labels":
            document |= {"kind": self.kind, "left_out": self.left_out}
        else:
            rejects = [asdict(reject) for reject in self.rejects]
            document |= {"tally": asdict(self.tally), "rejects": rejects}
        write_document(path, document)

    @classmethod
    def read(cls, path: Path, kind: Kind) -> "Sidecar":
        """Read and check a sidecar of a store of `kind`; its row has the SHA-256 of its bytes.

        Raises:
            StoreError: it is missing, damaged, or not a sidecar of this version, kind and name.
        """
        content = read_document_bytes(path)
        document = parse_document(content, path)
        try:
            if document.get("kind", "features") != kind:
                raise ValueError(f"it is of {document['kind']}")
            row = replace(
                pick(ShardRow, document), sidecar_sha256=hashlib.sha256(content).hexdigest()
            )
            if row.name.partition(".")[0] != path.stem:
                raise StoreError(f"{path}: damaged: it is that of {row.name}")
            sidecar = cls(
                kind,
                row,
                ShardIndex.from_json(document["index"]),
                _read_further(document),
                **(_read_labels(document, row) if kind == "labels" else _read_lines(document)),
            )
            sidecar._check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{path}: not a sidecar of {kind}: {error!r}") from error
        return sidecar

    def _check(self) -> None:
        tally, row = self.tally, self.row
        counts = len(self.index.keys), int(self.index.frame_offset[-1])
        if counts != (row.utterances, row.frames):
            raise ValueError("an index of {} utterances and {} frames".format(*counts))
        reasons = Counter(reject.reason for reject in self.rejects)
        if (tally.utterances, tally.frames, tally.bytes) != (row.utterances, row.frames, row.bytes):
            raise ValueError("a tally of other counts than the shard's")
        if (tally.rejects, tally.rejects_by_reason) != (len(self.rejects), dict(reasons)):
            raise ValueError("a tally of other rejects than are listed")


def _read_further(document: dict[str, Any]) -> dict[str, ShardIndex]:
    """The indices of all columns but the first, whose keys and frame counts they share."""
    further = {}
    for field_name in sorted(document):
        if field_name.endswith(_FURTHER):
            own = {column: document[field_name][column] for column in ("byte_offset", "crc32c")}
            shared = {column: document["index"][column] for column in ("keys", "num_frames")}
            name = field_name.removesuffix(_FURTHER)
            further[name] = ShardIndex.from_json({**shared, **own})
    return further


def _read_lines(document: dict[str, Any]) -> dict[str, Any]:
    rejects = [pick(Reject, reject) for reject in document["rejects"]]
    return {"tally": pick(Tally, document["tally"]), "rejects": rejects}


def _read_labels(document: dict[str, Any], row: ShardRow) -> dict[str, Any]:
    left_out = checked("left_out", document["left_out"], float | None)
    return {"tally": row.counts, "left_out": left_out}

"""``store.json``: what a store was made with, and what its sidecars come to together.

Version 1, as frozen as `gmmpipe.store.schema`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Generic

from gmmpipe.errors import StoreError
from gmmpipe.store.documents import (
    FORMAT_VERSION,
    MAX_INT,
    checked,
    pick,
    read_document,
    write_document,
)
from gmmpipe.store.names import Kind, shard_stem
from gmmpipe.store.rejects import Reject, Tally
from gmmpipe.store.schema import FeatureIdentity, I, LabelIdentity, kind_of_identity
from gmmpipe.store.sidecar import ShardRow, Sidecar, check_sha256

_COUNTS = ("utterances", "frames", "bytes")
"""What rows and totals both have."""


@dataclass(frozen=True)
class Sums:
    """What the sidecars of a store come to; no more than a row of each is kept.

    Args:
        shards: a row each.
        tally: what their lines came to.
        left_out_mass: of labels, the mean over the frames of the posterior mass beyond the top k;
            None where none are kept.
    """

    shards: list[ShardRow]
    tally: Tally
    left_out_mass: float | None = None

    @classmethod
    def over(
        cls,
        kind: Kind,
        sidecars: Iterable[Path],
        on_reject: Callable[[Reject], object] = lambda reject: None,
    ) -> "Sums":
        """Sum sidecars up; `on_reject` gets each line that gave no features.

        A line that is split into windows is a reject once all of them are.
        """
        rows: list[ShardRow] = []
        tallies: list[Tally] = []
        left_out: list[float] = []
        reasons: Counter[str] = Counter()
        failed_windows: Counter[int] = Counter()
        for path in sidecars:
            sidecar = Sidecar.read(path, kind)
            rows.append(sidecar.row)
            tallies.append(sidecar.tally)
            if sidecar.left_out is not None:
                left_out.append(sidecar.left_out)
            for reject in sidecar.rejects:
                if reject.num_windows > 1:
                    failed_windows[reject.ordinal] += 1
                    if failed_windows[reject.ordinal] < reject.num_windows:
                        continue  # another window may give features
                on_reject(reject)
                reasons[reject.reason] += 1
        tally = Tally.total(tallies)
        tally = replace(tally, rejects=reasons.total(), rejects_by_reason=dict(reasons))
        mass = math.fsum(left_out) / max(1, tally.frames) if left_out else None
        return cls(rows, tally, mass)


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
        if self.identity.has_rejects:
            document["rejects_sha256"] = self.rejects_sha256
        write_document(path, document)

    def _totals(self) -> dict[str, Any]:
        tally = self.tally
        if self.identity.kind == "features":
            return {**asdict(tally), "seconds_in": round(tally.seconds_in, 6)}
        counts = {name: getattr(tally, name) for name in _COUNTS}
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
                mass = checked("left_out_mass", totals["left_out_mass"], float | None)
            rows = [pick(ShardRow, row) for row in document["shards"]]
            digest = document.get("rejects_sha256")
            info = cls(rows, pick(Tally, totals), mass, identity=whose, rejects_sha256=digest)
            info._check()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{path}: not a {whose.name}: {error!r}") from error
        return info

    def _check(self) -> None:
        """Raise ValueError if the rows are not those of consecutive shards that come to the totals.

        Nor may a shard have fewer bytes than its frames take.
        """
        rows, tally = self.shards, self.tally
        check_sha256(self.rejects_sha256)
        frame_bytes = sum(column.frame_bytes for column in self.identity.columns)
        if any(row.frames * frame_bytes > row.bytes for row in rows):
            raise ValueError("a shard of fewer bytes than its frames take")
        if any(row.name.partition(".")[0] != shard_stem(number) for number, row in enumerate(rows)):
            raise ValueError("a shard's row is missing, or out of order")
        totals = [tally.utterances, tally.frames, tally.bytes]
        sums = [sum(getattr(row, name) for row in rows) for name in _COUNTS]
        if sums != totals or tally.bytes > MAX_INT:
            said = "{} utterances, {} frames and {} bytes".format(*totals)
            raise ValueError(f"its totals of {said} are not the sums of its shards")
        if sum(tally.rejects_by_reason.values()) != tally.rejects:
            raise ValueError("its rejects are not the sum of those by reason")


FeatureInfo = StoreInfo[FeatureIdentity]
"""``store.json`` of a feature store."""
LabelInfo = StoreInfo[LabelIdentity]
"""``store.json`` of a label store."""


def read_store_info(path: Path) -> StoreInfo[Any]:
    """The ``store.json`` of a store of either kind.

    Raises:
        StoreError: it is missing or damaged.
    """
    return StoreInfo.read(path, kind_of_identity(read_document(path), path))

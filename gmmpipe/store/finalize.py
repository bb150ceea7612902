"""The end of stage 1: all sidecars to ``rejects.jsonl`` and ``store.json``."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from gmmpipe.errors import StoreError
from gmmpipe.features import FeatureConfig
from gmmpipe.files import atomic_file, canonical_json, remove_temporaries
from gmmpipe.store.schema import (
    PLAN_FILE,
    REJECTS_FILE,
    STORE_FILE,
    PlanOptions,
    ShardRow,
    Sidecar,
    StoreInfo,
    Tally,
    shard_stem,
)


def missing_shards(folder: Path, num_shards: int) -> list[int]:
    """The numbers of the shards that have no sidecar yet."""
    present = {path.name for path in folder.glob("shard-*.json")}
    return [n for n in range(num_shards) if f"{shard_stem(n)}.json" not in present]


def finalize(
    folder: Path,
    num_shards: int,
    features: FeatureConfig,
    plan: PlanOptions,
    max_reject_fraction: float,
) -> StoreInfo:
    """Publish the store: a pure function of its sidecars, so any process may do it, even twice.

    The reject ledger is written first, so that it can be read when the limit refuses the store.

    Raises:
        StoreError: nothing was usable, or more than `max_reject_fraction` of the lines were not.
    """
    rows: list[ShardRow] = []

    def tallies() -> Iterator[Tally]:
        with atomic_file(folder / REJECTS_FILE) as ledger:
            for number in range(num_shards):
                sidecar = Sidecar.read(folder / f"{shard_stem(number)}.json")
                for reject in sidecar.rejects:
                    ledger.write(canonical_json(asdict(reject)).encode() + b"\n")
                rows.append(sidecar.row)
                yield sidecar.tally

    tally = Tally.total(tallies())
    if tally.utterances == 0:
        raise StoreError(f"{folder}: no usable audio: {_rejected(tally)}")
    if tally.rejects > max_reject_fraction * tally.lines:
        raise StoreError(
            f"{folder}: {_rejected(tally)}, more than --max_reject_fraction {max_reject_fraction} "
            f"allows; see {folder / REJECTS_FILE}. The shards stay: a rerun with a higher limit "
            "finishes at once"
        )
    info = StoreInfo(features, plan, tally, rows)
    info.write(folder / STORE_FILE)
    (folder / PLAN_FILE).unlink(missing_ok=True)
    remove_temporaries(folder)
    return info


def _rejected(tally: Tally) -> str:
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(tally.rejects_by_reason.items()))
    return f"{tally.rejects} of {tally.lines} lines were rejected" + (
        f" ({reasons})" if reasons else ""
    )

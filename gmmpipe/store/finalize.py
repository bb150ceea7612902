"""The end of stage 1: all sidecars to ``rejects.jsonl`` and ``store.json``."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from gmmpipe.errors import StoreError
from gmmpipe.features.spec import FrameSpec
from gmmpipe.files import atomic_file, remove
from gmmpipe.store.documents import read_document, write_document
from gmmpipe.store.label_schema import LabelInfo, LabelPlan, LabelSidecar
from gmmpipe.store.rejects import Reject, Tally
from gmmpipe.store.schema import (
    LABEL_PLAN_FILE,
    LINES_FOLDER,
    PLAN_FILE,
    REJECTS_FILE,
    REOPENED_FILE,
    STORE_FILE,
    PlanOptions,
    ShardRow,
    Sidecar,
    StoreInfo,
    WriterPlan,
    is_shard_name,
    shard_stem,
)

log = logging.getLogger(__name__)


def reopen(folder: Path, shards: Iterable[str]) -> None:
    """Turn a store back into an unfinished one that lacks `shards`, to be made anew.

    Args:
        folder: the store, finished or not.
        shards: their file names; ``rejects.jsonl`` and ``store.json`` may be among them.

    Raises:
        StoreError: another name is among them; nothing is removed.
    """
    store, reopened, redo = folder / STORE_FILE, folder / REOPENED_FILE, sorted(shards)
    _refuse_others(folder, redo)
    if not store.exists():
        remove_shards(folder, redo)
        return
    write_document(reopened, {**read_document(store), "redo": redo})
    finish_reopening(folder)


def finish_reopening(folder: Path) -> None:
    """Remove what `reopen` meant to, had it not been killed; does nothing where it had ended."""
    reopened = folder / REOPENED_FILE
    document = read_document(reopened)
    if redo := document.get("redo"):
        _refuse_others(reopened, redo)
        (folder / STORE_FILE).unlink(missing_ok=True)
        remove_shards(folder, redo)
        write_document(reopened, {**document, "redo": []})


def _refuse_others(where: Path, names: Iterable[object]) -> None:
    for name in map(str, names):
        if name not in (STORE_FILE, REJECTS_FILE) and not is_shard_name(name):
            raise StoreError(f"{where}: {name} is no shard")


def remove_shards(folder: Path, shards: Iterable[str]) -> None:
    """Remove shards by their file names, with their sidecars; other files without."""
    for name in shards:
        path = folder / name
        if is_shard_name(name):
            path.with_suffix(".json").unlink(missing_ok=True)  # first: it is what says "complete"
        remove(path)


def missing_shards(folder: Path, num_shards: int, suffix: str) -> list[int]:
    """The numbers of the shards, named with `suffix`, that are not there with their sidecars."""
    present = {path.name for path in folder.glob("shard-*")}
    return [
        number
        for number in range(num_shards)
        if not {f"{shard_stem(number)}.json", f"{shard_stem(number)}{suffix}"} <= present
    ]


def remove_damaged(
    folder: Path,
    numbers: Iterable[int],
    suffix: str,
    read: Callable[[Path], object] = Sidecar.read,
) -> None:
    """Remove those shards whose sidecars `read` finds damaged, so that they count as missing."""
    for number in numbers:
        sidecar = folder / f"{shard_stem(number)}.json"
        if os.path.lexists(sidecar):
            try:
                read(sidecar)
            except StoreError as error:
                log.warning("warning: %s; its shard is made anew", error)
                remove_shards(folder, [f"{shard_stem(number)}{suffix}"])


def finalize(
    folder: Path,
    num_shards: int,
    features: FrameSpec,
    plan: PlanOptions | WriterPlan,
    max_reject_fraction: float,
    describe: Callable[[Reject], str] = lambda reject: reject.detail,
) -> StoreInfo:
    """Publish the store: a pure function of its sidecars, so any process may do it, even twice.

    The reject ledger is written first, so that it can be read when the limit refuses the store.

    Args:
        folder: the store.
        num_shards: how many shards it has.
        features: what a frame is.
        plan: what else decides its bytes.
        max_reject_fraction: how many of the lines may be rejects.
        describe: what to say of the first reject, where nothing is usable.

    Raises:
        StoreError: nothing was usable, or more than `max_reject_fraction` of the lines were not.
    """
    paths = [folder / f"{shard_stem(number)}.json" for number in range(num_shards)]
    digest = hashlib.sha256()
    first: list[Reject] = []
    with atomic_file(folder / REJECTS_FILE) as ledger:

        def write(reject: Reject) -> None:
            if not first:
                first.append(reject)
            ledger.write(reject.ledger_line())
            digest.update(reject.ledger_line())

        rows, tally = sum_up(paths, write)
    if tally.utterances == 0:
        details = "".join(f"; the first: {describe(reject)}" for reject in first)
        raise StoreError(f"{folder}: no usable audio: {_rejected(tally)}{details}")
    if tally.rejects > max_reject_fraction * tally.lines:
        raise StoreError(
            f"{folder}: {_rejected(tally)}, more than --max_reject_fraction {max_reject_fraction} "
            f"allows; see {folder / REJECTS_FILE}. The shards stay: a rerun with a higher limit "
            "finishes at once"
        )
    info = StoreInfo(features, plan, tally, rows, digest.hexdigest())
    info.write(folder / STORE_FILE)
    tidy(folder)
    return info


def sum_up(
    sidecars: Iterable[Path], on_reject: Callable[[Reject], object] = lambda reject: None
) -> tuple[list[ShardRow], Tally]:
    """The rows of shards, and what their lines came to.

    A line that is split into windows is a reject once all of them are. `on_reject` gets them all.
    """
    rows: list[ShardRow] = []
    tallies: list[Tally] = []
    reasons: Counter[str] = Counter()
    failed_windows: Counter[int] = Counter()
    for sidecar in map(Sidecar.read, sidecars):
        rows.append(sidecar.row)
        tallies.append(sidecar.tally)
        for reject in sidecar.rejects:
            if reject.num_windows > 1:
                failed_windows[reject.ordinal] += 1
                if failed_windows[reject.ordinal] < reject.num_windows:
                    continue  # another window may give features
            on_reject(reject)
            reasons[reject.reason] += 1
    tally = Tally.total(tallies)
    return rows, replace(tally, rejects=reasons.total(), rejects_by_reason=dict(reasons))


def finalize_labels(folder: Path, num_shards: int, plan: LabelPlan) -> LabelInfo:
    """Publish a label store: a pure function of its sidecars and plan."""
    paths = (folder / f"{shard_stem(number)}.json" for number in range(num_shards))
    info = LabelInfo.over(plan, map(LabelSidecar.read, paths))
    info.write(folder / STORE_FILE)
    tidy(folder)
    return info


def tidy(folder: Path) -> None:
    """Remove what only an unfinished store needs, from a finished one."""
    for leftover in (PLAN_FILE, LABEL_PLAN_FILE, REOPENED_FILE, LINES_FOLDER):
        remove(folder / leftover)


def _rejected(tally: Tally) -> str:
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(tally.rejects_by_reason.items()))
    return f"{tally.rejects} of {tally.lines} lines were rejected" + (
        f" ({reasons})" if reasons else ""
    )

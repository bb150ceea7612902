"""Reading every byte of a store: are the files still what was recorded, and none missing or new?"""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from gmmpipe.errors import StoreError
from gmmpipe.files import sha256_of_file
from gmmpipe.store import feature_store, label_store
from gmmpipe.store.feature_store import FeatureStore, Shard
from gmmpipe.store.finalize import sum_up
from gmmpipe.store.label_schema import (
    LabelInfo,
    LabelPlan,
    LabelSidecar,
)
from gmmpipe.store.label_store import LabelReader, LabelShard, LabelStore
from gmmpipe.store.rejects import Reject
from gmmpipe.store.schema import REJECTS_FILE, STORE_FILE, ShardRow, StoreInfo
from gmmpipe.store.shard_kinds import shard_file


def verify(store: FeatureStore | LabelStore) -> Iterator[tuple[Path, str]]:
    """Check each file of a store against what is recorded of it, and decode each sample.

    Args:
        store: opened as one folder.

    Yields:
        Each shard's path, with what is wrong with it or its sidecar, or an empty string; then
        ``rejects.jsonl`` or ``store.json``, if the sidecars say otherwise.
    """
    feature_store.forget_sidecars()
    label_store.forget_sidecars()
    whole = True
    if isinstance(store, FeatureStore):
        for shard in store.shards:
            fault = _fault(shard.path, shard.row, partial(_decode_features, shard))
            whole = whole and not fault
            yield shard.path, fault
    else:
        for labels in store.shards:
            decode = partial(_decode_labels, labels, store.plan)
            fault = _fault(labels.path, labels.row, decode)
            whole = whole and not fault
            yield labels.path, fault
    if whole and store.shards:
        sums = _check_sums if isinstance(store, FeatureStore) else _check_label_sums
        yield from sums(store.shards[0].path.parent)


def strangers(store: FeatureStore | LabelStore) -> list[Path]:
    """What lies in the folder of a store under a shard's or a sidecar's name, but is not its own.

    ``--repair`` leaves it alone: whose it is, nobody says.
    """
    if not store.shards:
        return []
    paths = [shard.path for shard in store.shards]
    own = {*paths, *(path.with_suffix(".json") for path in paths)}
    return sorted(path for path in paths[0].parent.glob("shard-*") if path not in own)


def _fault(path: Path, row: ShardRow, decode: Callable[[], None]) -> str:
    try:
        size = shard_file(path).size()  # first: a file of another size may be a very long one
        if size != row.bytes:
            return f"{size} bytes where {row.bytes} are recorded"
        if shard_file(path).sha256() != row.sha256:
            return "its SHA-256 is not the recorded one"
        decode()
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except StoreError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def _decode_features(shard: Shard) -> None:
    index = shard.sidecar().index
    block = 1 << 14
    for start in range(0, shard.row.frames, block):
        stop = min(start + block, shard.row.frames)
        shard.read_rows(
            start, stop, torch.empty(stop - start, shard.column.width, dtype=shard.dtype)
        )
    for _ in shard.file.read_metadata(index):
        pass
    shard.file.check_layout([shard.column], [index], has_json=True)


def _decode_labels(shard: LabelShard, plan: LabelPlan) -> None:
    LabelReader(shard, plan).read_arrays(0, shard.row.frames)
    indices = list(shard.sidecar().indices.values())
    shard_file(shard.path).check_layout(plan.columns, indices, has_json=False)


def _check_sums(folder: Path) -> Iterator[tuple[Path, str]]:
    """What the sidecars of a feature store come to, against ``store.json`` and the ledger."""
    info = StoreInfo.read(folder / STORE_FILE)
    ledger, ledger_bytes = hashlib.sha256(), 0

    def add(reject: Reject) -> None:
        nonlocal ledger_bytes
        ledger.update(reject.ledger_line())
        ledger_bytes += len(reject.ledger_line())

    paths = [(folder / row.name).with_suffix(".json") for row in info.shards]
    _, tally = sum_up(paths, add)
    if tally != info.tally:
        yield folder / STORE_FILE, "its totals are not what its sidecars come to"
    path = folder / REJECTS_FILE
    try:
        found = path.stat().st_size == ledger_bytes and sha256_of_file(path)
    except FileNotFoundError:
        yield path, "missing"
    except OSError as error:
        yield path, f"cannot be read: {error.strerror}"
    else:
        recorded = info.rejects_sha256 or ledger.hexdigest()
        if not found == recorded == ledger.hexdigest():
            yield path, "not the rejects that its sidecars list"


def _check_label_sums(folder: Path) -> Iterator[tuple[Path, str]]:
    """What the sidecars of a label store come to, against ``store.json``."""
    info = LabelInfo.read(folder / STORE_FILE)
    paths = ((folder / row.name).with_suffix(".json") for row in info.shards)
    if LabelInfo.over(info.plan, map(LabelSidecar.read, paths)).totals != info.totals:
        yield folder / STORE_FILE, "its totals are not what its sidecars come to"

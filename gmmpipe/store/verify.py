"""Reading every byte of a store, to compare its files with what is recorded of them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from gmmpipe.errors import StoreError
from gmmpipe.files import sha256_of_file
from gmmpipe.store.feature_store import FeatureStore
from gmmpipe.store.label_store import LabelStore
from gmmpipe.store.names import REJECTS_FILE, STORE_FILE, kind_of, sidecar_name
from gmmpipe.store.rejects import Reject
from gmmpipe.store.shard import Shard, forget_sidecars
from gmmpipe.store.shard_reader import ShardReader
from gmmpipe.store.store_info import Sums, read_store_info

BLOCK_FRAMES = 1 << 14
"""Frames decoded at once."""


def open_store(folder: Path) -> FeatureStore | LabelStore:
    """A finished store of either kind.

    Raises:
        StoreError: it is missing, unfinished or damaged.
    """
    return LabelStore.open(folder) if kind_of(folder) == "labels" else FeatureStore.open(folder)


def verify(store: FeatureStore | LabelStore) -> Iterator[tuple[Path, str]]:
    """Check each file of a store against what is recorded of it, and decode each sample.

    Args:
        store: opened as one folder.

    Yields:
        Each shard's path, with what is wrong with it or its sidecar, or an empty string; then
        ``rejects.jsonl`` or ``store.json``, if the sidecars say otherwise.
    """
    forget_sidecars()
    whole = True
    for shard in store.shards:
        fault = _fault(shard)
        whole = whole and not fault
        yield shard.path, fault
    if whole and store.shards:
        yield from _check_sums(store.shards[0].path.parent)


def strangers(store: FeatureStore | LabelStore) -> list[Path]:
    """What lies in the folder of a store under a shard's or a sidecar's name, but is not its own.

    ``--repair`` leaves it alone, because no document says whose it is.
    """
    if not store.shards:
        return []
    paths = [shard.path for shard in store.shards]
    own = {*paths, *(path.with_suffix(".json") for path in paths)}
    return sorted(path for path in paths[0].parent.glob("shard-*") if path not in own)


def _fault(shard: Shard) -> str:
    """What is wrong with a shard or its sidecar; empty if nothing is."""
    try:
        size = shard.file.size()  # before the digest: the file may be a very long one
        if size != shard.row.bytes:
            return f"{size} bytes where {shard.row.bytes} are recorded"
        if shard.file.sha256() != shard.row.sha256:
            return "its SHA-256 is not the recorded one"
        _decode(shard)
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except StoreError as error:
        return str(error).removeprefix(f"{shard.path}: ")
    return ""


def _decode(shard: Shard) -> None:
    """Read all arrays and metadata, and compare the shard's layout with its indices."""
    reader = ShardReader(shard)
    for start in range(0, shard.row.frames, BLOCK_FRAMES):
        reader.read_arrays(start, min(start + BLOCK_FRAMES, shard.row.frames))
    made = shard.identity
    if made.has_json:
        for _ in shard.read_metadata():
            pass
    shard.file.check_layout(made.columns, shard.sidecar().indices, made.has_json)


def _check_sums(folder: Path) -> Iterator[tuple[Path, str]]:
    """What the sidecars of a store come to, against ``store.json`` and the list of rejects."""
    info = read_store_info(folder / STORE_FILE)
    digest, num_bytes = hashlib.sha256(), 0

    def add(reject: Reject) -> None:
        nonlocal num_bytes
        digest.update(reject.to_line())
        num_bytes += len(reject.to_line())

    paths = (folder / sidecar_name(row.name) for row in info.shards)
    sums = Sums.over(info.identity.kind, paths, add)
    if (sums.tally, sums.left_out_mass) != (info.tally, info.left_out_mass):
        yield folder / STORE_FILE, "its totals are not what its sidecars come to"
    if not info.identity.has_rejects:
        return
    path = folder / REJECTS_FILE
    try:
        found = path.stat().st_size == num_bytes and sha256_of_file(path)
    except FileNotFoundError:
        yield path, "missing"
    except OSError as error:
        yield path, f"cannot be read: {error.strerror}"
    else:
        recorded = info.rejects_sha256 or digest.hexdigest()
        if not found == recorded == digest.hexdigest():
            yield path, "not the rejects that its sidecars list"

"""Turning a finished store back into an unfinished one, so that some shards are made anew."""

from collections.abc import Iterable
from pathlib import Path

from gmmpipe.errors import StoreError
from gmmpipe.files import remove
from gmmpipe.store.documents import read_document, write_document
from gmmpipe.store.names import (
    REJECTS_FILE,
    REOPENED_FILE,
    STORE_FILE,
    is_shard_name,
    sidecar_name,
)


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


def finish_reopening(folder: Path) -> bool:
    """Finish a `reopen` that was killed; whether the store is reopened."""
    reopened = folder / REOPENED_FILE
    if not reopened.exists():
        return False
    document = read_document(reopened)
    if redo := document.get("redo"):
        _refuse_others(reopened, redo)
        (folder / STORE_FILE).unlink(missing_ok=True)
        remove_shards(folder, redo)
        write_document(reopened, {**document, "redo": []})
    return True


def _refuse_others(where: Path, names: Iterable[object]) -> None:
    for name in map(str, names):
        if name not in (STORE_FILE, REJECTS_FILE) and not is_shard_name(name):
            raise StoreError(f"{where}: {name} is no shard")


def remove_shards(folder: Path, shards: Iterable[str]) -> None:
    """Remove shards by their file names, with their sidecars; other files without."""
    for name in shards:
        if is_shard_name(name):
            # The sidecar goes first, because it says that the shard is complete.
            (folder / sidecar_name(name)).unlink(missing_ok=True)
        remove(folder / name)

"""A new store in an old one's place: made whole in a hidden folder, then swapped in.

The old store stays until the new one is whole. The swap is written down before it begins, so that
the next command finishes one that was killed. Only files that the old store's documents name are
deleted.
"""

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gmmpipe.claim import claim_folder
from gmmpipe.errors import StoreError
from gmmpipe.files import remove, sync
from gmmpipe.store.documents import FORMAT_VERSION, read_document, write_document
from gmmpipe.store.names import (
    IDENTITY_FILE,
    PLAN_FILE,
    REJECTS_FILE,
    REOPENED_FILE,
    STORE_FILE,
    is_shard_name,
    kind_of,
    sidecar_name,
)

log = logging.getLogger(__name__)
NEXT_FOLDER = ".next"
"""The hidden folder in which a store is made that is to replace the one around it."""
SWAP_FILE = ".swap.json"
"""Names the files to remove and those to move in; it is written once the new store is whole."""
_DOCUMENTS = {
    "features": (STORE_FILE, REOPENED_FILE, PLAN_FILE, REJECTS_FILE),
    "labels": (STORE_FILE, REOPENED_FILE, IDENTITY_FILE),
}
DOCUMENTS = {name for documents in _DOCUMENTS.values() for name in documents}
"""Of stores of any kind."""


def own_files(folder: Path, kind: str, planned: Iterable[str] | None) -> set[str]:
    """The names of the files of the store in `folder`, finished or not; none without a store.

    Args:
        folder: what may hold a store.
        kind: ``features`` or ``labels``: what it must be of.
        planned: the shards that its plan names, where it is unfinished; None where it has no plan,
            or one that cannot be read, which alone is not taken for a store's.

    Raises:
        StoreError: it is of another kind, or a document that would say more is damaged.
    """
    try:
        found = kind_of(folder)
        if found is None:
            return set()
        shards = {*(planned or ()), *_named_by_sidecars(folder)}
        documents = [name for name in (STORE_FILE, REOPENED_FILE) if (folder / name).exists()]
        for name in documents:
            shards |= {row["name"] for row in read_document(folder / name)["shards"]}
        if planned is None and not shards and not documents:
            return set()
        if not all(isinstance(name, str) and is_shard_name(name) for name in shards):
            raise StoreError(f"{folder / STORE_FILE}: names what is no shard")
    except (StoreError, KeyError, TypeError) as error:
        raise StoreError(
            f"{folder}: --overwrite cannot tell which files are the old store's: {error}; nothing "
            "is deleted: do it by hand, or use another --output_dir"
        ) from error
    if found != kind:
        raise StoreError(f"{folder}: holds a store of {found}; use another --output_dir")
    identity = folder / IDENTITY_FILE  # that of a `FeatureStoreWriter`, or a file of the user's
    own = {IDENTITY_FILE} if identity.exists() and _kind_in(identity) == kind else set()
    return {*_DOCUMENTS[kind], *own, *shards, *map(sidecar_name, shards)}


def _kind_in(path: Path) -> object:
    """The kind of store that a document is of; None where it is not one of ours."""
    with suppress(StoreError):
        return read_document(path).get("kind")
    return None


def refuse_strangers(folder: Path, own: set[str], shards: Iterable[str], kind: str) -> None:
    """Make sure that a new store of these shards and kind replaces only files in `own`.

    Raises:
        StoreError: it would.
    """
    names = list(shards)
    results = [n for n in (STORE_FILE, REJECTS_FILE, PLAN_FILE) if n in _DOCUMENTS[kind]]
    for name in [*names, *map(sidecar_name, names), *results]:
        if name not in own and os.path.lexists(folder / name):
            raise StoreError(
                f"{folder / name}: in the new store's way, and no document of an old one names it; "
                "move it away, or use another --output_dir"
            )


def put_in_place(folder: Path, own: set[str]) -> None:
    """Replace the store in `folder`, whose files are `own`, by the one that is made in it."""
    made = folder / NEXT_FOLDER
    shards = [row["name"] for row in read_document(made / STORE_FILE)["shards"]]
    coming = [*shards, *map(sidecar_name, shards), REJECTS_FILE, STORE_FILE]
    coming = [name for name in coming if (made / name).exists()]
    swap = {"format_version": FORMAT_VERSION, "going": sorted(own), "coming": coming}
    write_document(folder / SWAP_FILE, swap)
    _swap(folder)


def finish_swap(folder: Path, what: str) -> bool:
    """Finish the replacement of a store that was interrupted: whether there was one.

    Args:
        folder: the output folder.
        what: this process's work in words.

    Raises:
        ClaimError: another process is at work there.
    """
    if not (folder / SWAP_FILE).exists():
        return False
    with claim_folder(folder, "", what, alone=True):
        if (folder / SWAP_FILE).exists():  # still: another process may have finished it meanwhile
            _swap(folder)
    log.info("%s: the replacement of the old store, once interrupted, is finished", folder)
    return True


def _swap(folder: Path) -> None:
    """Do what remains of the swap that is written down.

    A file that has come already is no longer in the hidden folder, and stays.
    """
    made = folder / NEXT_FOLDER
    swap = read_document(folder / SWAP_FILE)
    coming = _names(swap, "coming", folder)
    if (made / STORE_FILE).exists():
        (folder / STORE_FILE).unlink(missing_ok=True)  # unfinished, from here on
    for name in set(_names(swap, "going", folder)) - set(coming):
        remove(folder / name)
    for name in coming:
        if os.path.lexists(made / name):
            if name == STORE_FILE:
                sync(folder)
            if (folder / name).is_dir():
                remove(folder / name)
            os.replace(made / name, folder / name)
    sync(folder)
    remove(made)
    (folder / SWAP_FILE).unlink(missing_ok=True)


def _names(swap: dict[str, Any], field: str, folder: Path) -> list[str]:
    names = swap.get(field)
    if not isinstance(names, list) or any(Path(str(name)).name != name for name in names):
        raise StoreError(f"{folder / SWAP_FILE}: damaged: it names no files of this folder")
    return names


def _named_by_sidecars(folder: Path) -> set[str]:
    """The shards whose sidecars can be read."""
    shards = set()
    for path in folder.glob("shard-*.json"):
        try:
            name = str(read_document(path).get("name"))
        except StoreError:
            continue
        if sidecar_name(name) == path.name:
            shards.add(name)
    return shards

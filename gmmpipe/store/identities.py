"""What says what a store of either kind was made with."""

from pathlib import Path
from typing import Any

from gmmpipe.errors import StoreError
from gmmpipe.store.documents import read_document
from gmmpipe.store.label_schema import LabelIdentity
from gmmpipe.store.names import IDENTITY_FILE, REOPENED_FILE, STORE_FILE
from gmmpipe.store.schema import FeatureIdentity, Identity, StoreInfo

_BY_KIND: dict[str, type[Identity]] = {"features": FeatureIdentity, "labels": LabelIdentity}


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
            return _identity_of(document, path).of(document, path)
    return None


def read_store_info(path: Path) -> StoreInfo[Any]:
    """The ``store.json`` of a store of either kind.

    Raises:
        StoreError: it is missing or damaged.
    """
    return StoreInfo.read(path, _identity_of(read_document(path), path))


def _identity_of(document: dict[str, Any], path: Path) -> type[Identity]:
    kind = str(document.get("kind"))
    if kind not in _BY_KIND:
        raise StoreError(f"{path}: a store of {kind:.80}, which is not known here")
    return _BY_KIND[kind]

"""The names of the files of a store, and what a folder holds by its files' names."""

import re
from pathlib import Path
from typing import Literal

from gmmpipe.store.documents import read_document

Kind = Literal["features", "labels"]
"""What a store holds."""
Format = Literal["tar", "zarr"]
SHARD_SUFFIXES: dict[str, str] = {"tar": ".tar", "zarr": ".zarr"}
"""How the names of shards end, by their format."""

STORE_FILE = "store.json"
REJECTS_FILE = "rejects.jsonl"
PLAN_FILE = "plan.npz"
"""The plan of an unfinished store that `featurize` makes."""
LINES_FOLDER = "plan.lines"
"""Beside that plan: the plain lines of manifests that are not plain files."""
IDENTITY_FILE = "plan.json"
"""The plan of an unfinished store of labels, or of a `FeatureStoreWriter`."""
REOPENED_FILE = "reopened.json"
"""What ``store.json`` is renamed to while some shards of a finished store are made anew."""

_SHARD_NAME = re.compile(r"shard-[0-9]{6,12}\.(tar|zarr)")


def shard_stem(number: int) -> str:
    """File name of shard `number` without its ending."""
    return f"shard-{number:06d}"


def shard_name(number: int, shard_format: Format) -> str:
    """File name of shard `number`."""
    return f"{shard_stem(number)}{SHARD_SUFFIXES[shard_format]}"


def shard_names(num_shards: int, shard_format: Format) -> list[str]:
    """File names of so many shards."""
    return [shard_name(number, shard_format) for number in range(num_shards)]


def is_shard_name(name: str) -> bool:
    """Whether a shard may have that file name."""
    return _SHARD_NAME.fullmatch(name) is not None


def sidecar_name(shard: str) -> str:
    """File name of the sidecar of a shard, by the shard's."""
    return str(Path(shard).with_suffix(".json"))


def has_shards(folder: Path) -> bool:
    """Whether there are shards, or sidecars."""
    names = (path.name.removesuffix(".json") for path in folder.glob("shard-*"))
    return any(is_shard_name(name) or is_shard_name(f"{name}.tar") for name in names)


def kind_of(folder: Path) -> str | None:
    """``features`` or ``labels``: what a store, finished or not, holds; None where none is.

    Raises:
        StoreError: the file that says so cannot be read.
    """
    for name in (STORE_FILE, REOPENED_FILE, IDENTITY_FILE):
        if (folder / name).exists():
            return str(read_document(folder / name).get("kind"))
    if (folder / PLAN_FILE).exists():
        return "features"
    for sidecar in folder.glob("shard-*.json"):
        if is_shard_name(f"{sidecar.stem}.tar"):
            return str(read_document(sidecar).get("kind", "features"))
    return None

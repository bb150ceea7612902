"""What all kinds of archives share: where they lie, and which files are some."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from gmmpipe.sources.kind import Found
from gmmpipe.sources.manifest import Manifest

_STORE_FILES = frozenset(("store.json", "reopened.json", "plan.npz"))
_SHARD = re.compile(r"shard-[0-9]{6,12}\.tar")
"""What a feature store holds, which may lie in the folder of its own audio."""


def find_archives(
    path: Path, kind: str, is_archive: Callable[[Path], bool], ignored: Path | None
) -> Found | None:
    """The archive at `path`, or those in the folder at `path`, as manifests of a kind.

    Args:
        path: a file or a folder.
        kind: the name of the kind.
        is_archive: whether a file is an archive of the kind.
        ignored: a file that is no part of any source.
    """
    if path.is_file():
        return Found([Manifest(path, path.name, kind)]) if is_archive(path) else None
    if not path.is_dir():
        return None
    there = sorted(name for name in os.listdir(path) if name[:1] != ".")
    is_store = not _STORE_FILES.isdisjoint(there)
    names = [
        name
        for name in there
        if os.path.isfile(path / name) and not (is_store and _SHARD.fullmatch(name))
    ]
    if ignored is not None:
        names = [name for name in names if not _is_same(path / name, ignored)]
    read = [name for name in names if is_archive(path / name)]
    if not read:
        return None
    return Found(
        [Manifest(path / name, name, kind) for name in read], sorted({*names}.difference(read))
    )


def _is_same(path: Path, ignored: Path) -> bool:
    return path.name == ignored.name and ignored.exists() and path.samefile(ignored)

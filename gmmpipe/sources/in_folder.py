"""The manifests that lie in a folder, of a kind that looks into each file."""

import os
from collections.abc import Callable
from pathlib import Path

from gmmpipe.sources.kind import Found
from gmmpipe.sources.manifest import Manifest


def manifests_at(
    path: Path,
    kind: str,
    is_manifest: Callable[[Path], bool],
    endings: tuple[str, ...] = ("",),
) -> Found | None:
    """What a kind finds at a path: a file, or those in a folder by name, without hidden ones.

    Args:
        path: the file or the folder.
        kind: the name of the kind.
        is_manifest: whether a file is a manifest of the kind.
        endings: what the names of its manifests may end with, in lower case; others are not asked.
    """
    if path.is_file():
        is_one = path.name.lower().endswith(endings) and is_manifest(path)
        return Found([Manifest(path, path.name, kind)]) if is_one else None
    if not path.is_dir():
        return None
    names = sorted(name for name in os.listdir(path) if name[:1] != ".")
    # A folder may hold a million audio files, none of which is looked at here.
    likely = [name for name in names if name.lower().endswith(endings)]
    read = [name for name in likely if (path / name).is_file() and is_manifest(path / name)]
    if not read:
        return None
    others = sorted(name for name in {*names}.difference(read) if (path / name).is_file())
    return Found([Manifest(path / name, name, kind) for name in read], others)

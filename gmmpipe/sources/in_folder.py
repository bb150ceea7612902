"""The manifests that lie in a folder, of a kind that looks into each file."""

import os
from collections.abc import Callable
from pathlib import Path

from gmmpipe.sources.kind import Found
from gmmpipe.sources.manifest import Manifest


def manifests_at(path: Path, kind: str, is_manifest: Callable[[Path], bool]) -> Found | None:
    """What a kind finds at a path: a file, or those in a folder by name, without hidden ones.

    Args:
        path: the file or the folder.
        kind: the name of the kind.
        is_manifest: whether a file is a manifest of the kind.
    """
    if path.is_file():
        return Found([Manifest(path, path.name, kind)]) if is_manifest(path) else None
    if not path.is_dir():
        return None
    names = sorted(n for n in os.listdir(path) if n[:1] != "." and os.path.isfile(path / n))
    read = [name for name in names if is_manifest(path / name)]
    if not read:
        return None
    return Found([Manifest(path / n, n, kind) for n in read], sorted({*names}.difference(read)))

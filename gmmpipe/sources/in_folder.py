"""The manifests that lie in a folder, of a kind that looks into each file."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from gmmpipe.errors import ManifestError
from gmmpipe.sources.kind import Found
from gmmpipe.sources.manifest import Manifest


def manifests_at(
    path: Path,
    kind: str,
    is_manifest: Callable[[Path], bool],
    ignored: Path | None,
    endings: tuple[str, ...] = ("",),
) -> Found | None:
    """What a kind finds at a path: a file, or those in a folder by name, without hidden ones.

    Args:
        path: the file or the folder.
        kind: the name of the kind.
        is_manifest: whether a file is a manifest of the kind.
        ignored: a file that is no part of any source.
        endings: what the names of its manifests may end with, in lower case; others are not asked.
    """

    def is_one(file: Path) -> bool:
        return file.name.lower().endswith(endings) and is_manifest(file)

    if path.is_file():
        return Found([Manifest(path, path.name, kind)]) if is_one(path) else None
    if not path.is_dir():
        return None
    names = [name for name in file_names(path) if not is_same(path / name, ignored)]
    read = [name for name in names if is_one(path / name)]
    if not read:
        return None
    others = sorted({*names}.difference(read))
    return Found([Manifest(path / name, name, kind) for name in read], others)


def file_names(folder: Path) -> list[str]:
    """The names of the files in a folder, in order, without hidden ones."""
    # A folder may hold a million audio files, none of which is looked at here.
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.name[:1] != "." and is_file(entry))


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a file, or a link to one."""
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def is_same(path: Path, ignored: Path | None) -> bool:
    """Whether a path is that of the file that is no part of any source."""
    if ignored is None or path.name != ignored.name:
        return False
    return ignored.exists() and path.samefile(ignored)


def refuse_dangling(paths: Iterable[Path]) -> None:
    """Raise ManifestError where a manifest is a link to nothing: its utterances would be lost."""
    for path in sorted(paths):
        if not path.exists():
            raise ManifestError(f"{path}: a link to a file that does not exist")

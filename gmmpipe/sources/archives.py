"""What all kinds of archives share: where they lie, which files are some, and what is damaged."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gmmpipe.audio.tar_headers import DamagedArchiveError
from gmmpipe.errors import ManifestError
from gmmpipe.sources.in_folder import manifests_at
from gmmpipe.sources.kind import Found

_STORE_FILES = ("store.json", "reopened.json", "plan.npz")
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
    is_store = any((path / name).exists() for name in _STORE_FILES)

    def is_audio(file: Path) -> bool:
        return is_archive(file) and not (is_store and _SHARD.fullmatch(file.name))

    return manifests_at(path, kind, is_audio, ignored)


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """What is wrong with the archive at `path` becomes a ManifestError that names it."""
    try:
        yield
    except DamagedArchiveError as error:
        raise ManifestError(f"{path}: damaged: {error}") from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error

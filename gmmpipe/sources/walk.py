"""The audio files below a folder, by their names alone, in an order that is always the same."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from gmmpipe.errors import ManifestError
from gmmpipe.sources.endings import is_audio_name, what_it_is

_Place = tuple[int, int]
"""The device and the number of a folder: the same folder has them under every name."""

_MOST_LEVELS = 200


def audio_files(folder: Path, passed_over: Counter[str]) -> Iterator[str]:
    """The path below `folder` of each audio file, in the order of the names at each level.

    Links to files count as files, even if they lead to nothing. A link to a folder is followed
    unless it leads to a place that the walk passes anyway: into `folder`, or back to where it is.

    Args:
        folder: where the walk begins; an absolute path.
        passed_over: counts all other files, and folders that are not entered, by what they are.

    Raises:
        ManifestError: a folder cannot be read.
    """
    yield from _below(folder, "", [_place(folder)], passed_over)


def _below(
    top: Path, prefix: str, way: Sequence[_Place], passed_over: Counter[str]
) -> Iterator[str]:
    """The audio files in the folder `top`/`prefix`, to which `way` leads."""
    if len(way) > _MOST_LEVELS:
        raise ManifestError(f"{top / prefix}: more than {_MOST_LEVELS} folders deep")
    for entry in sorted_entries(os.path.join(top, prefix)):
        name = prefix + entry.name
        if not is_folder(entry):
            if not entry.name.startswith(".") and is_audio_name(entry.name):
                yield name
            else:
                passed_over[what_it_is(entry.name)] += 1
            continue
        place = _place(entry.path)
        if entry.name.startswith("."):
            passed_over["hidden folder"] += 1
        elif place in way or (entry.is_symlink() and _lies_below(entry.path, top)):
            passed_over["link to a folder that is read anyway"] += 1
        else:
            yield from _below(top, f"{name}/", [*way, place], passed_over)


def sorted_entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder, in the order of the names.

    Raises:
        ManifestError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ManifestError(f"{folder}: cannot be read: {error.strerror}") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _place(folder: str | Path) -> _Place:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise ManifestError(f"{folder}: cannot be read: {error.strerror}") from error
    return status.st_dev, status.st_ino


def _lies_below(path: str, top: Path) -> bool:
    """Whether a link leads to `top` or into it."""
    real, real_top = os.path.realpath(path), os.path.realpath(top)
    return os.path.commonpath([real, real_top]) == real_top

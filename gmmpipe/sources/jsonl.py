"""``jsonl``: files of one JSON object a line, also compressed by gzip, and folders of those."""

import gzip
import io
import logging
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.sources.kind import Found, Specificity
from gmmpipe.sources.line_fields import parse_json, path_field_of
from gmmpipe.sources.manifest import Manifest, clean_line

log = logging.getLogger(__name__)
_LONGEST_FIRST_LINE_BYTES = 1 << 20
_LONGEST_LINE_BYTES = 1 << 26
"""Of a compressed manifest: a small file may hold a line that no memory does."""
_SURE = (".jsonl", ".ndjson")
"""Endings that no other files have."""


class JsonLines:
    """Files of one JSON object a line, and folders of those."""

    name = "jsonl"
    looks_like = (
        "a .jsonl or .ndjson file, a .json of one object a line that names its audio, each also "
        ".gz, or a folder of those"
    )
    specificity = Specificity.CONTENT
    is_streamed = False

    def find(self, path: Path, ignored: Path | None = None) -> Found | None:
        """See `SourceKind`. A folder that holds ``.jsonl`` files is read by those alone."""
        if path.is_file():
            if _is_same(path, ignored):
                return Found([])
            return Found([_manifest(path)]) if _is_manifest(path) else None
        if not path.is_dir():
            return None
        with os.scandir(path) as entries:
            visible = [entry for entry in entries if entry.name[:1] != "."]
        _refuse_dangling(visible)
        there = sorted(entry.name for entry in visible if _is_file(entry))
        names = [name for name in there if not _is_same(path / name, ignored)]
        if read := [name for name in names if name.endswith(".jsonl")]:
            _warn_of([n for n in names if _ending(n) in _SURE and not n.endswith(".jsonl")], path)
        else:
            read = [name for name in names if _is_manifest(path / name)]
        if not read and names == there:
            return None
        return Found([_manifest(path / n) for n in read], sorted({*names}.difference(read)))

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """See `SourceKind`."""
        with _opened(path) as file:
            while raw := file.readline(_LONGEST_LINE_BYTES):
                if len(raw) == _LONGEST_LINE_BYTES:
                    raise ManifestError(f"{path}: a line of {_LONGEST_LINE_BYTES} bytes or more")
                yield raw


def _refuse_dangling(entries: list[os.DirEntry[str]]) -> None:
    """Raise ManifestError where a manifest is a link to nothing: its utterances would be lost."""
    for entry in sorted(entries, key=lambda entry: entry.name):
        if _ending(entry.name) in _SURE and not os.path.exists(entry.path):
            raise ManifestError(f"{entry.path}: a link to a file that does not exist")


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _warn_of(names: list[str], folder: Path) -> None:
    """Warn of files that would be read if they were named, or nothing else were there."""
    if names:
        log.warning(
            "warning: %s: its .jsonl files alone are read, not %s; name files one by one, or with "
            "a pattern, to have others read",
            folder,
            names[0] + (f" and {len(names) - 1} more" if names[1:] else ""),
        )


def _is_same(path: Path, ignored: Path | None) -> bool:
    if ignored is None or path.name != ignored.name:
        return False
    return ignored.exists() and path.samefile(ignored)


def _manifest(path: Path) -> Manifest:
    is_plain = path.suffix != ".gz"
    return Manifest(path, path.name, JsonLines.name, path if is_plain else None)


def _ending(name: str) -> str:
    return os.path.splitext(name.removesuffix(".gz"))[1]


def _is_manifest(path: Path) -> bool:
    """Whether a file is a manifest, by its name, or where that is not enough by its first line."""
    ending = _ending(path.name)
    if ending != ".json":  # which other JSON files have, too
        return ending in _SURE
    with _opened(path) as file:
        for number in range(1_000):
            raw = file.readline(_LONGEST_FIRST_LINE_BYTES)
            line = clean_line(raw, first=number == 0)
            if line or not raw:
                break
    try:
        return path_field_of(parse_json(line)) is not None
    except AudioError:
        return False


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file, decompressed; what is wrong with it becomes a ManifestError that names it."""
    try:
        with open(path, "rb") as raw:
            if path.suffix == ".gz":
                # GzipFile's own lines take several times as long.
                yield io.BufferedReader(gzip.GzipFile(fileobj=raw, mode="rb"), 1 << 16)
            else:
                yield raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ManifestError(f"{path}: damaged: {error}") from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error

"""``jsonl``: files of one JSON object a line, also compressed by gzip, and folders of those."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gmmpipe.errors import AudioError
from gmmpipe.sources.in_folder import file_names, is_same, refuse_dangling
from gmmpipe.sources.kind import Found, Specificity
from gmmpipe.sources.line_fields import parse_json, path_field_of
from gmmpipe.sources.manifest import Manifest
from gmmpipe.sources.text_file import first_line, raw_lines

log = logging.getLogger(__name__)
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
            if is_same(path, ignored):
                return Found([])
            return Found([_manifest(path)]) if _is_manifest(path) else None
        if not path.is_dir():
            return None
        visible = (name for name in os.listdir(path) if name[:1] != ".")
        refuse_dangling(path / name for name in visible if _ending(name) in _SURE)
        there = file_names(path)
        names = [name for name in there if not is_same(path / name, ignored)]
        if read := [name for name in names if name.endswith(".jsonl")]:
            _warn_of([n for n in names if _ending(n) in _SURE and not n.endswith(".jsonl")], path)
        else:
            read = [name for name in names if _is_manifest(path / name)]
        if not read and names == there:
            return None
        return Found([_manifest(path / n) for n in read], sorted({*names}.difference(read)))

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """See `SourceKind`."""
        return raw_lines(path)


def _warn_of(names: list[str], folder: Path) -> None:
    """Warn of files that would be read if they were named, or nothing else were there."""
    if names:
        log.warning(
            "warning: %s: its .jsonl files alone are read, not %s; name files one by one, or with "
            "a pattern, to have others read",
            folder,
            names[0] + (f" and {len(names) - 1} more" if names[1:] else ""),
        )


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
    try:
        return path_field_of(parse_json(first_line(path))) is not None
    except AudioError:
        return False

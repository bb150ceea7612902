"""The paths that a comma-separated list names, with brace and glob patterns among them."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from braceexpand import braceexpand

from gmmpipe.errors import ManifestError
from gmmpipe.files import listed_paths

_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})", re.ASCII)
_MOST_NAMES = 1_000_000
"""Of one range, whose names are all made before the first is looked for."""


def named_paths(text: str) -> list[tuple[str, list[Path]]]:
    """Each entry of the list, and the paths that it names, in order.

    A name that exists as it stands is that path, whatever characters it has. Otherwise braces are
    expanded as a shell does it (``{a,b}``, ``{000..127}``), in their order, and then ``*``, ``?``,
    ``[...]`` and ``**``, in the order of the names.

    Raises:
        ManifestError: a path does not exist, or a pattern is that of no path.
    """
    plain = listed_paths(text)
    if all(map(os.path.exists, plain)):
        return [(str(path), [path]) for path in plain]
    entries = map(str.strip, _split(text))
    return [(entry, list(_matching(entry))) for entry in entries if entry]


def _matching(entry: str) -> Iterator[Path]:
    """The paths that an entry names."""
    for name in [entry] if os.path.exists(entry) else _expanded(entry):
        if os.path.exists(name):
            yield Path(name)
        elif not glob.has_magic(name):
            raise ManifestError(f"{name}: no such manifest or folder")
        elif found := sorted(glob.glob(name, recursive=True)):
            yield from map(Path, found)
        else:
            raise ManifestError(f"{name}: no path is like this pattern")


def _expanded(text: str) -> Iterable[str]:
    """Every text that its braces stand for; braces that do not match are plain characters.

    NeMo writes them ``_OP_`` and ``_CL_``.
    """
    if "_OP_" in text and "_CL_" in text:
        text = text.replace("_OP_", "{").replace("_CL_", "}")
    for first, last in _RANGE.findall(text):
        if abs(int(last) - int(first)) >= _MOST_NAMES:
            raise ManifestError(f"{text}: a range of more than {_MOST_NAMES} names")
    try:
        return braceexpand(text, escape=False)
    except ValueError:
        return [text]


def _split(text: str) -> list[str]:
    """The parts of a text between commas; not between those within braces, where those match."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if character == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]] if depth == 0 else text.split(",")

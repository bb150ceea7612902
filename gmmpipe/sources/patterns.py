"""The paths that a comma-separated list names, with brace and glob patterns among them."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from gmmpipe.errors import ManifestError
from gmmpipe.files import listed_paths

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)", re.ASCII)
_DEPTH = {"{": 1, "}": -1}


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
    if os.path.exists(entry):
        yield Path(entry)
        return
    for name in _expanded(entry):
        if os.path.exists(name):
            yield Path(name)
        elif not glob.has_magic(name):
            raise ManifestError(f"{name}: no such manifest or folder")
        elif found := sorted(glob.glob(name, recursive=True)):
            yield from map(Path, found)
        else:
            raise ManifestError(f"{name}: no path is like this pattern")


def _expanded(text: str) -> Iterator[str]:
    """Every text that its braces stand for; braces without a comma or a range are plain ones."""
    for found in re.finditer(r"\{", text):
        start = found.start()
        stop = _closing(text, start)
        choices = None if stop is None else _choices(text[start + 1 : stop])
        if stop is not None and choices is not None:
            for choice in choices:
                for middle in _expanded(choice):
                    for end in _expanded(text[stop + 1 :]):
                        yield text[:start] + middle + end
            return
    yield text


def _closing(text: str, start: int) -> int | None:
    """Where the brace closes that opens at `start`."""
    depth = 0
    for at in range(start, len(text)):
        depth += _DEPTH.get(text[at], 0)
        if depth == 0:
            return at
    return None


def _choices(inside: str) -> Iterable[str] | None:
    """What braces of this content stand for; None where they are plain ones."""
    if numbers := _RANGE.fullmatch(inside):
        first, last = numbers.groups()
        is_padded = any(re.match(r"-?0\d", number) for number in (first, last))
        width = max(len(first), len(last)) if is_padded else 0
        step = 1 if int(first) <= int(last) else -1
        return (f"{n:0{width}d}" for n in range(int(first), int(last) + step, step))
    parts = _split(inside)
    return parts if len(parts) > 1 else None


def _split(text: str) -> list[str]:
    """The parts of a text between commas; not between those within braces, where those match."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(text):
        depth += _DEPTH.get(character, 0)
        if character == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]] if depth == 0 else text.split(",")

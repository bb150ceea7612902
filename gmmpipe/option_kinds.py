"""Types of options whose text needs a word more than their type gives: counts, lists, paths."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any


@dataclass(frozen=True)
class Kind:
    """How an option is written where its type alone does not say.

    Args:
        name: what help calls it.
        parse: its value from text, or from a value of its type; a ValueError says what is wrong.
        show: a value as help writes it.
        is_list: whether a list in a configuration file stands for its parts, comma-separated.
    """

    name: str
    parse: Callable[[Any], Any]
    show: Callable[[Any], str] = str
    is_list: bool = False


@dataclass(frozen=True)
class PathRule:
    """What the command line asks of a path before the job begins.

    Args:
        exists: it must be there.
        file: it may be a file.
        folder: it may be a folder.
    """

    exists: bool = False
    file: bool = True
    folder: bool = True


def parse_frames(value: Any) -> int:
    """A count of frames: ``100M``, ``9.6B``, ``200k``, ``5_000_000``, ``1e6``, or a number.

    Raises:
        ValueError: it is not a whole number, or below 1.
    """
    text = str(value).strip()
    scale = {"K": 3, "M": 6, "B": 9, "G": 9, "T": 12}.get(text[-1:].upper(), 0)
    try:
        count = Decimal(text[:-1] if scale else text).scaleb(scale)
    except InvalidOperation:
        raise ValueError(
            f"{value!r} is not a count of frames, like 100M, 9.6B or 5_000_000"
        ) from None
    if not count.is_finite() or count != count.to_integral_value() or count < 1:
        raise ValueError(f"{value!r} is not a whole number of frames, at least 1")
    return int(count)


def show_frames(count: int) -> str:
    """The shortest text that `parse_frames` reads as `count`."""
    for suffix, scale in (("B", 10**9), ("M", 10**6)):
        if count % scale == 0:
            return f"{count // scale}{suffix}"
    return str(count)


def parse_paths(value: Any) -> str:
    """Comma-separated paths, at least one; or a path, or a list of those.

    Raises:
        ValueError: there is none.
    """
    parts = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(part, str | os.PathLike) for part in parts):
        raise ValueError(f"{value!r} is neither a path nor a list of paths")
    text = ",".join(map(os.fspath, parts))
    if not text.strip(", "):
        raise ValueError("no path is given")
    return text


def parse_strides(value: Any) -> int:
    """The product of strides, comma-separated; or that product itself, as a whole number.

    Raises:
        ValueError: they are not whole numbers, or one is below 1.
    """
    try:
        strides = [int(part) for part in str(value).split(",")]
    except ValueError:
        raise ValueError(f"{value!r} is not a comma-separated list of integers") from None
    if any(stride < 1 for stride in strides):
        raise ValueError(f"{value!r} holds a stride below 1")
    return math.prod(strides)


FRAMES = Kind("frames", parse_frames, show_frames)
PATHS = Kind("paths", parse_paths, is_list=True)
STRIDES = Kind("ints", parse_strides, is_list=True)

ANY_PATH = PathRule()

Frames = Annotated[int, FRAMES]
Paths = Annotated[str, PATHS]
Strides = Annotated[int, STRIDES]
Folder = Annotated[Path, PathRule(file=False)]
File = Annotated[Path, PathRule(folder=False)]
ExistingFolder = Annotated[Path, PathRule(exists=True, file=False)]
ExistingFile = Annotated[Path, PathRule(exists=True, folder=False)]

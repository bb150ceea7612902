"""Types of options that have a notation of their own, such as 100M, and types of paths."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation, Overflow
from pathlib import Path
from typing import Annotated, Any


@dataclass(frozen=True)
class Notation:
    """How an option's value is written, if its type alone does not say.

    Args:
        name: what help calls the value.
        parse: makes the value from text, or from a value of the type; a ValueError says what is
            wrong.
        show: writes a value for help.
        is_list: whether a configuration file may give a list instead of comma-separated text.
    """

    name: str
    parse: Callable[[Any], Any]
    show: Callable[[Any], str] = str
    is_list: bool = False


@dataclass(frozen=True)
class PathRule:
    """What the command line checks of a path before the job begins.

    Args:
        exists: the path must exist.
        file: the path may be a file.
        folder: the path may be a folder.
    """

    exists: bool = False
    file: bool = True
    folder: bool = True


MAX_FRAMES = 2**63 - 1


def parse_frames(value: Any) -> int:
    """A count of frames: ``100M``, ``9.6B``, ``200k``, ``5_000_000``, ``1e6``, or a number.

    Raises:
        ValueError: the count is not a whole number from 1 to `MAX_FRAMES`.
    """
    text = str(value).strip()
    scale = {"K": 3, "M": 6, "B": 9, "G": 9, "T": 12}.get(text[-1:].upper(), 0)
    try:
        count = Decimal(text[:-1] if scale else text).scaleb(scale)
    except (InvalidOperation, Overflow):
        raise ValueError(
            f"{value!r} is not a count of frames, like 100M, 9.6B or 5_000_000"
        ) from None
    if not count.is_finite() or count != count.to_integral_value() or count < 1:
        raise ValueError(f"{value!r} is not a whole number of frames, at least 1")
    if count > MAX_FRAMES:  # int(Decimal("1e999999999")) would take all memory
        raise ValueError(f"{value!r} is more frames than 64 bits count")
    return int(count)


def show_frames(count: int) -> str:
    """The shortest text that `parse_frames` reads as `count`."""
    for suffix, scale in (("B", 10**9), ("M", 10**6)):
        if count % scale == 0:
            return f"{count // scale}{suffix}"
    return str(count)


def parse_paths(value: Any) -> str:
    """Comma-separated paths, at least one; from such text, a path, or a list of both.

    Raises:
        ValueError: there is no path.
    """
    parts = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(part, str | os.PathLike) for part in parts):
        raise ValueError(f"{value!r} is neither a path nor a list of paths")
    text = ",".join(map(os.fspath, parts))
    if not text.strip(", "):
        raise ValueError("no path is given")
    return text


def parse_strides(value: Any) -> int:
    """The product of comma-separated strides, or of a single number.

    Raises:
        ValueError: a stride is not a whole number, or below 1.
    """
    try:
        strides = [int(part) for part in str(value).split(",")]
    except ValueError:
        raise ValueError(f"{value!r} is not a comma-separated list of integers") from None
    if any(stride < 1 for stride in strides):
        raise ValueError(f"{value!r} holds a stride below 1")
    return math.prod(strides)


FRAMES = Notation("frames", parse_frames, show_frames)
PATHS = Notation("paths", parse_paths, is_list=True)
STRIDES = Notation("ints", parse_strides, is_list=True)

ANY_PATH = PathRule()

Frames = Annotated[int, FRAMES]
Paths = Annotated[str, PATHS]
Strides = Annotated[int, STRIDES]
Folder = Annotated[Path, PathRule(file=False)]
File = Annotated[Path, PathRule(folder=False)]
ExistingFolder = Annotated[Path, PathRule(exists=True, file=False)]
ExistingFile = Annotated[Path, PathRule(exists=True, folder=False)]

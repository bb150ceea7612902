"""One labelled utterance, and what its JSON says of its name, its place and its audio."""

import re
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

_WINDOW = re.compile(r"-w(\d{5,})\Z")
_LAST = 1 << 62
"""The place of what no manifest line was the source of: behind all that have one."""
_ENDS = ("end", "end_time")


@dataclass(frozen=True)
class LabelledUtterance:
    """An utterance as the formats write it.

    Args:
        name: unique in the store; see `name_of`.
        values: its JSON, as the feature store has it.
        labels: uint16 [T].
        topk_ids: uint16 [T, k]; None where not asked for.
        topk_probs: float16 [T, k]; None where not asked for.
    """

    name: str
    values: dict[str, Any]
    labels: NDArray[Any]
    topk_ids: NDArray[Any] | None = None
    topk_probs: NDArray[Any] | None = None


def name_of(values: dict[str, Any], *, is_word: bool) -> str:
    """The utterance's id, or its key; a window has its number behind the id, as behind the key.

    Args:
        values: the JSON.
        is_word: whether a name with whitespace cannot be used; then it is the key.
    """
    key, given = str(values["key"]), values.get("id")
    name = str(given) if isinstance(given, str | int) else ""
    if not _is_text(name) or (is_word and name.split() != [name]):
        return key
    window = window_of(values)
    return name if window is None else f"{name}-w{window:05d}"


def window_of(values: dict[str, Any]) -> int | None:
    """Which window of a split utterance it is; None where it is none."""
    found = _WINDOW.search(values["key"])
    return int(found[1]) if found and values["key"] != values.get("id") else None


def place_of(values: dict[str, Any]) -> tuple[int, int]:
    """Where it stands in the manifests: its line's number over all of them, and its window."""
    line = whole_number(values.get("ordinal", values.get("line")))
    return _LAST if line is None or line >= _LAST else line, window_of(values) or 0


def path_of(values: dict[str, Any]) -> str | None:
    """The path of its audio, as the manifest gives it; None where there is none."""
    path = values.get("wav_path")
    return path if isinstance(path, str) and path else None


def is_member(path: str) -> bool:
    """Whether a path may be that of a member of an archive: ``ARCHIVE#MEMBER``."""
    return "#" in path


def is_whole_file(values: dict[str, Any]) -> bool:
    """Whether nothing says that the utterance is only a part of a file, or of an archive."""
    path = path_of(values)
    return (
        path is not None
        and not is_member(path)
        and window_of(values) is None
        and not values.get("offset")
        and values.get("channel") is None
        and all(values.get(name) is None for name in _ENDS)
    )


def whole_number(value: Any) -> int | None:
    """A value of JSON, if it is a whole number from 0 on."""
    return value if type(value) is int and value >= 0 else None


def _is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8, and is not empty."""
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False

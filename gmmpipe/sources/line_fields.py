"""What the fields of a manifest line mean: its path, id, channel and times."""

import json
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from gmmpipe.errors import AudioError

LONGEST_SECONDS = 1e9
"""Some 30 years: beyond it, arithmetic in samples could overflow."""

MOST_LEVELS = 500
"""Python reads JSON of some 1,000 levels, less the calls around it; this much is read anywhere."""

PATH_FIELDS = (
    *("wav_path", "audio_path", "audio_filepath", "path", "wav", "audio", "file_name", "file"),
)
ID_FIELDS = ("id", "utt_id", "utterance_id", "segment_id", "sid")
START_FIELDS = ("offset", "start", "start_time", "begin_time")
END_FIELDS = ("end", "end_time")
RANGE_FIELD = "archive_range"
"""Where in its archive a member's bytes are. Translations of archives write it."""
AGREEMENT_SECONDS = 0.02
"""How far apart two spellings of one time may be that were rounded to hundredths."""
_ROUNDING_SECONDS = 1e-6
"""How much binary fractions add to that: 1.02 - 1 is more than 0.02."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def parse_json(raw: bytes) -> dict[str, Any]:
    """The JSON object on a cleaned line.

    NaN and infinity, which some writers write, become null, except in the times of a segment.

    Raises:
        AudioError: bad_json.
    """
    try:
        text = raw.decode("utf-8")
        # Of a cleaned line, decode's search for outer blanks takes as long as the rest.
        values, end = _NULLING_JSON.raw_decode(text)
        if end < len(text):
            values = _NULLING_JSON.decode(text)
        if not isinstance(values, dict):
            raise AudioError("bad_json", f"a JSON {type(values).__name__}, not an object")
        if None in values.values():
            times = [name for name in _TIME_FIELDS if values.get(name, 0) is None]
            given = json.loads(text) if times else {}
            values.update((name, given[name]) for name in times)
    except (ValueError, RecursionError) as error:
        raise AudioError("bad_json", str(error) or "nested too deeply") from error
    if raw.count(b"[") + raw.count(b"{") > MOST_LEVELS and _is_deeper(values, MOST_LEVELS):
        raise AudioError("bad_json", f"nested more than {MOST_LEVELS} levels deep")
    return values


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether arrays and objects are nested more than `levels` deep."""
    level = [value]
    while levels and level:
        levels -= 1
        holders = (each for each in level if isinstance(each, dict | list))
        level = [
            inner
            for each in holders
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return any(isinstance(each, dict | list) for each in level)


def path_field_of(values: dict[str, Any]) -> str | None:
    """The first path field that is not empty."""
    for name in PATH_FIELDS:
        value = values.get(name)
        if isinstance(value, str) and value.strip():
            return name
    return None


def refuse_unsafe(path: str) -> None:
    """Refuse a path that does not name a local file.

    Raises:
        AudioError: unsafe_path.
    """
    stripped = path.strip()
    if stripped == "-":
        raise AudioError("unsafe_path", "standard input")
    if stripped.startswith(("pipe:", "|")) or stripped.endswith("|"):
        raise AudioError("unsafe_path", "a command")
    if "://" in stripped and _URL.match(stripped):
        raise AudioError("unsafe_path", "a URL")
    if "\0" in path:
        raise AudioError("unsafe_path", "a NUL character")


def id_of(values: dict[str, Any]) -> str | None:
    """The first id field that is not empty, an integer as its decimal text.

    Raises:
        AudioError: bad_json: it is neither a string nor an integer.
    """
    for name in ID_FIELDS:
        identifier = values.get(name)
        if identifier is None or identifier == "":
            continue
        if isinstance(identifier, bool) or not isinstance(identifier, str | int):
            kind = type(identifier).__name__
            raise AudioError("bad_json", f"the {name} is a JSON {kind}, not a string or integer")
        return str(identifier)
    return None


def channel_of(value: object) -> int | None:
    """The number of a channel, or None where the field is no number nor the text of one.

    Raises:
        AudioError: bad_json: it is a number, but no integer from 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    text = str(value).strip()
    if not _NUMBER.fullmatch(text):
        return None  # in some corpora it is a broadcaster's name
    number = float(text)
    if number < 0 or not number.is_integer():
        raise AudioError("bad_json", f"the channel is {text[:40]}, not an integer from 0")
    return int(number)


def range_of(value: object) -> tuple[int, ...] | None:
    """Where a member's bytes are in its archive: see `Member`; None where it is not stated.

    Raises:
        AudioError: bad_json.
    """
    if value is None:
        return None
    numbers = value if isinstance(value, list) else []
    are_places = all(type(number) is int and 0 <= number < 1 << 62 for number in numbers)
    if len(numbers) not in (2, 3) or not are_places:
        raise AudioError("bad_json", f"the {RANGE_FIELD} is not two or three integers from 0")
    return tuple(numbers)


def segment_of(values: dict[str, Any]) -> tuple[float | None, float | None]:
    """Where a line's segment begins, and how long it is, in seconds; None where it is not stated.

    Raises:
        AudioError: bad_offset.
    """
    if _OTHER_TIME_FIELDS.isdisjoint(values):  # as in nearly all lines of large manifests
        offset, duration = values.get("offset"), values.get("duration")
        if type(offset) is type(duration) is float and (
            0 <= offset <= LONGEST_SECONDS and 0 < duration <= LONGEST_SECONDS
        ):
            return offset, duration
    starts = _stated(values, START_FIELDS)
    for name, value in starts:
        if value < 0:
            raise AudioError("bad_offset", f"the {name} of {value} s is negative")
    start = starts[0][1] if starts else None
    # Some tools write 0 or -1 for "unknown", or for "to the end".
    lengths = [found for found in _stated(values, ("duration",)) if found[1] > 0]
    for name, end in _stated(values, END_FIELDS):
        if end <= 0:
            continue
        if end <= (start or 0.0):
            raise AudioError("bad_offset", f"the {name} of {end} s is not behind the start")
        lengths.append((name, end - (start or 0.0)))
        if start is None:
            start = 0.0
    for meaning, spellings in (("starts", starts), ("lengths", lengths)):
        for name, value in spellings[1:]:
            first, other = spellings[0]
            if abs(value - other) > AGREEMENT_SECONDS + _ROUNDING_SECONDS:
                raise AudioError(
                    "bad_offset",
                    f"{first} and {name} disagree: {meaning} of {other:.10g} s and {value:.10g} s",
                )
    return start, (lengths[0][1] if lengths else None)


def _stated(values: dict[str, Any], names: Sequence[str]) -> list[tuple[str, float]]:
    """The times, in seconds, that a line has of these."""
    found = []
    for name in names:
        value = values.get(name)
        if value is not None and (seconds := _seconds(value, name)) is not None:
            found.append((name, seconds))
    return found


def _seconds(value: object, name: str) -> float | None:
    """A number, or the text of one, in seconds; None for an empty text."""
    if isinstance(value, str):
        if not value.strip():
            return None
        with suppress(ValueError):
            value = float("nan" if "_" in value else value)  # 1_000 is a number to Python alone
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AudioError("bad_offset", f"the {name} is a JSON {type(value).__name__}, not a number")
    if abs(value) > LONGEST_SECONDS:
        raise AudioError("bad_offset", f"the {name} is beyond any file")
    if math.isnan(value):
        raise AudioError("bad_offset", f"the {name} is not a number")
    return float(value)


def _finite_or_none(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


_TIME_FIELDS = (*START_FIELDS, "duration", *END_FIELDS)
_OTHER_TIME_FIELDS = frozenset(_TIME_FIELDS) - {"offset", "duration"}
_NULLING_JSON = json.JSONDecoder(parse_constant=lambda name: None, parse_float=_finite_or_none)

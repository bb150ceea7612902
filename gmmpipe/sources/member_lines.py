"""The members of an archive to plain manifest lines: a line for each audio file.

Members that follow each other and have one key, as WebDataset counts it, belong together: the
folder, and the name up to its first dot. The ``.json`` and the ``.txt`` beside an audio file give
its line further fields.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby, islice
from typing import Any

from gmmpipe.audio.tar_headers import Entry
from gmmpipe.errors import AudioError
from gmmpipe.sources.endings import ending_of, is_audio_name, what_it_is
from gmmpipe.sources.line_fields import (
    END_FIELDS,
    PATH_FIELDS,
    RANGE_FIELD,
    START_FIELDS,
    id_of,
    parse_json,
)
from gmmpipe.sources.plain_line import plain_line

_SIDECARS = (".json", ".txt")
_MOST_SIDECAR_BYTES = 1 << 22
_MOST_OF_ONE_KEY = 64
"""How many members of one key are held at once; no sample of WebDataset has as many."""
_FOREIGN_FOLDERS = ("__MACOSX", "PaxHeaders")
"""Folders of names that archivers of other systems leave behind."""
TIMES_FIELD = "times_in_source"
"""Where a line keeps times that its JSON states: they are of what the member was cut from."""


def wants_content(name: str, size: int) -> bool:
    """Whether the bytes of a member of this name and size are needed for lines."""
    return ending_of(name) in _SIDECARS and size <= _MOST_SIDECAR_BYTES


def member_lines(
    archive: str, entries: Iterable[Entry], passed_over: Counter[str]
) -> Iterator[bytes]:
    """The lines of an archive's audio files, in the order of the archive.

    Args:
        archive: the name of the archive as audio paths have it.
        entries: its members; those of `wants_content` with their bytes.
        passed_over: counts the members that neither are audio nor belong to any, by what they are.
    """
    for key, alike in groupby(_usable(entries, passed_over), lambda entry: _key(entry.name)):
        while group := list(islice(alike, _MOST_OF_ONE_KEY)):
            yield from _lines(archive, key, group, passed_over)


def _usable(entries: Iterable[Entry], passed_over: Counter[str]) -> Iterator[Entry]:
    """The members that are files with names that are safe, and not hidden."""
    for entry in entries:
        folders = entry.name.split("/")[:-1]
        if entry.is_not:
            passed_over[entry.is_not] += 1
        elif entry.name.startswith("/") or ".." in entry.name.split("/"):
            passed_over["an unsafe name"] += 1
        elif any(each.startswith((".", *_FOREIGN_FOLDERS)) for each in folders):
            passed_over["hidden"] += 1
        elif os.path.basename(entry.name).startswith("."):
            passed_over[what_it_is(entry.name)] += 1
        else:
            yield entry


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _lines(
    archive: str, key: str, group: list[Entry], passed_over: Counter[str]
) -> Iterator[bytes]:
    """The lines of the audio among some members of one key."""
    audio = [entry for entry in group if is_audio_name(entry.name)]
    beside = [entry for entry in group if not is_audio_name(entry.name)]
    fields: dict[str, Any] = {}
    is_sample = False
    for entry in beside:
        if audio and _add(fields, entry):
            is_sample = True
        else:
            passed_over[what_it_is(entry.name)] += 1
    is_whole = len(audio) == 1 and is_sample
    for entry in audio:
        name = key if is_whole else os.path.splitext(entry.name)[0]
        line = {"id": name, **fields, "wav_path": f"{archive}#{entry.name}"}
        if len(audio) > 1:
            line["id"] = name  # an id beside several files is that of all of them
        line[RANGE_FIELD] = None if entry.range is None else list(entry.range)
        yield plain_line(line)


def _add(fields: dict[str, Any], entry: Entry) -> bool:
    """Add what a sidecar says to the fields of its audio's line; False if that is nothing."""
    if entry.content is None or entry.problem:
        return False
    if ending_of(entry.name) == ".txt":
        text = entry.content.decode("utf-8", "replace").removeprefix("\ufeff").strip()
        fields.setdefault("text", text)
        return True
    try:
        values = parse_json(entry.content.removeprefix(b"\xef\xbb\xbf"))
    except AudioError:
        return False
    fields.update(_carried(values))
    return True


def _carried(values: dict[str, Any]) -> dict[str, Any]:
    """What a sample's JSON adds to the line of its audio."""
    times = {n: values.pop(n) for n in (*START_FIELDS, *END_FIELDS) if n in values}
    for name in (*PATH_FIELDS, RANGE_FIELD):
        if name == RANGE_FIELD or isinstance(values.get(name), str):
            values.pop(name, None)
    if times:
        values[TIMES_FIELD] = times
    identifier = values.pop("id", None)
    with suppress(AudioError):
        values["id"] = id_of({"id": identifier})
    return {name: value for name, value in values.items() if value is not None}

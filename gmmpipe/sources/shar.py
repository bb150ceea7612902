"""lhotse's Shar: the audio of a file of cuts, in a tar beside it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gmmpipe.audio.plain_bytes import PlainBytes
from gmmpipe.audio.tar_headers import Entry, clean_name, tar_entries
from gmmpipe.sources.archives import naming_damage
from gmmpipe.sources.line_fields import RANGE_FIELD

_CUTS, _ENDINGS = "cuts", (".jsonl", ".jsonl.gz")
_WITHOUT_AUDIO = ("json", "nodata", "nometa")
"""Endings of members that describe audio, or that stand for a cut without any."""


class RecordingTar:
    """The audio of a Shar's tar by the ids of the cuts.

    The tar is read as far as it is needed: where both are in one order, as lhotse writes them, no
    more than one member is held.

    Args:
        name: the name of the tar as audio paths have it.
        entries: its members.
    """

    def __init__(self, name: str, entries: Iterator[Entry]) -> None:
        self._name, self._entries = name, entries
        self._ahead: dict[str, Entry] = {}

    def place_of(self, cut_id: object) -> dict[str, Any] | None:
        """The fields of a plain line that say where a cut's audio is; None if it has none here."""
        wanted = clean_name(str(cut_id))
        entry = self._ahead.get(wanted)
        while entry is None and (following := next(self._entries, None)):
            stem, _, ending = following.name.rpartition(".")
            if following.is_not or ending in _WITHOUT_AUDIO:
                continue
            if stem == wanted:
                entry = following
            self._ahead[stem] = following
        if entry is None:
            return None
        del self._ahead[wanted]
        place: dict[str, Any] = {"wav_path": f"{self._name}#{entry.name}"}
        if entry.range is not None:  # else what is wrong is found where it is opened
            place[RANGE_FIELD] = list(entry.range)
        return place


def recording_tar_beside(path: Path) -> Path | None:
    """The tar with the audio of a file of cuts: ``recording.N.tar`` of ``cuts.N.jsonl.gz``."""
    first, dot, others = path.name.partition(".")
    ending = next((each for each in _ENDINGS if (dot + others).endswith(each)), None)
    if first != _CUTS or ending is None:
        return None
    beside = path.with_name("recording" + (dot + others).removesuffix(ending) + ".tar")
    return beside if beside.is_file() else None


@contextmanager
def opened_tar(path: Path | None) -> Iterator[RecordingTar]:
    """The tar at a path, or an empty one.

    Raises:
        ManifestError: it cannot be read, or is damaged.
    """
    if path is None:
        yield RecordingTar("", iter(()))
        return
    with naming_damage(path), open(path, "rb", buffering=0) as file:
        content = PlainBytes(file.fileno(), os.fstat(file.fileno()).st_size)
        yield RecordingTar(path.name, tar_entries(content))

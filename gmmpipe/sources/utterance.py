"""One manifest line to an `Utterance`; its JSON is parsed once."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmmpipe.audio.member import Member
from gmmpipe.errors import AudioError
from gmmpipe.sources.line_fields import (
    PATH_FIELDS,
    RANGE_FIELD,
    channel_of,
    id_of,
    parse_json,
    path_field_of,
    range_of,
    refuse_unsafe,
    segment_of,
)
from gmmpipe.sources.manifest import ManifestLine
from gmmpipe.sources.refusal import refuse_marked

_UNSAFE_KEY_CHARACTERS = re.compile(r"[^A-Za-z0-9_-]+")
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_WINDOW_KEY = re.compile(r"(.+)-w(\d{5})")


@dataclass(frozen=True)
class Utterance:
    """What a good manifest line says.

    Args:
        key: unique within the store, ``[A-Za-z0-9_-]{1,80}``.
        id: the manifest's own id, if it has one.
        wav_path: the audio path as the manifest gives it.
        offset_seconds: start of the segment, or None for the whole file.
        duration_seconds: length of the segment; without an offset, what the file should last.
        carried: the line's other fields.
        channel: the one channel that is meant, from 0, or None for the mean of all.
        archive_range: where the bytes are in an archive, as `Member` has it, if the line says so.
    """

    key: str
    id: str | None
    wav_path: str
    offset_seconds: float | None
    duration_seconds: float | None
    carried: dict[str, Any]
    channel: int | None = None
    archive_range: tuple[int, ...] | None = None


class ParsedLine:
    """The JSON of one cleaned manifest line, good or not.

    Args:
        raw: the line.
    """

    __slots__ = ("_error", "_path_field", "_values")

    def __init__(self, raw: bytes) -> None:
        self._error: AudioError | None = None
        self._values: dict[str, Any] = {}
        try:
            self._values = parse_json(raw)
        except AudioError as error:
            self._error = error
        self._path_field = path_field_of(self._values)

    @property
    def path(self) -> str:
        """The audio path that the line names, however bad the line is otherwise; or nothing."""
        return "" if self._path_field is None else str(self._values[self._path_field])

    def key(self, ordinal: int) -> str | None:
        """The key that the line's utterance would have; None without a usable path or id.

        Args:
            ordinal: the line's number over all manifests.
        """
        try:
            self._check_path()
            return self._identify(ordinal)[0]
        except AudioError:
            return None

    def utterance(self, ordinal: int) -> Utterance:
        """What the line says.

        Raises:
            AudioError: bad_json, missing_path, unsafe_path or bad_offset.
        """
        self._check_path()
        offset, duration = segment_of(self._values)
        key, identifier = self._identify(ordinal)
        return Utterance(
            key=key,
            id=identifier,
            wav_path=self.path,
            offset_seconds=offset,
            duration_seconds=duration,
            carried={
                name: value
                for name, value in self._values.items()
                if name not in (self._path_field, RANGE_FIELD)
            },
            channel=channel_of(self._values.get("channel")),
            archive_range=range_of(self._values.get(RANGE_FIELD)),
        )

    def times(self) -> tuple[float | None, float | None]:
        """Where the line's segment begins, and how long it is, in seconds; None where unstated.

        Raises:
            AudioError: bad_offset; or bad_json, for other values that no utterance can have.
        """
        values = self._values
        if "channel" in values:
            channel_of(values["channel"])
        if RANGE_FIELD in values:
            range_of(values[RANGE_FIELD])
        return segment_of(values)

    def _check_path(self) -> None:
        if self._error is not None:
            raise self._error
        refuse_marked(self._values)
        if self._path_field is None:
            raise AudioError("missing_path", f"none of {', '.join(PATH_FIELDS)} holds a path")
        refuse_unsafe(self.path)

    def _identify(self, ordinal: int) -> tuple[str, str | None]:
        """The line's key and id."""
        identifier = id_of(self._values)
        return make_key(identifier, self.path, ordinal), identifier


def make_key(identifier: str | None, wav_path: str, ordinal: int) -> str:
    """A sample's key: the id itself where it is safe, else made from it, or from the file name."""
    if identifier is None:
        stem = _UNSAFE_KEY_CHARACTERS.sub("_", os.path.splitext(os.path.basename(wav_path))[0])
        return f"{ordinal:010d}-{stem[:40]}"
    if _KEY.fullmatch(identifier):
        return identifier
    digest = hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{_UNSAFE_KEY_CHARACTERS.sub('_', identifier)[:60]}-{digest[:10]}"


def audio_path(wav_path: str, line: ManifestLine, base_path: Path | None) -> str:
    """Where a manifest's audio path points, with the ``--base_path`` that is given."""
    # Not by pathlib, which takes longer over it than the system over opening the file.
    return os.path.join(line.manifest.start_of(wav_path, base_path), wav_path)


def recording_of(utterance: Utterance, line: ManifestLine, base_path: Path | None) -> str | Member:
    """What to open for an utterance: the path of a file, or a member of an archive.

    The path of a member is ``ARCHIVE#MEMBER``. A file whose own name is such a text is that file,
    unless the line says where in an archive its audio is.
    """
    path = audio_path(utterance.wav_path, line, base_path)
    if "#" not in utterance.wav_path:
        return path
    if utterance.archive_range is None and os.path.lexists(path):
        return path
    at = len(path) - len(utterance.wav_path)
    while (at := path.find("#", at)) >= 0:
        if os.path.isfile(path[:at]):
            return Member(path[:at], path[at + 1 :], utterance.archive_range)
        at += 1
    return path


def window_key(key: str, window: int) -> str:
    """The key of one window of an utterance whose audio is split."""
    return f"{key}-w{window:05d}"


def parse_window_key(key: str) -> tuple[str, int] | None:
    """The utterance's key and the window's number, if `key` looks like `window_key`'s."""
    found = _WINDOW_KEY.fullmatch(key)
    return (found[1], int(found[2])) if found else None

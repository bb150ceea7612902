"""JSONL manifests: finding them, numbering their lines, and one line to an `Utterance`."""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.files import listed_paths
from gmmpipe.sources.line_fields import (
    PATH_FIELDS,
    channel_of,
    id_of,
    parse_json,
    path_field_of,
    refuse_unsafe,
    segment_of,
)

_BOM = b"\xef\xbb\xbf"
_UNSAFE_KEY_CHARACTERS = re.compile(r"[^A-Za-z0-9_-]+")
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_WINDOW_KEY = re.compile(r"(.+)-w(\d{5})")


@dataclass(frozen=True)
class Manifest:
    """One JSONL file.

    Args:
        path: where it lies.
        name: its path relative to the ``--data_dir`` entry that led to it; what samples record.
    """

    path: Path
    name: str


@dataclass(frozen=True)
class ManifestLine:
    """Where one line stands.

    Args:
        manifest: its manifest.
        number: its number within the manifest, from 1.
        ordinal: its number over all manifests, from 1; blank lines count.
    """

    manifest: Manifest
    number: int
    ordinal: int


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
    """

    key: str
    id: str | None
    wav_path: str
    offset_seconds: float | None
    duration_seconds: float | None
    carried: dict[str, Any]
    channel: int | None = None


def find_manifests(data_dir: str) -> list[Manifest]:
    """The manifests that a comma-separated list of folders and ``.jsonl`` files names, in order.

    Raises:
        ManifestError: an entry does not exist, is not a manifest, or is a folder without any.
    """
    manifests = []
    for entry in map(str, listed_paths(data_dir)):
        path = Path(entry).absolute()  # workers may run in another folder
        if path.is_dir():
            named = (p for p in path.glob("*.jsonl") if not p.name.startswith("."))
            found = sorted(p for p in named if p.is_file())
            if not found:
                raise ManifestError(f"{entry}: no *.jsonl manifest in this folder")
            manifests += [Manifest(p, p.name) for p in found]
        elif path.is_file() and path.suffix == ".jsonl":
            manifests.append(Manifest(path, path.name))
        elif path.exists():
            raise ManifestError(f"{entry}: neither a folder nor a .jsonl file")
        else:
            raise ManifestError(f"{entry}: no such manifest or folder")
    if not manifests:
        raise ManifestError("no manifest given")
    return manifests


def clean_line(raw: bytes, first: bool) -> bytes:
    """A manifest line without its BOM (on the first line), line end and outer blanks."""
    return (raw.removeprefix(_BOM) if first else raw).strip()


def read_lines(manifest: Manifest) -> Iterator[tuple[int, bytes]]:
    """Each line's byte offset and raw bytes, blank lines too.

    Raises:
        ManifestError: the file cannot be read.
    """
    offset = 0
    try:
        with open(manifest.path, "rb") as file:
            for raw in file:
                yield offset, raw
                offset += len(raw)
    except OSError as error:
        raise ManifestError(f"{manifest.path}: cannot be read: {error.strerror}") from error


def parse_line(raw: bytes, line: ManifestLine) -> Utterance:
    """One cleaned manifest line to an `Utterance`.

    Raises:
        AudioError: bad_json, missing_path, unsafe_path or bad_offset.
    """
    values = parse_json(raw)
    path_field = path_field_of(values)
    if path_field is None:
        raise AudioError("missing_path", f"none of {', '.join(PATH_FIELDS)} holds a path")
    wav_path = values.pop(path_field)
    refuse_unsafe(wav_path)
    offset, duration = segment_of(values)
    identifier = id_of(values)
    return Utterance(
        key=make_key(identifier, wav_path, line.ordinal),
        id=identifier,
        wav_path=wav_path,
        offset_seconds=offset,
        duration_seconds=duration,
        carried=values,
        channel=channel_of(values.get("channel")),
    )


def key_of(raw: bytes, ordinal: int) -> str | None:
    """The key that a line's utterance would have, or None where `parse_line` finds no path or id.

    Cheaper than `parse_line`: it is run over the whole manifest to find keys that stand twice.
    """
    try:
        values = parse_json(raw)
        path_field = path_field_of(values)
        if path_field is None:
            return None
        refuse_unsafe(values[path_field])
        return make_key(id_of(values), values[path_field], ordinal)
    except AudioError:
        return None


def named_path(raw: bytes) -> str:
    """The audio path on a cleaned line that is otherwise unusable, or an empty string."""
    try:
        values = parse_json(raw)
        path_field = path_field_of(values)
        return "" if path_field is None else str(values[path_field])
    except AudioError:
        return ""


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
    """Where a manifest's audio path points: relative ones start at `base_path` or the manifest."""
    # Not by pathlib, which takes longer over it than the system over opening the file.
    return os.path.join(base_path or os.path.dirname(line.manifest.path), wav_path)


def window_key(key: str, window: int) -> str:
    """The key of one window of an utterance whose audio is split."""
    return f"{key}-w{window:05d}"


def parse_window_key(key: str) -> tuple[str, int] | None:
    """The utterance's key and the window's number, if `key` looks like `window_key`'s."""
    found = _WINDOW_KEY.fullmatch(key)
    return (found[1], int(found[2])) if found else None

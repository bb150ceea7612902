"""NeMo's tarred manifests: JSON lines of one folder with the tars ``audio_0.tar`` and on."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gmmpipe.audio.archive_index import index_of
from gmmpipe.errors import AudioError
from gmmpipe.sources.in_folder import file_names, is_same
from gmmpipe.sources.kind import Found, Specificity
from gmmpipe.sources.line_fields import RANGE_FIELD, parse_json, path_field_of
from gmmpipe.sources.manifest import Manifest, clean_line
from gmmpipe.sources.plain_line import plain_line
from gmmpipe.sources.text_file import first_line, raw_lines

_ALL_SHARDS = "tarred_audio_manifest.json"
"""The manifest of all tars; beside it there may be one for each."""
_ENDINGS = (".json", ".jsonl")
_TAR = re.compile(r"audio_\d+\.tar")
_REPEATED = re.compile(r"(.+)-sub\d+(\.[^./]*)")
"""The name of a line whose file an earlier line of the same tar has named."""


class NemoTarred:
    """Manifests whose lines name a tar by its number, and a member of it."""

    name = "tar"
    looks_like = "NeMo's tarred manifest beside its audio_0.tar and on"
    specificity = Specificity.LAYOUT
    is_streamed = False

    def find(self, path: Path, ignored: Path | None = None) -> Found | None:
        """See `SourceKind`."""
        if path.is_file():
            return Found([_manifest(path)]) if _is_tarred(path) else None
        if not path.is_dir() or not _may_have_tars(path):
            return None
        names = [name for name in file_names(path) if not is_same(path / name, ignored)]
        read = [_ALL_SHARDS] if _ALL_SHARDS in names else names
        read = [name for name in read if _is_tarred(path / name)]
        if not read:
            return None
        others = [name for name in names if name not in read and not _TAR.fullmatch(name)]
        return Found([_manifest(path / name) for name in read], others)

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """See `SourceKind`."""
        return tarred_lines(path)


def _manifest(path: Path) -> Manifest:
    return Manifest(path, path.name, NemoTarred.name, has_found_paths=True)


def tarred_lines(path: Path) -> Iterator[bytes]:
    """A line for each line of a tarred manifest; one that names no tar stays as it is.

    Raises:
        ManifestError: the manifest cannot be read.
    """
    for number, raw in enumerate(raw_lines(path)):
        cleaned = clean_line(raw, first=number == 0)
        values = _values(cleaned)
        if values is None:
            yield cleaned + b"\n"
            continue
        archive = _tar_of(path.parent, values["shard_id"])
        name, place = _member(path.parent / archive, str(values[path_field_of(values) or ""]))
        values["wav_path"] = f"{archive}#{name}"
        values[RANGE_FIELD] = None if place is None else list(place)
        yield plain_line(values)


def _values(cleaned: bytes) -> dict[str, Any] | None:
    """What a line says, if it names a tar and a member."""
    try:
        values = parse_json(cleaned)
    except AudioError:
        return None
    if type(values.get("shard_id")) is not int or path_field_of(values) is None:
        return None
    return values


def _tar_of(folder: Path, shard: int) -> str:
    """The path of a tar from the manifest's folder: in it, or where manifests have their own."""
    name = f"audio_{shard}.tar"
    is_above = not (folder / name).exists() and (folder.parent / name).exists()
    return f"../{name}" if is_above else name


def _member(archive: Path, name: str) -> tuple[str, tuple[int, ...] | None]:
    """The name of the member that a line means, and its place, if it can be read."""
    repeated = _REPEATED.fullmatch(name)
    for candidate in (name, repeated and repeated[1] + repeated[2]):
        if candidate:
            try:
                return candidate, index_of(str(archive)).range_of(candidate)
            except AudioError as error:
                if error.reason != "not_found":
                    return candidate, None
    return name, None


def _is_tarred(path: Path) -> bool:
    """Whether the first line of a file names a tar that is there."""
    if not path.name.lower().removesuffix(".gz").endswith(_ENDINGS):
        return False
    values = _values(first_line(path))
    return values is not None and (path.parent / _tar_of(path.parent, values["shard_id"])).is_file()


def _may_have_tars(folder: Path) -> bool:
    """Whether tars lie where those of manifests in a folder do."""
    places = (folder, folder.parent)
    return any(_TAR.fullmatch(name) for place in places for name in _names(place))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []

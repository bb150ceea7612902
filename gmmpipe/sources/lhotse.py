"""``lhotse``: manifests of cuts or recordings, folders of those, and Shar folders of audio."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.sources.in_folder import is_same, refuse_dangling
from gmmpipe.sources.kind import Found, Specificity
from gmmpipe.sources.lhotse_item import (
    Item,
    Json,
    fields_of_cut,
    fields_of_recording,
    item_of,
    named_path,
)
from gmmpipe.sources.line_fields import parse_json, path_field_of
from gmmpipe.sources.manifest import Manifest, clean_line
from gmmpipe.sources.plain_line import BLANK_LINE
from gmmpipe.sources.refusal import refused_line
from gmmpipe.sources.shar import RecordingTar, opened_tar, recording_tar_beside
from gmmpipe.sources.supervisions import Supervisions
from gmmpipe.sources.text_file import LONGEST_LINE_BYTES, first_line, raw_lines

_ENDINGS = (".jsonl", ".jsonl.gz")
_PLAIN = "plain"
"""What a manifest is that other programs write."""


class Lhotse:
    """JSONL of cuts, or of recordings with their supervisions beside, and folders of those.

    Args:
        is_mixed: whether the folders are meant that hold plain manifests as well: another kind
            reads those, so that the user has to say which. All other sources are sure.
    """

    name = "lhotse"
    looks_like = (
        "a .jsonl of lhotse's cuts or recordings, also .gz, or a folder of those, or a Shar folder"
    )
    is_streamed = False

    def __init__(self, is_mixed: bool = False) -> None:
        self._is_mixed = is_mixed
        self.specificity = Specificity.CONTENT if is_mixed else Specificity.LAYOUT

    def find(self, path: Path, ignored: Path | None = None) -> Found | None:
        """See `SourceKind`. In a folder cuts are read rather than the recordings they are of."""
        if path.is_dir():
            return self._find_in(path, ignored)
        item = None if self._is_mixed or not _may_be(path) else _look(path)
        if item == Item.SUPERVISION:
            raise ManifestError(
                f"{path}: supervisions name no audio; give the recordings or cuts instead"
            )
        return Found([self._manifest(path)]) if item in (Item.CUT, Item.RECORDING) else None

    def _find_in(self, folder: Path, ignored: Path | None) -> Found | None:
        visible = (name for name in os.listdir(folder) if name[:1] != ".")
        names = [name for name in visible if not is_same(folder / name, ignored)]
        items = {name: _look(folder / name) for name in sorted(names) if _may_be(folder / name)}
        if (_PLAIN in items.values()) != self._is_mixed:
            return None
        for item in (Item.CUT, Item.RECORDING):
            if read := [folder / name for name in items if items[name] == item]:
                refuse_dangling(folder / name for name in names if name.endswith(_ENDINGS))
                used = {*read, *map(_supervisions_beside, read), *map(recording_tar_beside, read)}
                others = (name for name in names if folder / name not in used)
                return Found([self._manifest(each) for each in read], sorted(others))
        return None

    def _manifest(self, path: Path) -> Manifest:
        is_shar = recording_tar_beside(path) is not None
        return Manifest(path, path.name, self.name, has_found_paths=is_shar)

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """See `SourceKind`."""
        beside = _supervisions_beside(path)
        lines = [] if beside is None else _cleaned_lines(beside)
        tar = recording_tar_beside(path)
        with closing(Supervisions(beside or path, lines)) as supervisions, opened_tar(tar) as audio:
            for line in _cleaned_lines(path):
                yield _plain_line(line, supervisions, audio) if line else BLANK_LINE


def _plain_line(line: bytes, supervisions: Supervisions, audio: RecordingTar) -> bytes:
    """The plain line of a line of lhotse's."""
    try:
        values = parse_json(line)
    except AudioError:
        return line + b"\n"  # which says so again
    try:
        return json.dumps(_fields(values, supervisions, audio)).encode() + b"\n"
    except AudioError as error:
        return refused_line(error, named_path(values))


def _fields(values: Json, supervisions: Supervisions, audio: RecordingTar) -> Json:
    match item_of(values):
        case Item.CUT:
            return fields_of_cut(values, audio.place_of(values.get("id")))
        case Item.RECORDING:
            return fields_of_recording(values, supervisions.only_one_of(values.get("id")))
    raise AudioError("missing_path", "neither a cut nor a recording")


def _cleaned_lines(path: Path) -> Iterator[bytes]:
    for number, raw in enumerate(raw_lines(path)):
        yield clean_line(raw, first=number == 0)


def _look(path: Path) -> str | None:
    """What the first line of a manifest describes; None if that is nothing with audio."""
    try:
        values = parse_json(first_line(path, LONGEST_LINE_BYTES))
    except (AudioError, ManifestError):
        return None
    return item_of(values) or (_PLAIN if path_field_of(values) else None)


def _may_be(path: Path) -> bool:
    return path.name.endswith(_ENDINGS) and path.is_file()


def _supervisions_beside(path: Path) -> Path | None:
    """The supervisions of a file of recordings: of the same name but for that word."""
    stem = path.name.removesuffix(".gz").removesuffix(".jsonl")
    if "recordings" not in stem:
        return None
    stem = "supervisions".join(stem.rsplit("recordings", 1))
    beside = [path.with_name(stem + ending) for ending in _ENDINGS]
    return next((each for each in beside if each.is_file()), None)

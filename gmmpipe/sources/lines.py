"""The plain lines of manifests: streamed, or by byte offset from a file that holds them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from gmmpipe.errors import ManifestError
from gmmpipe.files import atomic_file
from gmmpipe.sources.manifest import Manifest, clean_line
from gmmpipe.sources.registry import kind_named

_MOST_OPEN_FILES = 16  # a corpus may have a manifest a speaker


def read_lines(
    manifest: Manifest, passed_over: Counter[str] | None = None
) -> Iterator[tuple[int, bytes]]:
    """Each plain line's byte offset and raw bytes, blank lines too.

    Args:
        manifest: what is read.
        passed_over: counts what a translation leaves out; see `SourceKind.translate`.

    Raises:
        ManifestError: the file cannot be read, or is damaged.
    """
    if manifest.lines_path is None:
        offset = 0
        counts = Counter[str]() if passed_over is None else passed_over
        for raw in kind_named(manifest.kind).translate(manifest.path, counts):
            yield offset, raw
            offset += len(raw)
        return
    offset = 0
    try:
        with open(manifest.lines_path, "rb") as file:
            for raw in file:
                yield offset, raw
                offset += len(raw)
    except OSError as error:
        raise ManifestError(f"{manifest.path}: cannot be read: {error.strerror}") from error


def with_plain_lines(manifests: Sequence[Manifest], folder: Path) -> list[Manifest]:
    """The same manifests, the plain lines of each one in a file.

    Those that are not plain files are translated into `folder`, which several processes may do at
    once. A translation that an earlier run left there stays if it has the same bytes.

    Raises:
        ManifestError: a manifest cannot be read, or is damaged.
        GmmpipeError: the disk is full.
    """
    placed = []
    for number, manifest in enumerate(manifests):
        if manifest.lines_path is None:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{number:06d}.jsonl"
            if not _is_translation(path, manifest):
                with atomic_file(path) as file:
                    file.writelines(raw for _, raw in read_lines(manifest))
            manifest = replace(manifest, lines_path=path)
        placed.append(manifest)
    return placed


def _is_translation(path: Path, manifest: Manifest) -> bool:
    """Whether a file holds what `manifest` translates to."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        same = all(file.read(len(raw)) == raw for _, raw in read_lines(manifest))
        return same and not file.read(1)


class OpenManifests:
    """Plain lines of manifests by byte offset; the last few files stay open."""

    def __init__(self) -> None:
        self._files: dict[Path, BinaryIO] = {}

    def __enter__(self) -> "OpenManifests":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def line_at(self, manifest: Manifest, byte_offset: int) -> bytes:
        """The cleaned line that begins at `byte_offset`, which is not blank.

        Raises:
            ManifestError: the manifest cannot be read, or no line begins there any more.
        """
        path = manifest.lines_path
        assert path is not None, "a manifest is translated before its lines are looked up"
        try:
            file = self._files.get(path)
            if file is None:
                if len(self._files) == _MOST_OPEN_FILES:
                    self.close()
                file = self._files[path] = open(path, "rb")
            file.seek(max(0, byte_offset - 1))
            begins = byte_offset == 0 or file.read(1) == b"\n"
            line = clean_line(file.readline(), first=byte_offset == 0)
        except OSError as error:
            raise ManifestError(f"{manifest.path}: cannot be read: {error.strerror}") from error
        if not begins or not line:
            raise ManifestError(
                f"{manifest.path}: changed while it was in use: no line begins at byte "
                f"{byte_offset} any more"
            )
        return line

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

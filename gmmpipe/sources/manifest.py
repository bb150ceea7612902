"""A manifest: a file of a source, where its plain lines are, and where one line stands in it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Manifest:
    """One file of a source.

    Args:
        path: the user's file, or a folder where that is the unit. Relative audio paths start in the
            folder that holds the file, or in the folder itself.
        name: its path relative to the ``--data_dir`` entry that led to it; what samples record.
        kind: the kind of source that it is of.
        lines_path: the file that holds its plain lines: `path` itself if it is a plain file, None
            if it has to be translated first.
        is_folder: whether `path` is a folder.
        has_found_paths: whether its relative audio paths are of files that were found beside it or
            in it. ``--base_path`` does not move those.
    """

    path: Path
    name: str
    kind: str
    lines_path: Path | None = None
    is_folder: bool = False
    has_found_paths: bool = False

    @cached_property
    def audio_folder(self) -> Path:
        """Where relative audio paths start without a ``--base_path``."""
        return self.path if self.is_folder else self.path.parent

    def start_of(self, wav_path: str, base_path: Path | None) -> Path:
        """Where an audio path starts if it is relative, and ``--base_path`` is this.

        An archive's own members are where it lies, as are other files that were found.
        """
        if base_path is None or self.has_found_paths or wav_path.startswith(f"{self.path.name}#"):
            return self.audio_folder
        return base_path


def folder_manifest(path: Path, kind: str) -> Manifest:
    """A folder as the manifest of the files that are found in it."""
    return Manifest(path, path.name, kind, is_folder=True, has_found_paths=True)


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


def clean_line(raw: bytes, first: bool) -> bytes:
    """A manifest line without its BOM (on the first line), line end and outer blanks."""
    return (raw.removeprefix(_BOM) if first else raw).strip()

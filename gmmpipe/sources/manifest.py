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
    """

    path: Path
    name: str
    kind: str
    lines_path: Path | None = None
    is_folder: bool = False

    @cached_property
    def audio_folder(self) -> Path:
        """Where relative audio paths start."""
        return self.path if self.is_folder else self.path.parent


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

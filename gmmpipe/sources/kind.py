"""What a kind of source is. A new kind is a new module here, and its line in the registry."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Protocol

from gmmpipe.sources.manifest import Manifest


class Specificity(IntEnum):
    """How much a path must have to be of a kind; more specific kinds are asked first."""

    LAYOUT = 0
    """Files of certain names side by side, or contents that a less specific kind could read too."""
    CONTENT = 1
    """Manifests, or a folder of those. What lies beside them is what they name."""
    ARCHIVE = 2
    """Archives and Parquet files, or a folder of those."""
    BESIDE = 3
    """What often lies beside manifests or archives, and then only describes them: tables, and a
    .json beside each audio file."""
    LOOSE = 4
    """A folder that holds any audio."""


@dataclass(frozen=True)
class Found:
    """What a kind sees in a path of its own.

    Args:
        manifests: the files that have utterances, in order.
        passed_over: the names of other files in a folder, which are not read.
    """

    manifests: list[Manifest]
    passed_over: list[str] = field(default_factory=list)


class SourceKind(Protocol):
    """A translator from what a user has to plain manifest lines."""

    name: str
    """What ``--source_kind`` calls it."""
    looks_like: str
    """What its sources look like, in a few words for an error message."""
    specificity: Specificity
    """When it is asked."""
    is_streamed: bool
    """Whether its audio can be read from front to end only, like that in a tar.gz."""

    def find(self, path: Path, ignored: Path | None = None) -> Found | None:
        """What there is to read at `path`, an absolute one that exists; None: no such source.

        Args:
            path: a file or a folder.
            ignored: a file that is no part of any source, even if it looks like one.

        Raises:
            ManifestError: it is one, and cannot be read.
        """

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """The plain manifest lines of one file, with their line ends.

        Args:
            path: the file, or the folder.
            passed_over: counts what is in it and is neither an utterance nor a line, by what it is:
                ``a folder``, ``.txt``.

        The n-th line given is what rejects and samples call line n of the file, so a blank one
        stands for a line of the file that is no utterance and no reject. Relative audio paths
        start in the manifest's `audio_folder`. The same file must always give the same lines.

        Raises:
            ManifestError: the file cannot be read, or is damaged.
        """

"""Every kind of source that there is."""

from gmmpipe.sources.folder import AudioFolder
from gmmpipe.sources.jsonl import JsonLines
from gmmpipe.sources.kind import SourceKind
from gmmpipe.sources.manifest import Manifest

KINDS: tuple[SourceKind, ...] = (JsonLines(), AudioFolder())
"""A new kind gets its place here, and nowhere else; the order does not matter."""

AUTO = "auto"
"""The ``--source_kind`` that leaves the choice to what a source looks like."""


def is_streamed(manifest: Manifest) -> bool:
    """Whether the audio of a manifest can be read from front to end only."""
    return kind_named(manifest.kind).is_streamed


def kind_names() -> list[str]:
    """What ``--source_kind`` can say."""
    return [AUTO, *dict.fromkeys(kind.name for kind in KINDS)]


def kind_named(name: str) -> SourceKind:
    """The kind of that name, the first where several share it to be found in several ways.

    Raises:
        KeyError: there is none.
    """
    return {kind.name: kind for kind in reversed(KINDS)}[name]

"""Every kind of source that there is."""

from gmmpipe.sources.jsonl import JsonLines
from gmmpipe.sources.kind import SourceKind

KINDS: tuple[SourceKind, ...] = (JsonLines(),)
"""A new kind gets its place here, and nowhere else; the order does not matter."""

AUTO = "auto"
"""What ``--source_kind`` says where a source's looks shall decide."""


def kind_names() -> list[str]:
    """What ``--source_kind`` can say."""
    return [AUTO, *(kind.name for kind in KINDS)]


def kind_named(name: str) -> SourceKind:
    """The kind of that name.

    Raises:
        KeyError: there is none.
    """
    return {kind.name: kind for kind in KINDS}[name]

"""What ``--data_dir`` names: sources, their kinds, and their manifests in order."""

import logging
from dataclasses import dataclass
from pathlib import Path

from gmmpipe.errors import ManifestError
from gmmpipe.sources import registry
from gmmpipe.sources.kind import Found, SourceKind
from gmmpipe.sources.manifest import Manifest
from gmmpipe.sources.patterns import named_paths

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One entry of ``--data_dir``.

    Args:
        entry: the entry as it was given.
        kinds: the kinds of what it names; one, unless a pattern names sources of several.
        found: what there is to read.
    """

    entry: str
    kinds: list[str]
    found: Found


def find_sources(data_dir: str, source_kind: str = registry.AUTO) -> list[Source]:
    """The sources that a comma-separated list of paths and patterns names, in order.

    Args:
        data_dir: the list.
        source_kind: the kind that all of them are of, or ``auto``: whatever they look like.

    Raises:
        ManifestError: an entry does not exist, is no source, or could be one of several kinds.
    """
    sources = []
    for entry, paths in named_paths(data_dir):
        kinds: dict[str, None] = {}
        whole = Found([])
        for path in paths:
            # Absolute, because workers may run in another folder.
            kind, found = _look(path.absolute(), source_kind, str(path))
            kinds[kind.name] = None
            whole.manifests.extend(found.manifests)
            whole.passed_over.extend(found.passed_over)
            whole.doubtful.extend(found.doubtful)
        sources.append(Source(entry, list(kinds), whole))
    if not sources:
        raise ManifestError("no manifest given")
    return sources


def find_manifests(data_dir: str, source_kind: str = registry.AUTO) -> list[Manifest]:
    """The manifests of those sources, in order; a warning names files that may be meant too.

    Raises:
        ManifestError: as `find_sources`.
    """
    sources = find_sources(data_dir, source_kind)
    for source in sources:
        if doubtful := source.found.doubtful:
            log.warning(
                "warning: %s: its .jsonl files alone are read, not %s; name files one by one, or "
                "with a pattern, to have others read",
                source.entry,
                doubtful[0] + (f" and {len(doubtful) - 1} more" if doubtful[1:] else ""),
            )
    return [manifest for source in sources for manifest in source.found.manifests]


def _look(path: Path, source_kind: str, name: str) -> tuple[SourceKind, Found]:
    """The kind of a path, and what there is to read."""
    if source_kind != registry.AUTO:
        kind = registry.kind_named(source_kind)
        if found := kind.find(path):
            return kind, found
        raise ManifestError(f"{name}: no {kind.name} source, which is {kind.looks_like}")
    for specificity in sorted({kind.specificity for kind in registry.KINDS}):
        asked = [kind for kind in registry.KINDS if kind.specificity == specificity]
        claims = [(kind, found) for kind in asked if (found := kind.find(path))]
        if len(claims) > 1:
            names = " or ".join(kind.name for kind, _ in claims)
            raise ManifestError(f"{name}: could be read as {names}; say which with --source_kind")
        if claims:
            return claims[0]
    known = "; ".join(f"{kind.name} ({kind.looks_like})" for kind in registry.KINDS)
    if path.is_dir():
        raise ManifestError(
            f"{name}: no *.jsonl manifest in this folder, and it is no other source: {known}"
        )
    raise ManifestError(f"{name}: neither a folder nor a .jsonl file, nor another source: {known}")

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
        folders: those of the paths that it names which are folders.
        found: what there is to read.
    """

    entry: str
    kinds: list[str]
    folders: list[Path]
    found: Found


def find_sources(
    data_dir: str, source_kind: str = registry.AUTO, ignored: Path | None = None
) -> list[Source]:
    """The sources that a comma-separated list of paths and patterns names, in order.

    Args:
        data_dir: the list.
        source_kind: the kind that all of them are of, or ``auto``: whatever they look like.
        ignored: a file that is no part of any of them.

    Raises:
        ManifestError: an entry does not exist, is no source, or could be one of several kinds.
    """
    sources = []
    for entry, paths in named_paths(data_dir):
        looks = [_look(path, source_kind, ignored) for path in paths]
        found = Found(
            manifests=[manifest for _, found in looks for manifest in found.manifests],
            passed_over=[name for _, found in looks for name in found.passed_over],
            doubtful=[name for _, found in looks for name in found.doubtful],
        )
        kinds = dict.fromkeys(kind.name for kind, _ in looks)
        folders = [path.absolute() for path in paths if path.is_dir()]
        sources.append(Source(entry, list(kinds), folders, found))
    if not sources:
        raise ManifestError("no manifest given")
    return sources


def find_manifests(
    data_dir: str, source_kind: str = registry.AUTO, ignored: Path | None = None
) -> list[Manifest]:
    """The manifests of those sources, in order; a warning names files that may be meant too.

    Arguments and errors are those of `find_sources`.
    """
    sources = find_sources(data_dir, source_kind, ignored)
    for source in sources:
        if doubtful := source.found.doubtful:
            log.warning(
                "warning: %s: its .jsonl files alone are read, not %s; name files one by one, or "
                "with a pattern, to have others read",
                source.entry,
                doubtful[0] + (f" and {len(doubtful) - 1} more" if doubtful[1:] else ""),
            )
    return [manifest for source in sources for manifest in source.found.manifests]


def _look(name: Path, source_kind: str, ignored: Path | None) -> tuple[SourceKind, Found]:
    """The kind of the path of this name, and what there is to read."""
    path = name.absolute()  # workers may run in another folder
    if source_kind != registry.AUTO:
        kind = registry.kind_named(source_kind)
        if found := kind.find(path, ignored):
            return kind, found
        raise ManifestError(f"{name}: no {kind.name} source, which is {kind.looks_like}")
    for specificity in sorted({kind.specificity for kind in registry.KINDS}):
        asked = [kind for kind in registry.KINDS if kind.specificity == specificity]
        claims = [(kind, found) for kind in asked if (found := kind.find(path, ignored))]
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

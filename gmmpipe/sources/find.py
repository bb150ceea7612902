"""What ``--data_dir`` names: sources, their kinds, and their manifests in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from gmmpipe.errors import ManifestError
from gmmpipe.sources import registry
from gmmpipe.sources.kind import Found, SourceKind
from gmmpipe.sources.manifest import Manifest
from gmmpipe.sources.patterns import named_paths


@dataclass(frozen=True)
class Source:
    """One entry of ``--data_dir``.

    Args:
        entry: the entry as it was given.
        paths: the paths that it names, absolute; one, unless it is a pattern.
        manifests: the files in them that have utterances, in order.
        passed_over: the names of other files there, which are not read.
    """

    entry: str
    paths: list[Path]
    manifests: list[Manifest]
    passed_over: list[str]


def find_sources(
    data_dir: str, source_kind: str = registry.AUTO, ignored: Path | None = None
) -> list[Source]:
    """The sources that a comma-separated list of paths and patterns names, in order.

    Args:
        data_dir: the list.
        source_kind: the kind of all of them, or ``auto``, which goes by what each looks like.
        ignored: a file that is no part of any of them.

    Raises:
        ManifestError: an entry does not exist, is no source, or could be one of several kinds.
    """
    sources = []
    for entry, paths in named_paths(data_dir):
        found = [_look(path, source_kind, ignored) for path in paths]
        sources.append(
            Source(
                entry,
                [path.absolute() for path in paths],
                [manifest for each in found for manifest in each.manifests],
                [name for each in found for name in each.passed_over],
            )
        )
    if not sources:
        raise ManifestError("no manifest given")
    return sources


def find_manifests(
    data_dir: str, source_kind: str = registry.AUTO, ignored: Path | None = None
) -> list[Manifest]:
    """The manifests of those sources, in order; arguments and errors as of `find_sources`."""
    sources = find_sources(data_dir, source_kind, ignored)
    return [manifest for source in sources for manifest in source.manifests]


def _look(name: Path, source_kind: str, ignored: Path | None) -> Found:
    """What there is to read at the path of this name."""
    path = name.absolute()  # workers may run in another folder
    asked = [kind for kind in registry.KINDS if source_kind in (registry.AUTO, kind.name)]
    asked.sort(key=lambda kind: kind.specificity)
    empty = None
    for _, alike in groupby(asked, lambda kind: kind.specificity):
        claims = {kind.name: found for kind in alike if (found := kind.find(path, ignored))}
        if len(claims) > 1:
            names = " or ".join(claims)
            raise ManifestError(f"{name}: could be read as {names}; say which with --source_kind")
        for found in claims.values():
            if found.manifests:
                return found
            empty = found  # all that is there is ignored, unless another kind has more
    if empty:
        return empty
    known = _known(path, asked)
    if source_kind != registry.AUTO:
        raise ManifestError(f"{name}: no {source_kind} source: {known}")
    if path.is_dir():
        raise ManifestError(
            f"{name}: no *.jsonl manifest in this folder, nor another source: {known}"
        )
    raise ManifestError(f"{name}: neither a folder nor a .jsonl file, nor another source: {known}")


def _known(path: Path, asked: Sequence[SourceKind]) -> str:
    """What sources look like, of the kinds that know the ending of `path`; else of which kinds."""
    alike = [kind for kind in asked if path.suffix and path.suffix.lower() in kind.looks_like]
    if alike or len({kind.name for kind in asked}) == 1:
        each = (f"{kind.name} ({kind.looks_like})" for kind in alike or asked)
        return "; ".join(dict.fromkeys(each))
    return ", ".join(dict.fromkeys(kind.name for kind in asked))

"""What sources hold, by their lines alone: no audio is opened."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from gmmpipe.errors import AudioError, ManifestError, OptionError
from gmmpipe.files import atomic_file, canonical_json
from gmmpipe.sources.find import Source
from gmmpipe.sources.line_fields import RANGE_FIELD
from gmmpipe.sources.lines import read_lines
from gmmpipe.sources.manifest import ManifestLine, clean_line
from gmmpipe.sources.utterance import ParsedLine, Utterance, audio_path

_EXAMPLES = 3


@dataclass
class Survey:
    """What one source holds.

    Args:
        source: the entry as it was given.
        kind: the kind of source.
        manifests: how many files have utterances.
        lines: how many lines of those are not blank.
        utterances: how many lines name an utterance.
        stated: how many utterances state how long they are.
        seconds: how long those are together.
        first: the first utterances as they were understood: ``key``, ``manifest``, ``line``,
            ``path`` (where the audio is looked for), ``offset_seconds``, ``duration_seconds`` and
            ``channel``.
        passed_over_files: what in a folder or an archive is not read, by its ending or what it is.
        passed_over_lines: lines that are no utterance, by the reason that rejects have.
    """

    source: str
    kind: str
    manifests: int
    passed_over_files: Counter[str]
    lines: int = 0
    utterances: int = 0
    stated: int = 0
    seconds: float = 0.0
    first: list[dict[str, Any]] = field(default_factory=list)
    passed_over_lines: Counter[str] = field(default_factory=Counter)

    @property
    def hours(self) -> float | None:
        """How long the utterances are that state it, together; None where none does."""
        return round(self.seconds / 3600, 6) if self.stated else None

    def add(self, utterance: Utterance, line: ManifestLine, path: str) -> None:
        """Count an utterance; `path` is where its audio is looked for."""
        self.utterances += 1
        if utterance.duration_seconds is not None:
            self.stated += 1
            self.seconds += utterance.duration_seconds
        if len(self.first) < _EXAMPLES:
            example = {
                "key": utterance.key,
                "manifest": line.manifest.name,
                "line": line.number,
                "path": path,
                "offset_seconds": utterance.offset_seconds,
                "duration_seconds": utterance.duration_seconds,
                "channel": utterance.channel,
            }
            self.first.append(example)


def survey(
    sources: Sequence[Source], base_path: Path | None = None, output: Path | None = None
) -> list[Survey]:
    """Read all lines of the sources.

    Args:
        sources: what to read.
        base_path: where relative audio paths start; None for their manifest's folder.
        output: where to write the sources as one plain manifest, or None. Its audio paths are
            absolute. A line that is no utterance is blank there, so that all others keep their
            numbers over all manifests, and with those their keys.

    Raises:
        ManifestError: a manifest cannot be read, or no line names an utterance; `output` then stays
            as it was.
        OptionError: `output` is, or would become, a part of the sources.
    """
    base_path = base_path.absolute() if base_path else None
    if output is None:
        return _survey(sources, base_path, lambda line: None)
    output = output.absolute()
    _refuse_own_output(sources, output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as file:
        return _survey(sources, base_path, file.write)


def _survey(
    sources: Sequence[Source], base_path: Path | None, write: Callable[[bytes], object]
) -> list[Survey]:
    """`survey`; a plain line for each line of the sources goes to `write`."""
    surveys = []
    ordinals, key_hashes = count(1), set[int]()
    for source in sources:
        totals = Survey(
            source.entry,
            ", ".join(dict.fromkeys(manifest.kind for manifest in source.manifests)),
            len(source.manifests),
            Counter(os.path.splitext(name)[1] or "no ending" for name in source.passed_over),
        )
        surveys.append(totals)
        for line, cleaned in _lines(source, ordinals, totals.passed_over_files):
            plain = b""
            try:
                if cleaned:
                    totals.lines += 1
                    utterance = _utterance(cleaned, line, key_hashes)
                    path = audio_path(utterance.wav_path, line, base_path)
                    plain = _plain(utterance, path)
                    totals.add(utterance, line, path)
            except AudioError as error:
                totals.passed_over_lines[error.reason] += 1
            write(plain + b"\n")
    _refuse_empty(surveys)
    return surveys


def _lines(
    source: Source, ordinals: Iterator[int], passed_over: Counter[str]
) -> Iterator[tuple[ManifestLine, bytes]]:
    """The cleaned lines of a source, blank ones too, numbered over all sources."""
    for manifest in source.manifests:
        for number, (offset, raw) in enumerate(read_lines(manifest, passed_over), start=1):
            line = ManifestLine(manifest, number, next(ordinals))
            yield line, clean_line(raw, first=offset == 0)


def _utterance(cleaned: bytes, line: ManifestLine, key_hashes: set[int]) -> Utterance:
    """What a line says; AudioError where it says nothing, or repeats the key of an earlier one."""
    parsed = ParsedLine(cleaned)
    key = parsed.key(line.ordinal)
    is_new = hash(key) not in key_hashes
    if key is not None:
        key_hashes.add(hash(key))
    utterance = parsed.utterance(line.ordinal)
    if not is_new:
        raise AudioError("duplicate_id", f"an earlier line has the key {key}")
    return utterance


def _plain(utterance: Utterance, path: str) -> bytes:
    """The line of a plain manifest that says what `utterance` is, with its audio at `path`."""
    values = {**utterance.carried, "wav_path": path}
    if utterance.archive_range is not None:
        values[RANGE_FIELD] = list(utterance.archive_range)
    return canonical_json(values).encode()


def _refuse_empty(surveys: Sequence[Survey]) -> None:
    """Raise ManifestError where no line of any source names an utterance."""
    if any(totals.utterances for totals in surveys):
        return
    reasons = sum((totals.passed_over_lines for totals in surveys), Counter[str]())
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    names = ", ".join(totals.source for totals in surveys)
    raise ManifestError(f"{names}: no line names an utterance" + (counts and f" ({counts})"))


def _refuse_own_output(sources: Sequence[Source], output: Path) -> None:
    """Refuse an output that would be read as a part of the sources, now or the next time."""
    output = output.resolve()
    for source in sources:
        if any(output == manifest.path.resolve() for manifest in source.manifests):
            raise OptionError(f"--output {output} is one of the manifests that are read")
        if any(output.parent == path.resolve() for path in source.paths):
            raise OptionError(f"--output {output} lies in a folder that is read as a source")

"""What sources hold, by their lines alone: no audio is opened."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gmmpipe.errors import AudioError, ManifestError, OptionError
from gmmpipe.files import atomic_file, canonical_json
from gmmpipe.sources.find import Source
from gmmpipe.sources.lines import read_lines
from gmmpipe.sources.manifest import ManifestLine, clean_line
from gmmpipe.sources.utterance import ParsedLine, Utterance, audio_path

_EXAMPLES = 3


@dataclass(frozen=True)
class Example:
    """An utterance as its line was understood; `path` is where its audio is looked for."""

    key: str
    manifest: str
    line: int
    path: str
    offset_seconds: float | None
    duration_seconds: float | None
    channel: int | None


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
        first: the first utterances.
        passed_over_files: files in a folder that are not read, by their ending.
        passed_over_lines: lines that are no utterance, by the reason that rejects have.
    """

    source: str
    kind: str
    manifests: int
    lines: int = 0
    utterances: int = 0
    stated: int = 0
    seconds: float = 0.0
    first: list[Example] = field(default_factory=list)
    passed_over_files: dict[str, int] = field(default_factory=dict)
    passed_over_lines: dict[str, int] = field(default_factory=dict)

    @property
    def hours(self) -> float | None:
        """How long the utterances are that state it, together; None where none does."""
        return round(self.seconds / 3600, 6) if self.stated else None


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
    if output is None:
        return _survey(sources, _Reader(base_path, lambda line: None))
    _refuse_own_output(sources, output.absolute())
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output.absolute()) as file:
        return _survey(sources, _Reader(base_path, file.write))


def _survey(sources: Sequence[Source], reader: "_Reader") -> list[Survey]:
    surveys = [reader.read(source) for source in sources]
    if not any(said.utterances for said in surveys):
        reasons = sum((Counter(said.passed_over_lines) for said in surveys), Counter[str]())
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        names = ", ".join(said.source for said in surveys)
        raise ManifestError(f"{names}: no line names an utterance" + (counts and f" ({counts})"))
    return surveys


class _Reader:
    """Reads one source after the other, for keys and line numbers go over all of them.

    Args:
        base_path: where relative audio paths start; None for their manifest's folder.
        on_line: gets a plain manifest line for each line of the sources.
    """

    def __init__(self, base_path: Path | None, on_line: Callable[[bytes], object]) -> None:
        self._base_path, self._on_line = base_path, on_line
        self._ordinal = 0
        self._key_hashes: set[int] = set()

    def read(self, source: Source) -> Survey:
        """What one source holds."""
        endings = (os.path.splitext(name)[1] or "no ending" for name in source.found.passed_over)
        said = Survey(
            source.entry,
            ", ".join(source.kinds),
            len(source.found.manifests),
            passed_over_files=dict(sorted(Counter(endings).items())),
        )
        reasons: Counter[str] = Counter()
        for line, cleaned in self._lines(source):
            if not cleaned:
                self._on_line(b"\n")
                continue
            said.lines += 1
            try:
                self._add(said, line, ParsedLine(cleaned))
            except AudioError as error:
                reasons[error.reason] += 1
                self._on_line(b"\n")
        said.passed_over_lines = dict(sorted(reasons.items()))
        return said

    def _lines(self, source: Source) -> Iterator[tuple[ManifestLine, bytes]]:
        """The cleaned lines of a source, blank ones too."""
        for manifest in source.found.manifests:
            for number, (offset, raw) in enumerate(read_lines(manifest), start=1):
                self._ordinal += 1
                line = ManifestLine(manifest, number, self._ordinal)
                yield line, clean_line(raw, first=offset == 0)

    def _add(self, said: Survey, line: ManifestLine, parsed: ParsedLine) -> None:
        """Count an utterance; AudioError where the line is none."""
        key = parsed.key(line.ordinal)
        is_new = hash(key) not in self._key_hashes
        if key is not None:
            self._key_hashes.add(hash(key))
        utterance = parsed.utterance(line.ordinal)
        path = audio_path(utterance.wav_path, line, self._base_path)
        plain = _plain_line(utterance, path)
        if not is_new:
            raise AudioError("duplicate_id", f"an earlier line has the key {key}")
        self._on_line(plain)
        said.utterances += 1
        if utterance.duration_seconds is not None:
            said.stated += 1
            said.seconds += utterance.duration_seconds
        if len(said.first) < _EXAMPLES:
            example = Example(
                utterance.key,
                line.manifest.name,
                line.number,
                path,
                utterance.offset_seconds,
                utterance.duration_seconds,
                utterance.channel,
            )
            said.first.append(example)


def _plain_line(utterance: Utterance, path: str) -> bytes:
    """A manifest line that means the same wherever it lies."""
    try:
        return canonical_json({**utterance.carried, "wav_path": path}).encode() + b"\n"
    except (ValueError, RecursionError) as error:
        raise AudioError("bad_json", str(error)) from error


def _refuse_own_output(sources: Sequence[Source], output: Path) -> None:
    """Refuse an output that would be read as a part of the sources, now or the next time."""
    for source in sources:
        manifests = source.found.manifests
        if any(output == manifest.path for manifest in manifests):
            raise OptionError(f"--output {output} is one of the manifests that are read")
        if any(output.parent == folder for folder in source.folders):
            raise OptionError(f"--output {output} lies in a folder that is read as a source")

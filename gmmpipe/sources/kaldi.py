"""``kaldi``: a data folder with ``wav.scp``, and ``segments`` if there is one."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gmmpipe.errors import AudioError
from gmmpipe.sources.kind import Found, Specificity
from gmmpipe.sources.line_fields import LONGEST_SECONDS
from gmmpipe.sources.manifest import Manifest
from gmmpipe.sources.plain_line import BLANK_LINE, plain_line
from gmmpipe.sources.refusal import refused_line
from gmmpipe.sources.text_file import raw_lines

_RECORDINGS, _SEGMENTS = "wav.scp", "segments"
_CARRIED = {"utt2spk": "speaker", "text": "text"}
"""The files that say more of an utterance, and the field that it becomes."""


class Kaldi:
    """A data folder of Kaldi's recipes: an utterance is a segment, or else a recording."""

    name = "kaldi"
    looks_like = "a folder with a wav.scp"
    specificity = Specificity.LAYOUT
    is_streamed = False

    def find(self, path: Path, ignored: Path | None = None) -> Found | None:
        """See `SourceKind`. The manifest is ``segments`` if it is there, else ``wav.scp``."""
        if not (path / _RECORDINGS).is_file():
            return None
        there = {name for name in os.listdir(path) if name[:1] != "."}
        name = _SEGMENTS if _SEGMENTS in there else _RECORDINGS
        others = there.difference((_RECORDINGS, _SEGMENTS, *_CARRIED))
        return Found([Manifest(path / name, name, self.name)], sorted(others))

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """See `SourceKind`. Line n is of line n of ``segments``, or else of ``wav.scp``."""
        carried = {name: _Lookup(path.parent / file) for file, name in _CARRIED.items()}
        is_segments = path.name == _SEGMENTS
        recordings = dict(_entries(path.parent / _RECORDINGS)) if is_segments else {}
        for raw in raw_lines(path):
            if not raw.strip():
                yield BLANK_LINE
                continue
            try:
                fields = _segment(raw, recordings) if is_segments else _recording(raw)
            except AudioError as error:
                yield refused_line(error)
            else:
                more = {name: lookup.get(str(fields["id"])) for name, lookup in carried.items()}
                yield plain_line({**fields, **more})


def _recording(raw: bytes) -> dict[str, object]:
    """The fields of a line of ``wav.scp``; AudioError if it has no path."""
    identifier, path = _split(raw)
    if not path:
        raise AudioError("missing_path", f"no path behind {identifier}")
    return {"id": identifier, "wav_path": path}


def _segment(raw: bytes, recordings: dict[str, str]) -> dict[str, object]:
    """The fields of a line of ``segments``; AudioError if it has others, or no such recording."""
    words = [_text(word) for word in raw.split()]
    if len(words) not in (4, 5):
        raise AudioError("bad_json", f"{len(words)} words, not 4 or 5")
    identifier, recording, start, end = words[:4]
    if not recordings.get(recording):
        raise AudioError("missing_path", f"no path of the recording {recording} in {_RECORDINGS}")
    return {
        "id": identifier,
        "recording": recording,
        "wav_path": recordings[recording],
        "start": _number(start),
        "end": _number(end),
        "channel": words[4] if len(words) == 5 else None,
    }


class _Lookup:
    """What a file says of each utterance, which is asked for in the order of the file, mostly.

    Kaldi sorts all files of a folder alike, so little of a file is ever in memory: what was passed
    on the way to what was asked for.

    Args:
        path: the file, which need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._entries = _entries(path) if path.is_file() else iter(())
        self._passed: dict[str, str] = {}

    def get(self, identifier: str) -> str | None:
        """What it says of an utterance, as Unicode; None if that is nothing."""
        value = self._passed.get(identifier)
        while value is None:
            entry = next(self._entries, None)
            if entry is None:
                return None
            if entry[0] == identifier:
                value = entry[1]
            else:
                self._passed.setdefault(*entry)
        return value.encode("utf-8", "replace").decode()


def _entries(path: Path) -> Iterator[tuple[str, str]]:
    """The key of each line, and the rest of it."""
    return (_split(raw) for raw in raw_lines(path) if raw.strip())


def _split(raw: bytes) -> tuple[str, str]:
    """The first word of a line that is not blank, and the rest."""
    identifier, *rest = raw.split(None, 1)
    return _text(identifier), _text(rest[0].strip()) if rest else ""


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _number(text: str) -> float | str:
    """The number that a text is; a text that is none stays, and its line becomes a reject."""
    with suppress(ValueError):
        if abs(number := float(text)) <= LONGEST_SECONDS:
            return number
    return text

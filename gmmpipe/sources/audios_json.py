"""``audios_json``: one JSON of recordings and their segments, as GigaSpeech's is."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.sources.in_folder import manifests_at
from gmmpipe.sources.json_stream import JsonStream
from gmmpipe.sources.kind import Found, Specificity
from gmmpipe.sources.refusal import refused_line
from gmmpipe.sources.text_file import opened

_AUDIOS, _SEGMENTS = "audios", "segments"
_ENDINGS = (".json", ".json.gz")
_MOST_BEFORE = 1 << 20
"""How many characters may stand ahead of the recordings: only what describes the whole corpus."""
_CARRIED = ("aid", "language", "source", "category", "speaker", "subsets")
"""Fields of a recording that its segments get."""


class AudiosJson:
    """A JSON object whose ``audios`` are a list of recordings, each with a list of ``segments``."""

    name = "audios_json"
    looks_like = "a .json of audios with segments, like GigaSpeech's, also .gz, or a folder of it"
    specificity = Specificity.CONTENT
    is_streamed = False

    def find(self, path: Path, ignored: Path | None = None) -> Found | None:
        """See `SourceKind`."""
        return manifests_at(path, self.name, _is_such, ignored, _ENDINGS)

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """See `SourceKind`. Line n is of the n-th segment."""
        with opened(path) as file:
            stream = JsonStream(path, file)
            corpus: dict[str, Any] = {}
            for name in stream.members():
                if name != _AUDIOS:
                    corpus[name] = stream.value()
                    continue
                for audio in stream.elements():
                    yield from _lines(audio, corpus, passed_over)
            stream.end()


def _lines(audio: object, corpus: dict[str, Any], passed_over: Counter[str]) -> Iterator[bytes]:
    """A line of each segment of a recording."""
    if not isinstance(audio, dict):
        yield _line(audio)  # which is no object, and becomes a reject
        return
    segments = audio.get(_SEGMENTS)
    if not isinstance(segments, list) or not segments:
        passed_over["audio without segments"] += 1
        return
    shared = {name: corpus[name] for name in ("language",) if name in corpus}
    shared.update((name, audio[name]) for name in _CARRIED if name in audio)
    path = {"wav_path": audio.get("path")}
    for segment in segments:
        is_known = isinstance(segment, dict)
        yield _line({**shared, **segment, **path} if is_known else segment)


def _line(value: object) -> bytes:
    try:
        return json.dumps(value).encode() + b"\n"
    except RecursionError:
        return refused_line(AudioError("bad_json", "nested too deeply"))


def _is_such(path: Path) -> bool:
    try:
        with opened(path) as file:
            stream = JsonStream(path, file, most=_MOST_BEFORE)
            for name in stream.members():
                if name == _AUDIOS:
                    return stream.peek() == "["
                stream.value()
    except ManifestError:
        pass
    return False

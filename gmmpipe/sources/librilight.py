"""``librilight``: a folder of audio, each file with a .json that says where there is speech."""

import os
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.sources.kind import Found, Specificity
from gmmpipe.sources.line_fields import parse_json
from gmmpipe.sources.manifest import clean_line, folder_manifest
from gmmpipe.sources.plain_line import plain_line
from gmmpipe.sources.refusal import refused_line
from gmmpipe.sources.walk import audio_files

_SPANS = "voice_activity"
_CARRIED = ("speaker", "snr")
_LOOKED_AT = 10
"""Audio files whose .json is looked for, before a folder is taken for one of another kind."""
_LONGEST_JSON_BYTES = 1 << 26


class LibriLight:
    """A folder of recordings in Libri-Light's form: an utterance is a span of voice activity.

    Args:
        is_flat: whether the recordings may lie in the folder itself. Manifests beside those come
            first; the layout of Libri-Light, with folders between, comes before manifests.
    """

    name = "librilight"
    looks_like = f"a folder of audio files at any depth, each with a .json that has {_SPANS}"
    is_streamed = False

    def __init__(self, is_flat: bool = False) -> None:
        self.specificity = Specificity.BESIDE if is_flat else Specificity.LAYOUT
        self._is_flat = is_flat

    def find(self, path: Path, ignored: Path | None = None) -> Found | None:
        """See `SourceKind`. One of the first audio files must have such a .json."""
        if not path.is_dir():
            return None
        try:
            names = list(islice(audio_files(path, Counter()), _LOOKED_AT))
        except ManifestError:  # of no concern if the folder is of another kind
            return None
        if not self._is_flat:
            names = [name for name in names if "/" in name]
        if not any(_SPANS in _described(path, name) for name in names):
            return None
        return Found([folder_manifest(path, self.name)])

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """See `SourceKind`. Line n is of the n-th span in all files.

        A file whose spans are not known becomes a reject, one without spans is passed over.
        """
        num_read = 0
        for name in audio_files(path, passed_over):
            described = _described(path, name)
            num_read += bool(described)
            spans = described.get(_SPANS)
            if not isinstance(spans, list):
                fault = AudioError("bad_json", f"no {_SPANS} in a .json beside the audio")
                yield refused_line(fault, path=name)
                continue
            passed_over["audio without voice activity"] += spans == []
            stem = os.path.splitext(name)[0]
            carried = {field: described.get(field) for field in _CARRIED}
            for number, span in enumerate(spans):
                identifier = f"{stem}_{number:04d}"
                yield plain_line({**carried, "wav_path": name, "id": identifier, **_times(span)})
        passed_over[".json"] -= num_read
        for each in [each for each, count in passed_over.items() if count <= 0]:
            del passed_over[each]


def _described(folder: Path, name: str) -> dict[str, Any]:
    """What the .json of an audio file says; nothing if there is none that can be read."""
    path = folder / f"{os.path.splitext(name)[0]}.json"
    try:
        if not path.is_file():
            return {}
        with open(path, "rb") as file:
            return parse_json(clean_line(file.read(_LONGEST_JSON_BYTES), first=True))
    except (OSError, AudioError):
        return {}


def _times(span: object) -> dict[str, float | str]:
    """The times of a span; of what is none, a text in their place: a reject, ``bad_offset``."""
    if isinstance(span, list) and len(span) == 2 and all(type(t) in (int, float) for t in span):
        start, end = span
        if 0 <= start < end:
            return {"start": start, "end": end}
    return {"start": f"no span of {_SPANS}"}

"""``folder``: audio files of any depth below a folder, and no manifest."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gmmpipe.sources.kind import Found, Specificity
from gmmpipe.sources.manifest import folder_manifest
from gmmpipe.sources.plain_line import plain_line
from gmmpipe.sources.walk import audio_files


class AudioFolder:
    """A folder of audio files, each of them an utterance, as LibriSpeech is unpacked."""

    name = "folder"
    looks_like = "a folder with audio files at any depth"
    specificity = Specificity.LOOSE
    is_streamed = False

    def find(self, path: Path, ignored: Path | None = None) -> Found | None:
        """See `SourceKind`. The walk ends at the first audio file."""
        if not path.is_dir() or next(audio_files(path, Counter()), None) is None:
            return None
        return Found([folder_manifest(path, self.name)])

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """See `SourceKind`. Line n is of the n-th file; its id is its path without the ending."""
        for name in audio_files(path, passed_over):
            yield plain_line({"wav_path": name, "id": os.path.splitext(name)[0]})

"""Samples of a shard on the disk, from the order in which they are made to that of their keys."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gmmpipe.files import scratch_file


@dataclass(frozen=True)
class Sample:
    """What a shard holds of an utterance, and what its audio comes to.

    Args:
        key: the utterance's.
        frames: [T, D] in the stored dtype.
        metadata: the JSON.
        audio: a FLAC file, where the shard keeps audio.
        kept_seconds: length of the source audio in it.
        cropped_seconds: length of the source audio that a crop left out.
        cancels: whether the mean of its channels has lost most of their energy.
        unstated_seconds: by how much its recording is longer than stated; 0 in a window after the
            first.
    """

    key: str
    frames: NDArray[Any]
    metadata: dict[str, Any]
    audio: bytes | None
    kept_seconds: float
    cropped_seconds: float
    cancels: bool
    unstated_seconds: float


def sorted_by_key(samples: Iterable[Sample], shard_path: Path) -> Iterator[Sample]:
    """The samples sorted by key; meanwhile frames and audio are in a nameless file.

    Args:
        samples: in any order.
        shard_path: where the shard will be; the file lies beside it.
    """
    with scratch_file(shard_path) as file:
        entries: list[_Entry] = []
        for sample in samples:
            start, frames, audio = file.tell(), sample.frames, sample.audio
            file.write(frames.data.cast("B"))
            file.write(audio or b"")
            light = replace(sample, frames=np.empty(0, frames.dtype), audio=None)
            entries.append(
                _Entry(light, start, frames.shape, None if audio is None else len(audio))
            )
        for entry in sorted(entries, key=lambda entry: entry.light.key):
            yield _read(file, entry)


@dataclass(frozen=True)
class _Entry:
    """A sample without its frames and audio, and where those are."""

    light: Sample
    start: int
    shape: tuple[int, ...]
    audio_bytes: int | None


def _read(file: BinaryIO, entry: _Entry) -> Sample:
    dtype = entry.light.frames.dtype
    file.seek(entry.start)
    frames = file.read(math.prod(entry.shape) * dtype.itemsize)
    audio = None if entry.audio_bytes is None else file.read(entry.audio_bytes)
    array = np.frombuffer(frames, dtype).reshape(entry.shape)
    return replace(entry.light, frames=array, audio=audio)

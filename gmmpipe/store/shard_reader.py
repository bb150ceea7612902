"""Any part of a shard, in any order: its arrays, and an utterance's waveform where stored."""

import hashlib
import math
from collections.abc import Container
from io import BytesIO
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmmpipe.errors import StoreError
from gmmpipe.store.read_ranges import TORCH_DTYPES, read_frames
from gmmpipe.store.shard import Shard

_MD5_OF_SAMPLES = slice(26, 42)
"""Where a FLAC file keeps the MD5 of its samples: the end of STREAMINFO (RFC 9639, 8.2)."""


class ShardReader:
    """A shard with its indices at hand.

    Args:
        shard: a shard of a `FeatureStore` or a `LabelStore`.

    Raises:
        StoreError: its sidecar is missing or damaged.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._columns = shard.identity.columns
        self._indices = shard.sidecar().indices
        self.index = self._indices[0]

    def read_arrays(
        self, start: int, stop: int, names: Container[str] | None = None
    ) -> dict[str, Tensor]:
        """Frames [start, stop) of columns, [stop - start, width], in their stored dtypes.

        Args:
            start, stop: frame numbers within the shard.
            names: which columns; None for all.

        Raises:
            StoreError: the shard is missing or damaged.
        """
        arrays = {}
        for column, index in zip(self._columns, self._indices, strict=True):
            if names is not None and column.name not in names:
                continue
            out = torch.empty(stop - start, column.width, dtype=TORCH_DTYPES[column.dtype])
            read_frames(self._shard.file.raw_file(column), index, column, start, stop, out)
            arrays[column.name] = out
        return arrays

    def read_frames(self, position: int) -> Tensor:
        """The frames of the utterance at `position` of the index, checked by their CRC.

        Returns:
            float32 [T, D].

        Raises:
            StoreError: the shard is missing, or damaged there; it and the utterance are named.
        """
        begin, end = self.index.frame_offset[position : position + 2].tolist()
        column = self._shard.column
        frames = torch.empty(end - begin, column.width, dtype=torch.float32)
        read_frames(self._shard.file.raw_file(column), self.index, column, begin, end, frames)
        return frames

    def read_waveform(self, position: int) -> Tensor:
        """The waveform of the utterance at `position` of the index, as its features were made of.

        No CRC is recorded of it, but FLAC keeps the MD5 of the samples, and what the JSON, which
        has a CRC, says of them must be so.

        Returns:
            float32 [num_samples].

        Raises:
            StoreError: the shard is missing, damaged there or without audio; it and the utterance
                are named.
        """
        path, key = self._shard.path, self.index.keys[position]
        if not self._shard.has_audio:
            remedy = "gmmpipe featurize --store_audio flac makes stores that do"
            raise StoreError(f"{path}: holds no audio; {remedy}")
        metadata, flac = self._shard.file.read_audio(self.index, position, self._shard.column)
        try:
            return _decode(flac, metadata["num_samples"], metadata["audio_scale"])
        except (ValueError, KeyError, TypeError, soundfile.SoundFileError) as error:
            message = f"{path}: the audio of utterance {key} is corrupt: {error}"
            raise StoreError(message) from error


def _decode(flac: bytes, num_samples: int, scale: float) -> Tensor:
    """The samples of a mono FLAC file times `scale`, float32; ValueError where they differ."""
    if math.frexp(scale)[0] != 0.5:
        raise ValueError(f"audio_scale is {scale}, not a power of two")
    with soundfile.SoundFile(BytesIO(flac)) as file:
        if (file.channels, file.frames) != (1, num_samples):  # a damaged header may claim gigabytes
            raise ValueError(f"{file.channels} x {file.frames} samples, not {num_samples}")
        dtype = "int16" if file.subtype == "PCM_16" else "int32"
        samples: NDArray[Any] = file.read(dtype=dtype)
    if hashlib.md5(_packed(samples), usedforsecurity=False).digest() != flac[_MD5_OF_SAMPLES]:
        raise ValueError("the MD5 of its samples differs")
    full_scale = float(-np.iinfo(dtype).min)
    return torch.from_numpy(samples).to(torch.float32).mul_(scale / full_scale)


def _packed(samples: NDArray[Any]) -> bytes:
    """Samples as FLAC's MD5 is of them: little-endian, 2 or 3 bytes each."""
    if samples.dtype == np.int16:
        return samples.astype("<i2").tobytes()
    # libsndfile puts 24 bits into the upper three of four bytes: every fourth is skipped.
    wide = samples.astype("<i4")
    return np.ndarray(len(wide), "V3", wide, offset=1, strides=(4,)).tobytes()

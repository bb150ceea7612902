"""One recording, or a segment of it, to a mono float32 waveform at the store's sample rate."""

import math
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from torch import Tensor

from gmmpipe.audio.container import AudioFile
from gmmpipe.audio.decoder import BLOCK_SAMPLES, error_text
from gmmpipe.audio.forward import ForwardFile
from gmmpipe.audio.opener import Recording, num_samples, open_audio
from gmmpipe.audio.resample import resample
from gmmpipe.audio.segment import Limit, Part, Segment, Span, find_part, tolerance_seconds
from gmmpipe.errors import AudioError

MIN_RATE, MAX_RATE = 4_000, 192_000
_INEXACT_FORMATS = frozenset({"OGG", "MP3"})
"""Containers whose length is an estimate, or simply where the file happens to end."""

LOST_ENERGY = 100.0
"""20 dB, as a ratio of energies."""


@dataclass(frozen=True)
class Waveform:
    """The waveform of an utterance, or of a window of it.

    Args:
        samples: float32 [S], mono, at the store's rate.
        resampler: ``none``, ``sinc`` (torchaudio's) or ``soxr``.
        start_seconds: where in the recording it begins.
        kept_seconds: length of the source audio in it.
        cropped_seconds: length of the source audio that a crop left out.
        is_source_int16: whether the samples are a 16-bit file's own, over 2^15.
        cancels: whether the mean of the channels has lost more than 20 dB of their energy.
        unstated_seconds: by how much the recording is longer than the segment states, where that is
            more than the tolerance and the whole recording is meant.
    """

    samples: Tensor
    resampler: str
    start_seconds: float
    kept_seconds: float
    cropped_seconds: float
    is_source_int16: bool
    cancels: bool = False
    unstated_seconds: float = 0.0


class _Mixer:
    """Mixes blocks of a file's channels to mono: their mean, or the one channel that is wanted."""

    def __init__(self, channel: int | None) -> None:
        self._channel = channel
        self._energy = self._mixed_energy = 0.0

    @property
    def cancels(self) -> bool:
        """Whether the means so far lost more than 20 dB of the channels' mean energy."""
        return self._energy > LOST_ENERGY * self._mixed_energy

    def mix(self, block: Tensor) -> Tensor:
        """[count, channels] to float32 [count]; int16 over 2^15."""
        scale = 1.0 / 32768.0 if block.dtype == torch.int16 else 1.0
        channels = block.shape[1]
        if channels == 1 or self._channel is not None:
            mono = block[:, self._channel or 0].contiguous()
            return mono if scale == 1.0 else torch.mul(mono, scale, out=torch.empty(len(mono)))
        samples = block.to(torch.float32)
        if channels == 2:  # torch's mean over so short an axis is slow
            mixed = (samples[:, 0] + samples[:, 1]).mul_(0.5 * scale)
        else:
            mixed = samples.mean(1).mul_(scale)
        flat = samples.reshape(-1)
        self._energy += float(flat.dot(flat)) * scale**2 / channels
        self._mixed_energy += float(mixed.dot(mixed))
        return mixed


def load_waveform(
    recording: Recording, sample_rate: int, limit: Limit, segment: Segment | None = None
) -> Waveform:
    """Read, mix down, cut and resample one segment, or one window of it.

    Memory is bounded by the window, never by what a header claims.

    Args:
        recording: a file's path, or its bytes.
        sample_rate: Hz after resampling.
        limit: how long the waveform may be.
        segment: the part that is meant; None for the whole recording, all channels mixed.

    Raises:
        AudioError: the recording is missing, damaged, truncated, or holds what cannot be used.
    """
    segment = segment or Segment()
    with open_audio(recording) as file:
        available = usable_samples(file, recording)
        part = find_part(file, available, limit, segment)
        return read_part(file, part, sample_rate)


def usable_samples(file: AudioFile, recording: Recording) -> int:
    """How many samples an open recording has, if its rate is one that can be used.

    Raises:
        AudioError: unsupported_rate, or the samples can only be counted and not be decoded.
    """
    if not MIN_RATE <= file.samplerate <= MAX_RATE:
        raise AudioError(
            "unsupported_rate", f"{file.samplerate} Hz, outside {MIN_RATE} to {MAX_RATE}"
        )
    return num_samples(file, recording)


def read_part(file: AudioFile | ForwardFile, part: Part, sample_rate: int) -> Waveform:
    """Read, mix down and resample a part of an open recording.

    Raises:
        AudioError: truncated, undecodable or non_finite.
    """
    rate, span = file.samplerate, part.span
    mixer = _Mixer(part.channel)
    samples = _read_mono(file, span, mixer)
    if not math.isfinite(samples.sum()):  # a sum is not if one of its terms is not; and cheaper
        raise AudioError("non_finite", "the samples hold NaN or infinity")
    resampled, resampler = resample(samples, rate, sample_rate)
    is_int16_mono = file.subtype == "PCM_16" and (file.channels == 1 or part.channel is not None)
    return Waveform(
        samples=resampled,
        resampler=resampler,
        start_seconds=span.start / rate,
        kept_seconds=len(samples) / rate,
        cropped_seconds=span.cropped / rate,
        is_source_int16=is_int16_mono and resampler == "none",
        cancels=mixer.cancels,
        unstated_seconds=part.unstated_seconds,
    )


def _read_mono(file: AudioFile | ForwardFile, span: Span, mixer: _Mixer) -> Tensor:
    """What `mixer` makes of the channels over `span`, float32 [count].

    Raises:
        AudioError: truncated or undecodable.
    """
    # 16-bit sources are read as they are and scaled here: the same bits as a float read, cheaper.
    dtype = np.int16 if file.subtype == "PCM_16" else np.float32
    exact = file.format not in _INEXACT_FORMATS
    blocks: list[Tensor] = []
    try:
        file.skip_to(span.start)
        missing = span.count
        while missing > 0:
            shape = (min(missing, BLOCK_SAMPLES), file.channels)
            block = file.read(out=np.empty(shape, dtype))
            if len(block) == 0:
                break
            blocks.append(mixer.mix(torch.from_numpy(block)))
            missing -= len(block)
    except soundfile.LibsndfileError as error:
        # A decoder that gives up before the stated end has decoded fewer samples than stated.
        raise AudioError("truncated" if exact else "undecodable", error_text(error)) from error
    lost_seconds = missing / file.samplerate
    tolerance = 0.0 if exact else tolerance_seconds(span.count / file.samplerate)
    if lost_seconds > tolerance:
        raise AudioError(
            "truncated", f"{span.count - missing} samples decoded where {span.count} are stated"
        )
    if not blocks:
        return torch.zeros(0)
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

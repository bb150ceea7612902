"""One audio file, or a segment of it, to a mono float32 waveform at the store's sample rate."""

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import soundfile
import torch
from torch import Tensor

from gmmpipe.audio.resample import resample
from gmmpipe.audio.sound_file import (
    BLOCK_SAMPLES,
    AudioFile,
    error_text,
    num_samples,
    open_audio,
)
from gmmpipe.audio.stated_length import refuse_truncated
from gmmpipe.errors import AudioError
from gmmpipe.sources.manifest import Utterance
from gmmpipe.store.schema import PlanOptions

MIN_RATE, MAX_RATE = 4_000, 192_000
_INEXACT_FORMATS = frozenset({"OGG", "MP3"})
"""Containers whose length is an estimate or simply where the file happens to end."""

LOST_ENERGY = 100.0
"""20 dB, as a ratio of energies."""


@dataclass(frozen=True)
class Waveform:
    """What one utterance sounds like, ready for `LogMel`.

    Args:
        samples: float32 [S], mono, at the store's rate.
        resampler: ``none``, ``sinc`` (torchaudio's) or ``soxr``.
        start_seconds: where in the file it begins.
        kept_seconds: length of the source audio in it.
        cropped_seconds: length of the source audio that a crop left out.
        is_source_int16: whether the samples are a 16-bit file's own, over 2^15.
        cancels: whether the mean of the channels has lost more than 20 dB of their energy.
        unstated_seconds: by how much the file is longer than its manifest says, where that is by
            more than the tolerance and the whole file is meant.
    """

    samples: Tensor
    resampler: str
    start_seconds: float
    kept_seconds: float
    cropped_seconds: float
    is_source_int16: bool
    cancels: bool = False
    unstated_seconds: float = 0.0


@dataclass(frozen=True)
class _Span:
    """Source samples [start, start + count), and how many beside them a crop leaves out."""

    start: int
    count: int
    cropped: int = 0


class _Mixer:
    """Blocks of a file's channels to mono ones: their mean, or the one that is wanted."""

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
    utterance: Utterance,
    path: str,
    sample_rate: int,
    options: PlanOptions,
    window: int = 0,
    num_windows: int = 1,
) -> Waveform:
    """Read, mix down, cut and resample one utterance, or one window of it.

    Memory is bounded by the window, never by what a header claims.

    Args:
        utterance: what the manifest says.
        path: the file.
        sample_rate: Hz after resampling.
        options: ``max_seconds``, what becomes of ``long_audio``, and the ``seed`` of crops.
        window, num_windows: which of how many windows, where long audio is split.

    Raises:
        AudioError: the file is unsafe, missing, damaged, truncated, or holds what cannot be used.
    """
    with open_audio(path) as file:
        rate = file.samplerate
        if not MIN_RATE <= rate <= MAX_RATE:
            raise AudioError("unsupported_rate", f"{rate} Hz, outside {MIN_RATE} to {MAX_RATE}")
        segment = _segment(utterance, file, num_samples(file, path))
        max_samples = int(options.max_seconds * rate + 1e-6)  # 8.7 s of 44.1 kHz are whole
        if num_windows > 1:
            span = _split(segment, options.max_seconds * rate, window, num_windows)
        elif segment.count > max_samples:
            span = _shorten(segment, max_samples, utterance.key, options)
        else:
            span = segment
        mixer = _Mixer(_channel(utterance, file))
        samples = _read_mono(file, span, mixer)
        is_int16_mono = file.subtype == "PCM_16" and (
            file.channels == 1 or utterance.channel is not None
        )
        unstated_seconds = _unstated_seconds(utterance, segment.count / rate)
    if not math.isfinite(samples.sum()):  # a sum is not if one of its terms is not; and cheaper
        raise AudioError("non_finite", "the samples hold NaN or infinity")
    resampled, resampler = resample(samples, rate, sample_rate)
    return Waveform(
        samples=resampled,
        resampler=resampler,
        start_seconds=span.start / rate,
        kept_seconds=len(samples) / rate,
        cropped_seconds=span.cropped / rate,
        is_source_int16=is_int16_mono and resampler == "none",
        cancels=mixer.cancels,
        unstated_seconds=unstated_seconds,
    )


def _channel(utterance: Utterance, file: AudioFile) -> int | None:
    """The one channel that the manifest line wants, or None for the mean of all."""
    if utterance.channel is not None and utterance.channel >= file.channels:
        raise AudioError(
            "bad_json", f"channel {utterance.channel}, from 0, of {file.channels} in the file"
        )
    return utterance.channel


def _unstated_seconds(utterance: Utterance, seconds: float) -> float:
    """By how much a whole file of so many seconds is longer than the manifest says."""
    stated = utterance.duration_seconds
    if stated is None or utterance.offset_seconds is not None:
        return 0.0
    return seconds - stated if seconds > stated + _tolerance_seconds(stated) else 0.0


def _tolerance_seconds(stated: float) -> float:
    """How far a length may be from what a manifest, or a header that is an estimate, states."""
    return max(0.5, 0.05 * stated)


def _segment(utterance: Utterance, file: AudioFile, available: int) -> _Span:
    """The source samples that the manifest line means, of those that are available."""
    rate = file.samplerate
    refuse_truncated(file)
    offset_seconds = utterance.offset_seconds or 0.0
    start = round(offset_seconds * rate)
    if start and start >= available:
        raise AudioError("bad_offset", f"the offset {offset_seconds} s is beyond the file's end")
    if utterance.duration_seconds is not None:
        promised = offset_seconds + utterance.duration_seconds
        if available / rate < promised - _tolerance_seconds(promised):
            raise AudioError(
                "truncated", f"{available / rate:.3f} s where the manifest promises {promised} s"
            )
    count = available - start
    if utterance.offset_seconds is not None and utterance.duration_seconds is not None:
        count = min(count, round(utterance.duration_seconds * rate))
    return _Span(start, count)


def _shorten(segment: _Span, max_samples: int, key: str, options: PlanOptions) -> _Span:
    """One window of a segment that is too long, or no part of it; split ones it ends."""
    cropped = segment.count - max_samples
    if options.long_audio == "skip":
        raise AudioError("too_long", f"longer than {options.max_seconds} s")
    if options.long_audio == "split":  # longer than its manifest says
        return _Span(segment.start, max_samples, cropped)
    digest = hashlib.sha256(f"crop/{options.seed}/{key}".encode()).digest()
    shift = int.from_bytes(digest[:16], "big") % (cropped + 1)
    return _Span(segment.start + shift, max_samples, cropped)


def _split(segment: _Span, window_samples: float, window: int, num_windows: int) -> _Span:
    """One of consecutive windows; the last one also answers for what lies beyond it."""
    start, stop = (min(round(n * window_samples), segment.count) for n in (window, window + 1))
    is_last = window == num_windows - 1
    return _Span(segment.start + start, stop - start, segment.count - stop if is_last else 0)


def _read_mono(file: AudioFile, span: _Span, mixer: _Mixer) -> Tensor:
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
    tolerance = 0.0 if exact else _tolerance_seconds(span.count / file.samplerate)
    if lost_seconds > tolerance:
        raise AudioError(
            "truncated", f"{span.count - missing} samples decoded where {span.count} are stated"
        )
    if not blocks:
        return torch.zeros(0)
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

"""One recording, or a segment of it, to a mono float32 waveform at the store's sample rate."""

import hashlib
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import soundfile
import torch
from torch import Tensor

from gmmpipe.audio.container import AudioFile
from gmmpipe.audio.decoder import BLOCK_SAMPLES, error_text
from gmmpipe.audio.opener import Recording, num_samples, open_audio
from gmmpipe.audio.resample import resample
from gmmpipe.audio.stated_length import refuse_truncated
from gmmpipe.errors import AudioError

MIN_RATE, MAX_RATE = 4_000, 192_000
_INEXACT_FORMATS = frozenset({"OGG", "MP3"})
"""Containers whose length is an estimate, or simply where the file happens to end."""

LOST_ENERGY = 100.0
"""20 dB, as a ratio of energies."""


@dataclass(frozen=True)
class Segment:
    """Which part of a recording is meant.

    Args:
        offset_seconds: where it begins; None for the whole recording.
        duration_seconds: how long it is; without an offset, how long the recording should be.
        channel: the one channel that is meant, from 0; None for the mean of all.
    """

    offset_seconds: float | None = None
    duration_seconds: float | None = None
    channel: int | None = None


@dataclass(frozen=True)
class Limit:
    """How long a waveform may be, and what becomes of a longer segment.

    Args:
        max_seconds: the longest that is kept whole.
        long_audio: ``crop`` keeps one part, ``split`` keeps consecutive windows, ``skip`` refuses.
        crop_seed: a text that decides where a crop lies.
        window: which window is wanted, from 0, where long audio is split.
        num_windows: of how many.
    """

    max_seconds: float
    long_audio: Literal["crop", "split", "skip"] = "crop"
    crop_seed: str = ""
    window: int = 0
    num_windows: int = 1


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


@dataclass(frozen=True)
class _Span:
    """Source samples [start, start + count), and how many others a crop leaves out."""

    start: int
    count: int
    cropped: int = 0


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
        rate = file.samplerate
        if not MIN_RATE <= rate <= MAX_RATE:
            raise AudioError("unsupported_rate", f"{rate} Hz, outside {MIN_RATE} to {MAX_RATE}")
        whole = _span(segment, file, num_samples(file, recording))
        span = _limited(whole, limit, rate)
        if segment.channel is not None and segment.channel >= file.channels:
            raise AudioError(
                "bad_json", f"channel {segment.channel}, from 0, of {file.channels} in the file"
            )
        mixer = _Mixer(segment.channel)
        samples = _read_mono(file, span, mixer)
        is_int16_mono = file.subtype == "PCM_16" and (
            file.channels == 1 or segment.channel is not None
        )
        unstated_seconds = _unstated_seconds(segment, whole.count / rate)
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


def _unstated_seconds(segment: Segment, seconds: float) -> float:
    """By how many seconds a whole recording of this length is longer than is stated."""
    stated = segment.duration_seconds
    if stated is None or segment.offset_seconds is not None:
        return 0.0
    return seconds - stated if seconds > stated + _tolerance_seconds(stated) else 0.0


def _tolerance_seconds(stated: float) -> float:
    """How far a length may be from what a manifest states, or a header that is an estimate."""
    return max(0.5, 0.05 * stated)


def _span(segment: Segment, file: AudioFile, available: int) -> _Span:
    """The source samples that a segment means, of those that are available."""
    rate = file.samplerate
    refuse_truncated(file)
    offset_seconds = segment.offset_seconds or 0.0
    start = round(offset_seconds * rate)
    if start and start >= available:
        raise AudioError("bad_offset", f"the offset {offset_seconds} s is beyond the file's end")
    if segment.duration_seconds is not None:
        promised = offset_seconds + segment.duration_seconds
        if available / rate < promised - _tolerance_seconds(promised):
            raise AudioError(
                "truncated", f"{available / rate:.3f} s where the manifest promises {promised} s"
            )
    count = available - start
    if segment.offset_seconds is not None and segment.duration_seconds is not None:
        count = min(count, round(segment.duration_seconds * rate))
    return _Span(start, count)


def _limited(whole: _Span, limit: Limit, rate: int) -> _Span:
    """What the limit leaves of a segment; all of it where it is short enough."""
    max_samples = int(limit.max_seconds * rate + 1e-6)  # 8.7 s of 44.1 kHz are whole
    if limit.num_windows > 1:
        return _window(whole, limit, rate)
    cropped = whole.count - max_samples
    if cropped <= 0:
        return whole
    if limit.long_audio == "skip":
        raise AudioError("too_long", f"longer than {limit.max_seconds} s")
    if limit.long_audio == "split":  # longer than is stated
        return _Span(whole.start, max_samples, cropped)
    digest = hashlib.sha256(limit.crop_seed.encode()).digest()
    shift = int.from_bytes(digest[:16], "big") % (cropped + 1)
    return _Span(whole.start + shift, max_samples, cropped)


def _window(whole: _Span, limit: Limit, rate: int) -> _Span:
    """One of consecutive windows; the last one also answers for what lies beyond it."""
    window_samples = limit.max_seconds * rate
    start, stop = (
        min(round(n * window_samples), whole.count) for n in (limit.window, limit.window + 1)
    )
    is_last = limit.window == limit.num_windows - 1
    return _Span(whole.start + start, stop - start, whole.count - stop if is_last else 0)


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

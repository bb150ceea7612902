"""One audio file, or a segment of it, to a mono float32 waveform at the store's sample rate."""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import torchaudio
from torch import Tensor

from gmmpipe.errors import AudioError
from gmmpipe.featurize.manifest import Utterance

MIN_RATE, MAX_RATE = 4_000, 192_000
MAX_RATIO_TERM = 1_000
"""A sinc kernel grows with the product of the reduced ratio's terms: 44101 -> 16000 takes 3 GB."""

_BLOCK_SAMPLES = 1 << 20
_INEXACT_FORMATS = frozenset({"OGG", "MP3"})
"""Containers whose length is an estimate or simply where the file happens to end."""

_SHORT_DATA = re.compile(r"^\s*(?:data|SSND|Data Size)\s*:\s*(\d+) \(should be (\d+)\)", re.M)
_STREAMED_LENGTHS = range(0x7FFF_0000, 0x1_0000_0000)
"""Data lengths that writers to a pipe leave in a WAV header: not a promise."""


@dataclass(frozen=True)
class Waveform:
    """What one utterance sounds like, ready for `LogMel`.

    Args:
        samples: float32 [S], mono, at the store's rate.
        resampler: ``none``, ``sinc`` (torchaudio's) or ``soxr``.
        start_seconds: where in the file it begins.
        kept_seconds: length of the source audio in it.
        cropped_seconds: length of the source audio that a crop left out.
    """

    samples: Tensor
    resampler: str
    start_seconds: float
    kept_seconds: float
    cropped_seconds: float


@dataclass(frozen=True)
class _Span:
    """Source samples [start, start + count), of which `total` would have been wanted uncropped."""

    start: int
    count: int
    total: int


def load_waveform(
    utterance: Utterance, path: Path, sample_rate: int, max_seconds: float, seed: int
) -> Waveform:
    """Read, mix down, crop and resample one utterance.

    Beyond `max_seconds`, one window is kept whose place is a pure function of `seed` and the key.
    Memory is bounded by the window, never by what a header claims.

    Raises:
        AudioError: the file is unsafe, missing, damaged, truncated, or holds what cannot be used.
    """
    with _open_audio(path) as file:
        rate = file.samplerate
        if not MIN_RATE <= rate <= MAX_RATE:
            raise AudioError("unsupported_rate", f"{rate} Hz, outside {MIN_RATE} to {MAX_RATE}")
        segment = _segment(utterance, file)
        window = _crop(segment, int(max_seconds * rate), utterance.key, seed)
        samples = _read_mono(file, window)
    if not torch.isfinite(samples).all():
        raise AudioError("non_finite", "the samples hold NaN or infinity")
    resampled, resampler = resample(samples, rate, sample_rate)
    return Waveform(
        samples=resampled,
        resampler=resampler,
        start_seconds=window.start / rate,
        kept_seconds=len(samples) / rate,
        cropped_seconds=max(0, segment.total - window.count) / rate,
    )


def resample(samples: Tensor, rate: int, new_rate: int) -> tuple[Tensor, str]:
    """``torchaudio.functional.resample(samples, rate, new_rate)``, and the resampler's name.

    Where the reduced ratio has a term above 1,000, whose exact kernel would be gigabytes, soxr
    (high quality) does it.
    """
    if rate == new_rate:
        return samples, "none"
    ratio = Fraction(rate, new_rate)
    if max(ratio.numerator, ratio.denominator) > MAX_RATIO_TERM:
        return torch.from_numpy(soxr.resample(samples.numpy(), rate, new_rate)), "soxr"
    return _sinc_resampler(ratio.numerator, ratio.denominator)(samples), "sinc"


@cache
def _sinc_resampler(rate: int, new_rate: int) -> torchaudio.transforms.Resample:
    # The default would build the kernel in float64; float32 gives the functional's own bits.
    return torchaudio.transforms.Resample(rate, new_rate, dtype=torch.float32)


def header_seconds(path: Path) -> float:
    """How long the file's header says it lasts, or 0.0 if nothing can be said."""
    try:
        with _open_audio(path) as file:
            exact = file.format not in _INEXACT_FORMATS
            return file.frames / file.samplerate if exact and file.frames < 1 << 36 else 0.0
    except AudioError:
        return 0.0


@contextmanager
def _open_audio(path: Path) -> Iterator[soundfile.SoundFile]:
    """A regular local file as soundfile sees it; anything else is refused before it is opened."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise AudioError("not_a_regular_file", "a folder, device, FIFO or socket")
        raw = open(path, "rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError("not_found", "no such file") from error
    except UnicodeEncodeError as error:
        raise AudioError("not_found", "a name that no file can have") from error
    except OSError as error:
        raise AudioError("unreadable", error.strerror or "cannot be opened") from error
    with raw:
        try:
            # By descriptor: soundfile cannot open names that are not UTF-8.
            file = soundfile.SoundFile(raw.fileno(), closefd=False)
        except (soundfile.SoundFileError, TypeError, ValueError) as error:
            raise AudioError("undecodable", _reason(error)) from error
        with file:
            yield file


def _segment(utterance: Utterance, file: soundfile.SoundFile) -> _Span:
    """The source samples that the manifest line means."""
    rate, available = file.samplerate, file.frames
    if file.format not in _INEXACT_FORMATS:
        short = _SHORT_DATA.search(file.extra_info)
        if short and int(short[1]) not in _STREAMED_LENGTHS and int(short[1]) > int(short[2]):
            raise AudioError("truncated", f"{short[2]} bytes of audio where {short[1]} are stated")
    start = round((utterance.offset_seconds or 0.0) * rate)
    if start and start >= available:
        raise AudioError(
            "bad_offset", f"the offset {utterance.offset_seconds} s is beyond the file's end"
        )
    if utterance.duration_seconds is not None:
        promised = (utterance.offset_seconds or 0.0) + utterance.duration_seconds
        if available / rate < promised - max(0.5, 0.05 * promised):
            raise AudioError(
                "truncated", f"{available / rate:.3f} s where the manifest promises {promised} s"
            )
    count = available - start
    if utterance.offset_seconds is not None and utterance.duration_seconds is not None:
        count = min(count, round(utterance.duration_seconds * rate))
    return _Span(start, count, count)


def _crop(segment: _Span, max_samples: int, key: str, seed: int) -> _Span:
    if segment.count <= max_samples:
        return segment
    digest = hashlib.sha256(f"crop/{seed}/{key}".encode()).digest()
    places = segment.count - max_samples + 1
    shift = int.from_bytes(digest[:16], "big") % places
    return _Span(segment.start + shift, max_samples, segment.total)


def _read_mono(file: soundfile.SoundFile, span: _Span) -> Tensor:
    """The mean of the channels over `span`, float32 [count].

    Raises:
        AudioError: truncated or undecodable.
    """
    # 16-bit sources are read as they are and scaled here: the same bits as a float read, cheaper.
    dtype = np.int16 if file.subtype == "PCM_16" else np.float32
    exact = file.format not in _INEXACT_FORMATS
    blocks: list[Tensor] = []
    try:
        _skip_to(file, span.start)
        missing = span.count
        while missing > 0:
            shape = (min(missing, _BLOCK_SAMPLES), file.channels)
            block = file.read(out=np.empty(shape, dtype))
            if len(block) == 0:
                break
            blocks.append(_mix_down(torch.from_numpy(block)))
            missing -= len(block)
    except soundfile.LibsndfileError as error:
        # A decoder that gives up before the stated end has decoded fewer samples than stated.
        raise AudioError("truncated" if exact else "undecodable", _reason(error)) from error
    lost_seconds = missing / file.samplerate
    tolerance = 0.0 if exact else max(0.5, 0.05 * span.count / file.samplerate)
    if lost_seconds > tolerance:
        raise AudioError(
            "truncated", f"{span.count - missing} samples decoded where {span.count} are stated"
        )
    if not blocks:
        return torch.zeros(0)
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def _skip_to(file: soundfile.SoundFile, start: int) -> None:
    if file.seekable():
        file.seek(start)
        return
    while start > 0:  # GSM in WAV, for one, cannot seek
        skipped = len(
            file.read(out=np.empty((min(start, _BLOCK_SAMPLES), file.channels), np.int16))
        )
        if skipped == 0:
            return
        start -= skipped


def _mix_down(block: Tensor) -> Tensor:
    samples = block.to(torch.float32)
    if block.shape[1] == 1:
        mono = samples[:, 0]
    elif block.shape[1] == 2:  # torch's mean over so short an axis is slow
        mono = (samples[:, 0] + samples[:, 1]).mul_(0.5)
    else:
        mono = samples.mean(1)
    return mono.mul_(1.0 / 32768.0) if block.dtype == torch.int16 else mono


def _reason(error: Exception) -> str:
    """libsndfile's own words, without the path or descriptor that soundfile puts before them."""
    text = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return text.removeprefix("Error : ").strip()

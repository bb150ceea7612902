"""Which samples of a recording are meant: a segment of it, and what a limit leaves of that."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from gmmpipe.audio.container import AudioFile
from gmmpipe.audio.stated_length import refuse_truncated
from gmmpipe.errors import AudioError


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
class Span:
    """Source samples [start, start + count), and how many others a crop leaves out."""

    start: int
    count: int
    cropped: int = 0


@dataclass(frozen=True)
class Part:
    """The samples of a recording that make one waveform.

    Args:
        span: which they are.
        channel: the one channel that is meant, from 0; None for the mean of all.
        unstated_seconds: by how much the recording is longer than the segment states, where that is
            more than the tolerance and the whole recording is meant.
    """

    span: Span
    channel: int | None
    unstated_seconds: float


def find_part(file: AudioFile, available: int, limit: Limit, segment: Segment) -> Part:
    """The part of an open recording that a segment means and a limit leaves.

    Args:
        file: the recording.
        available: how many samples it has.
        limit: how long a waveform may be.
        segment: what is meant.

    Raises:
        AudioError: truncated, bad_offset, too_long, or bad_json for a channel that is not there.
    """
    rate = file.samplerate
    whole = _span(segment, file, available)
    span = _limited(whole, limit, rate)
    if segment.channel is not None and segment.channel >= file.channels:
        raise AudioError(
            "bad_json", f"channel {segment.channel}, from 0, of {file.channels} in the file"
        )
    return Part(span, segment.channel, _unstated_seconds(segment, whole.count / rate))


def _unstated_seconds(segment: Segment, seconds: float) -> float:
    """By how many seconds a whole recording of this length is longer than is stated."""
    stated = segment.duration_seconds
    if stated is None or segment.offset_seconds is not None:
        return 0.0
    return seconds - stated if seconds > stated + tolerance_seconds(stated) else 0.0


def tolerance_seconds(stated: float) -> float:
    """How far a length may be from what a manifest states, or a header that is an estimate."""
    return max(0.5, 0.05 * stated)


def _span(segment: Segment, file: AudioFile, available: int) -> Span:
    """The source samples that a segment means, of those that are available."""
    rate = file.samplerate
    refuse_truncated(file)
    offset_seconds = segment.offset_seconds or 0.0
    start = round(offset_seconds * rate)
    if start and start >= available:
        raise AudioError("bad_offset", f"the offset {offset_seconds} s is beyond the file's end")
    if segment.duration_seconds is not None:
        promised = offset_seconds + segment.duration_seconds
        if available / rate < promised - tolerance_seconds(promised):
            raise AudioError(
                "truncated", f"{available / rate:.3f} s where the manifest promises {promised} s"
            )
    count = available - start
    if segment.offset_seconds is not None and segment.duration_seconds is not None:
        count = min(count, round(segment.duration_seconds * rate))
    return Span(start, count)


def _limited(whole: Span, limit: Limit, rate: int) -> Span:
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
        return Span(whole.start, max_samples, cropped)
    digest = hashlib.sha256(limit.crop_seed.encode()).digest()
    shift = int.from_bytes(digest[:16], "big") % (cropped + 1)
    return Span(whole.start + shift, max_samples, cropped)


def _window(whole: Span, limit: Limit, rate: int) -> Span:
    """One of consecutive windows; the last one also answers for what lies beyond it."""
    window_samples = limit.max_seconds * rate
    start, stop = (
        min(round(n * window_samples), whole.count) for n in (limit.window, limit.window + 1)
    )
    is_last = limit.window == limit.num_windows - 1
    return Span(whole.start + start, stop - start, whole.count - stop if is_last else 0)

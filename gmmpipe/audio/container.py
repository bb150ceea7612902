"""Audio that libsndfile cannot decode, through PyAV: AAC in m4a or mp4, webm, mka, wma, amr, ...

Only the bytes of the open file are read: `demuxer_of` says what they are, that one demuxer is used,
and a file that refers to others finds none of them.
"""

from collections import deque
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gmmpipe.audio.container_kinds import refuse_cut_off
from gmmpipe.audio.decoder import BLOCK_SAMPLES, UNKNOWN_LENGTH, ChainedFile, OneWayFile
from gmmpipe.audio.mp4_tables import refuse_unlikely_tables
from gmmpipe.audio.pyav import open_container, refusing_errors, skip_manual
from gmmpipe.errors import AudioError

_STATE_LENGTH = frozenset({"mov", "matroska", "asf"})
"""Demuxers that know the length from a header; others guess it from a bit rate."""

_TOLERANCE = 0.02
_TOLERANCE_SECONDS = 0.2
"""How much less audio may be there than a header states: some packets' worth, or a rounding."""

_USUAL_DELAY = {"mp3": 1105, "mp3float": 1105}
"""What a decoder and LAME, the usual encoder, put ahead of the audio, in samples."""

_FULL_SCALE = {"s16": 1.0, "s32": 2.0**-31, "s64": 2.0**-63, "flt": 1.0, "dbl": 1.0}
"""What decoded samples are multiplied by to lie within 1; `PCM_16` is left as it is."""


class ContainerFile:
    """The first audio stream of a container, read from the front to the end like `OneWayFile`.

    Args:
        descriptor: the open file; it must stay open, and is not closed.
        demuxer: what `demuxer_of` says of it.

    Raises:
        AudioError: undecodable: it holds no audio, or is damaged, or PyAV is not installed;
            truncated: its header states more bytes than there are.
    """

    extra_info = ""
    stated_samples: int | None
    """How many samples a header says that there are, rounded to its unit of time, or None."""

    def __init__(self, descriptor: int, demuxer: str) -> None:
        self.name, self._demuxer = descriptor, demuxer
        self.format = demuxer.upper()
        self._container: Any = None
        first = self._start()
        self.samplerate, self.channels = first.sample_rate, len(first.layout.channels)
        self.stated_samples = self._length_of_header()
        # Samples of 16 bits are read as they are, like those of a WAV.
        self.subtype = "PCM_16" if first.format.packed.name == "s16" else "DECODED"

    @cached_property
    def frames(self) -> int:
        """How many samples there are, if they are few, else `UNKNOWN_LENGTH`."""
        most = 2 * BLOCK_SAMPLES // self.channels
        if self.stated_samples is not None and self.stated_samples > most:
            return UNKNOWN_LENGTH
        held = 0
        for block in self._decoded:
            self._ahead.append(block)
            held += len(block)
            if held > most:
                return UNKNOWN_LENGTH
        return held

    @property
    def can_seek(self) -> bool:
        """Never: what is before a place is decoded."""
        return False

    def skip_to(self, start: int) -> None:
        """Go to sample `start` from the beginning, by decoding all samples before it."""
        if start < self._at:
            self._start()
        self.skip(start - self._at)

    def skip(self, count: int) -> int:
        """Decode up to `count` samples and drop them; returns how many there were."""
        skipped = 0
        while skipped < count and (block := self._next(count - skipped)) is not None:
            skipped += len(block)
        return skipped

    def read(self, out: NDArray[Any]) -> NDArray[Any]:
        """Fill `out` [samples, channels] as far as the audio goes; returns that part of it.

        It is of int16 if `subtype` is ``PCM_16``, else of float32.
        """
        got = 0
        while got < len(out) and (block := self._next(len(out) - got)) is not None:
            out[got : got + len(block)] = block
            got += len(block)
        return out[:got]

    def close(self) -> None:
        """Free what PyAV holds."""
        if self._container is not None:
            self._container.close()

    def __enter__(self) -> "ContainerFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> Any:
        """Open the container, anew if it is open, and decode its first frame, which is returned."""
        self.close()
        self._at = 0
        self._ahead: deque[NDArray[Any]] = deque()
        with refusing_errors():
            refuse_cut_off(self.name, self._demuxer)
            if self._demuxer == "mov":
                refuse_unlikely_tables(self.name)
            self._container = open_container(self.name, self._demuxer)
            streams = self._container.streams
            if not streams.audio:
                raise AudioError("undecodable", "a container without audio")
            self._stream = streams.audio[0]
            if self._stream.codec_context is None:
                raise AudioError("undecodable", "a container of audio that PyAV cannot decode")
            self._stream.codec_context.thread_count = 1
        frames = self._frames()
        first = next(frames, None)
        if first is None:
            raise AudioError("undecodable", "a container without a sample of audio")
        self._decoded = self._samples(chain([first], frames))
        return first

    def _length_of_header(self) -> int | None:
        """`stated_samples`, of the container that is open."""
        if self._demuxer not in _STATE_LENGTH:
            return None
        stream, container = self._stream, self._container
        if stream.duration is not None and stream.duration > 0:
            return int(stream.duration * stream.time_base * self.samplerate)
        # That of a whole container is the video's if that lasts longer.
        if (
            container.duration is not None
            and container.duration > 0
            and len(container.streams) == 1
        ):
            return int(container.duration * self.samplerate / 1_000_000)
        return None

    def _next(self, most: int) -> NDArray[Any] | None:
        """Up to `most` further samples [samples, channels], or None at the end."""
        block = self._ahead.popleft() if self._ahead else next(self._decoded, None)
        if block is None:
            return None
        if len(block) > most:
            self._ahead.appendleft(block[most:])
        self._at += min(len(block), most)
        return block[:most]

    def _samples(self, frames: Iterator[Any]) -> Iterator[NDArray[Any]]:
        """The samples of the frames [samples, channels], without a delay that is not stated.

        Raises:
            AudioError: truncated, or undecodable.
        """
        total = 0
        dropped = self._unstated_delay
        for frame in frames:
            if (frame.sample_rate, len(frame.layout.channels)) != (self.samplerate, self.channels):
                raise AudioError("undecodable", "the rate or the channels change within the stream")
            block = _samples_of(frame)
            total += len(block)
            if dropped < len(block):
                yield block[dropped:]
            dropped = max(0, dropped - len(block))
        stated = self.stated_samples or 0
        tolerance = max(_TOLERANCE * stated, _TOLERANCE_SECONDS * self.samplerate)
        if total < stated - tolerance:
            raise AudioError("truncated", f"{total} samples decoded where {stated} are stated")

    def _frames(self) -> Iterator[Any]:
        """The decoded frames of the stream, its delay trimmed as the container says."""
        stream = self._stream
        self._unstated_delay = 0
        is_own_wma = stream.codec.name in ("wmav1", "wmav2") and _is_of_ffmpeg(self._container)
        if is_own_wma:
            stream.codec_context.flags2 |= skip_manual()
        with refusing_errors():
            for number, packet in enumerate(self._container.demux(stream)):
                is_bare = number == 0 and _is_bare(packet)
                for frame in packet.decode():
                    if number == 0:
                        if is_own_wma:
                            self._unstated_delay = _wma_delay(frame)
                        elif is_bare:
                            self._unstated_delay = _usual_delay(stream.codec.name, frame)
                    yield frame


AudioFile: TypeAlias = OneWayFile | ChainedFile | ContainerFile


def _samples_of(frame: Any) -> NDArray[Any]:
    """A frame's samples [samples, channels]: int16 as they are, others as float32."""
    values: NDArray[Any] = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(frame.samples, -1)
    kind = frame.format.packed.name
    if kind in ("s16", "flt"):
        return values
    if kind == "u8":
        return ((values.astype(np.float32) - 128.0) / 128.0).astype(np.float32)
    return (values * _FULL_SCALE[kind]).astype(np.float32)


def _is_bare(packet: Any) -> bool:
    """Whether nothing is said of a stream's delay, to go by its first packet."""
    if packet.has_sidedata("skip_samples") or packet.is_discard:
        return False
    return packet.pts is None or packet.pts >= 0


def _usual_delay(codec: str, first_frame: Any) -> int:
    """The delay of a stream of which none is stated."""
    # Of the first frame of AAC only the second half could be decoded.
    return int(first_frame.samples) if codec == "aac" else _USUAL_DELAY.get(codec, 0)


def _wma_delay(frame: Any) -> int:
    """The delay of a WMA that FFmpeg wrote: half of that for which its decoder takes any WMA."""
    for data in frame.side_data:
        if data.type.name == "SKIP_SAMPLES":
            return int.from_bytes(bytes(data)[:4], "little") // 2
    return 0


def _is_of_ffmpeg(container: Any) -> bool:
    return str(container.metadata.get("encoder", "")).startswith("Lavf")

"""MPEG audio by its frame headers: how long it is, and whether it is several files in a row.

libsndfile believes the Xing (Info, VBRI) frame in front, and guesses the length without one. So
this module walks the frame headers, which takes a look at four bytes a frame, 0.4 µs.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from gmmpipe.errors import AudioError

_CHUNK_BYTES = 1 << 20
_MOST_RANGES = 1_000
_LONGEST_JUNK_BYTES = 4 << 20
_KBPS_1 = (
    (0, *range(32, 449, 32), 0),
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 0),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
)
"""Bit rates of the layers I, II and III of MPEG-1, by the first four bits of a frame's third byte.

`_KBPS_2` has those of MPEG-2 and 2.5.
"""
_KBPS_2 = (
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256, 0),
    *[(0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)] * 2,
)
_RATES = (44100, 48000, 32000)
_TAGS = (b"Xing", b"Info", b"VBRI")


@dataclass(frozen=True)
class Kind:
    """What all frames of a stream have in common, from the header of one.

    Args:
        second: the header's second byte, without the bit that says whether a checksum follows.
        rate_bits: the bits of the header's third byte that give the sample rate.
        mono: whether there is one channel.
    """

    second: int
    rate_bits: int
    mono: bool

    @classmethod
    def of(cls, header: bytes) -> "Kind | None":
        """The kind of a frame that begins with these four bytes; None where no frame does."""
        if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
            return None
        if header[1] & 0x18 == 0x08 or not header[1] & 0x06 or header[2] & 0x0C == 0x0C:
            return None
        return cls(header[1] & 0xFE, header[2] & 0x0C, header[3] >= 0xC0)

    @property
    def is_mpeg1(self) -> bool:
        """Whether it is MPEG-1, and not MPEG-2 (half the rates) or 2.5 (a quarter of them)."""
        return self.second & 0x18 == 0x18

    @property
    def layer(self) -> int:
        """1, 2 or 3; layer 3 is MP3."""
        return 4 - (self.second >> 1 & 3)

    @property
    def rate(self) -> int:
        """The sample rate, Hz."""
        shift = {0x18: 0, 0x10: 1, 0x00: 2}[self.second & 0x18]
        return _RATES[self.rate_bits >> 2] >> shift

    @property
    def frame_samples(self) -> int:
        """How many samples a frame has."""
        if self.layer == 1:
            return 384
        return 1152 if self.is_mpeg1 or self.layer == 2 else 576

    @property
    def tag_offset(self) -> int:
        """Where a Xing tag begins within its frame: after the header and the side information."""
        return 4 + ((17 if self.mono else 32) if self.is_mpeg1 else (9 if self.mono else 17))


@lru_cache(maxsize=64)
def _lengths(kind: Kind) -> tuple[int, ...]:
    """The bytes of a frame by its third byte; 0 where no frame of this kind has that byte."""
    kbps = (_KBPS_1 if kind.is_mpeg1 else _KBPS_2)[kind.layer - 1]
    slot = 4 if kind.layer == 1 else 1
    scale = 125 * kind.frame_samples // slot
    return tuple(
        kbps[b >> 4] and (kbps[b >> 4] * scale // kind.rate + (b >> 1 & 1)) * slot
        if b & 0x0C == kind.rate_bits
        else 0
        for b in range(256)
    )


@dataclass(frozen=True)
class Stream:
    """The frames that an encoder wrote in one go.

    Args:
        kind: the kind of the frames.
        ranges: where the frames lie in the file, the tag's frame included.
        frames: how many there are, without the tag's.
        tag: the frame in front that says how many follow; empty if there is none.
    """

    kind: Kind
    ranges: tuple[tuple[int, int], ...]
    frames: int
    tag: bytes

    @property
    def stated_frames(self) -> int | None:
        """How many frames its tag states."""
        place = self._place
        return None if place is None else int(struct.unpack_from(">I", self.tag, place)[0])

    @property
    def is_honest(self) -> bool:
        """Whether the tag states the true number; some encoders count the tag's own frame."""
        return self.stated_frames is not None and abs(self.stated_frames - self.frames) <= 1

    def head_and_ranges(self) -> tuple[bytes, tuple[tuple[int, int], ...]]:
        """What libsndfile must be given to read to the true end: a correct tag, and the frames."""
        if self.is_honest:
            return b"", self.ranges
        (start, stop), *others = self.ranges
        frames = ((start + len(self.tag), stop), *others)
        place = self._place
        if place is not None:
            count = struct.pack(">I", self.frames)
            return self.tag[:place] + count + self.tag[place + 4 :], frames
        return _tag_and_silence(self.kind, self.frames), frames

    @property
    def _place(self) -> int | None:
        """Where the tag holds the number of frames; None where it holds none."""
        at = self.kind.tag_offset
        if self.tag[at : at + 4] in _TAGS[:2]:
            return at + 8 if len(self.tag) >= at + 12 and self.tag[at + 7] & 1 else None
        return 50 if self.tag[36:40] == b"VBRI" and len(self.tag) >= 54 else None


def _tag_and_silence(kind: Kind, frames: int) -> bytes:
    """A Xing tag for `frames` that follow, and a frame of silence.

    After a tag, the decoder drops its own delay of 529 samples and the encoder's delay that the tag
    states. Here the two add up to one frame, the silent one, so that the frames decode as they do
    without a tag.
    """
    lengths, place = _lengths(kind), kind.tag_offset
    third = next(b for b in range(kind.rate_bits, 256, 16) if lengths[b] >= place + 48)
    silence = bytes([0xFF, kind.second | 1, third, 0xC0 * kind.mono]).ljust(lengths[third], b"\0")
    delay, padding = kind.frame_samples - 529, 529
    tag = silence[:place] + b"Xing" + struct.pack(">II", 1, frames + 1) + b"LAME".ljust(21, b"\0")
    tag += (delay << 12 | padding).to_bytes(3)
    return tag.ljust(len(silence), b"\0") + silence


def find_streams(descriptor: int, start: int, stop: int) -> list[Stream]:
    """The streams between two bytes of a file, in order; none if there are no frames.

    Raises:
        AudioError: undecodable: the frames are of several kinds, or too many of them do not follow
            one another.
    """
    streams: list[Stream] = []
    position, kind, ranges = start, None, 0
    while found := _next_frame(descriptor, position, stop, kind):
        position, kind = found
        for end, frames, tag in _run(descriptor, position, stop, kind):
            ranges += 1
            if ranges > _MOST_RANGES:
                raise AudioError("undecodable", "an MP3 whose frames do not follow one another")
            if tag or not streams:
                streams.append(Stream(kind, ((position, end),), frames, tag))
            else:
                last = streams[-1]
                streams[-1] = replace(
                    last, ranges=(*last.ranges, (position, end)), frames=last.frames + frames
                )
            position = end
    return streams


def _run(descriptor: int, start: int, stop: int, kind: Kind) -> Iterator[tuple[int, int, bytes]]:
    """Frames that follow one another: where they end, how many, and the tag in front of them.

    A tag among them begins another stream.
    """
    lengths, second, mono = _lengths(kind), kind.second, kind.mono
    position, frames, tag = start, 0, b""
    while True:
        data = os.pread(descriptor, min(_CHUNK_BYTES, stop - position), position)
        tags = _tag_frames(data, kind) if kind.layer == 3 else set()
        at, last = 0, len(data) - 4
        while at <= last:
            length = lengths[data[at + 2]]
            if (
                data[at] != 0xFF
                or data[at + 1] & 0xFE != second
                or not length
                or (data[at + 3] >= 0xC0) != mono
                or at + length > len(data)
            ):
                break
            if at in tags:
                if frames or tag:
                    yield position + at, frames, tag
                frames, tag = 0, data[at : at + length]
            else:
                frames += 1
            at += length
        if at == 0:
            break
        position += at
    if frames or tag:
        yield position, frames, tag


def _tag_frames(data: bytes, kind: Kind) -> set[int]:
    """Where frames would begin that hold the tags in `data`."""
    found = set()
    for name in _TAGS:
        offset = 36 if name == b"VBRI" else kind.tag_offset
        at = data.find(name)
        while at >= 0:
            found.add(at - offset)
            at = data.find(name, at + 1)
    return found


def _next_frame(
    descriptor: int, position: int, stop: int, kind: Kind | None
) -> tuple[int, Kind] | None:
    """The next place from which frames follow one another, and their kind; tags are passed over.

    The search ends after 4 MiB, because a decoder gives up earlier.

    Raises:
        AudioError: undecodable: the frames are of another kind than `kind`.
    """
    position = _skip_tags(descriptor, position)
    last = min(stop, position + _LONGEST_JUNK_BYTES)
    while position < last:
        data = os.pread(descriptor, _CHUNK_BYTES, position)
        at = data.find(b"\xff")
        while at >= 0:
            found = Kind.of(data[at : at + 4])
            if found and _follow(descriptor, position + at, stop, found):
                if kind and found != kind:
                    raise AudioError("undecodable", "several MP3 streams of unlike formats")
                return position + at, found
            at = data.find(b"\xff", at + 1)
        position += max(1, len(data) - 3) if len(data) == _CHUNK_BYTES else len(data) or stop
    return None


def _follow(descriptor: int, position: int, stop: int, kind: Kind) -> bool:
    """Whether three frames of a kind begin at `position`, or fewer before the end."""
    for number in range(3):
        if number and position >= stop:
            return True
        header = os.pread(descriptor, 4, position)
        if Kind.of(header) != kind or not (length := _lengths(kind)[header[2]]):
            return False
        position += length
        if not number and position > stop:
            return False  # cut off
    return True


def _skip_tags(descriptor: int, position: int) -> int:
    """Where the ID3 and APE tags end that begin at `position`."""
    while True:
        data = os.pread(descriptor, 32, position)
        if data[:3] == b"ID3" and len(data) >= 10:
            length = 0
            for byte in data[6:10]:
                length = length << 7 | byte & 0x7F
            position += 10 + length + (10 if data[5] & 0x10 else 0)
        elif data[:3] == b"TAG":
            position += 128
        elif data[:8] == b"APETAGEX" and len(data) == 32:
            position += 32 + struct.unpack_from("<I", data, 12)[0]
        else:
            return position

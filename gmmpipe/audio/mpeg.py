"""MPEG audio by its frame headers: how long it really is, and whether it is several files in a row.

libsndfile believes the Xing (Info, VBRI) frame in front, and guesses where there is none. So the
headers are walked, some ten million a second being no more than a look at four bytes each.
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
"""Of the layers I, II and III of MPEG-1, by the first four bits of a frame's third byte."""
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
        second: its second byte, without the bit that says whether a checksum follows.
        rate_bits: the bits of its third byte that are of the sample rate.
        mono: whether it has one channel.
    """

    second: int
    rate_bits: int
    mono: bool

    @classmethod
    def of(cls, header: bytes) -> "Kind | None":
        """The kind of a frame that begins with these four bytes, or None: it does not."""
        if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
            return None
        if header[1] & 0x18 == 0x08 or not header[1] & 0x06 or header[2] & 0x0C == 0x0C:
            return None
        return cls(header[1] & 0xFE, header[2] & 0x0C, header[3] >= 0xC0)

    @property
    def is_mpeg1(self) -> bool:
        """Not the half rates of MPEG-2, nor the quarter rates of 2.5."""
        return self.second & 0x18 == 0x18

    @property
    def layer(self) -> int:
        """1, 2 or 3: MP3."""
        return 4 - (self.second >> 1 & 3)

    @property
    def rate(self) -> int:
        """Hz."""
        shift = {0x18: 0, 0x10: 1, 0x00: 2}[self.second & 0x18]
        return _RATES[self.rate_bits >> 2] >> shift

    @property
    def frame_samples(self) -> int:
        """Samples of a frame."""
        if self.layer == 1:
            return 384
        return 1152 if self.is_mpeg1 or self.layer == 2 else 576

    @property
    def tag_offset(self) -> int:
        """Where a Xing tag stands in its frame: behind the header and the side information."""
        return 4 + ((17 if self.mono else 32) if self.is_mpeg1 else (9 if self.mono else 17))


@lru_cache(maxsize=64)
def _lengths(kind: Kind) -> tuple[int, ...]:
    """Bytes of a frame by its third byte; 0 where that is of no frame of this kind."""
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
    """What an encoder wrote in one go.

    Args:
        kind: of its frames.
        ranges: where its frames stand in the file, with the tag's.
        frames: how many there are, without the tag's.
        tag: the frame in front that says how many there are, or nothing.
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
        """Whether the tag states what is there; some encoders count the tag's own frame."""
        return self.stated_frames is not None and abs(self.stated_frames - self.frames) <= 1

    def head_and_ranges(self) -> tuple[bytes, tuple[tuple[int, int], ...]]:
        """The bytes that libsndfile reads to the true end: a tag that is right, and the frames."""
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
        """Where the number of frames stands in the tag, if it does."""
        at = self.kind.tag_offset
        if self.tag[at : at + 4] in _TAGS[:2]:
            return at + 8 if len(self.tag) >= at + 12 and self.tag[at + 7] & 1 else None
        return 50 if self.tag[36:40] == b"VBRI" and len(self.tag) >= 54 else None


def _tag_and_silence(kind: Kind, frames: int) -> bytes:
    """A Xing tag for `frames` that follow, behind which they decode as they do without one.

    The decoder takes off its own delay of 529 samples where there is a tag, and what that states
    as the encoder's: together they are one frame here, so one of silence stands in front.
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
        AudioError: undecodable: they are of unlike kinds, or there is more between the frames
            than any tag.
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

    A tag in their midst begins another stream.
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
    """Where a frame with a tag would begin."""
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

    Only so far is looked for it: a decoder gives up earlier.

    Raises:
        AudioError: undecodable: they are of another kind than `kind`.
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
    """Whether three frames of a kind stand at `position`, or fewer and then the file's end."""
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
    """Where the ID3 and APE tags end that stand at `position`."""
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

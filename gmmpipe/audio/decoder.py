"""Audio as libsndfile decodes it, from the front to the end, out of one stream or several."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from gmmpipe.audio.links import Link
from gmmpipe.audio.spliced import SplicedFile
from gmmpipe.errors import AudioError

BLOCK_SAMPLES = 1 << 20
UNKNOWN_LENGTH = (1 << 63) - 1
"""What libsndfile says of a FLAC whose header states no length, like one written to a pipe."""

_MP3_LEAD_SECONDS = 0.5
_UNSEEKABLE = frozenset({"DWVW_12", "DWVW_16", "DWVW_24"})
"""Encodings that libsndfile claims to seek in, and cannot."""


class OneWayFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """One stream, read from the front to the end.

    soundfile then spares libsndfile a seek after every read.
    """

    # soundfile looks these up anew each time, and they are asked for several times a file. As
    # attributes they can also be corrected.
    format = cached_property(soundfile.SoundFile.format.fget)
    subtype = cached_property(soundfile.SoundFile.subtype.fget)
    frames = cached_property(soundfile.SoundFile.frames.fget)

    def seekable(self) -> bool:
        """Never, for soundfile's own `read`; `skip_to` asks libsndfile."""
        return False

    @property
    def can_seek(self) -> bool:
        """Whether libsndfile can go to a sample without decoding all that is before it."""
        # GSM in WAV, for one, cannot.
        is_known = self.frames != UNKNOWN_LENGTH and self.subtype not in _UNSEEKABLE
        return bool(super().seekable()) and is_known

    def skip_to(self, start: int) -> None:
        """Go to sample `start` from the beginning of the file."""
        # An MP3 decodes to other bits without a seek to 0, and soundfile.read does one.
        if start == 0 and self.format != "MP3":
            return
        if not self.can_seek:
            self.skip(start)
        elif self.format == "MP3":
            # A frame may take bits from some earlier ones, which a decoder lacks behind a seek.
            early = max(0, start - int(_MP3_LEAD_SECONDS * self.samplerate))
            self.seek(early)
            self.skip(start - early)
        else:
            self.seek(start)

    def skip(self, count: int) -> int:
        """Decode up to `count` samples and drop them; returns how many there were."""
        skipped = 0
        while skipped < count:
            shape = (min(count - skipped, BLOCK_SAMPLES), self.channels)
            length = len(self.read(out=np.empty(shape, np.int16)))
            if length == 0:
                break
            skipped += length
        return skipped


class ChainedFile:
    """Several streams in a row, as one `OneWayFile`.

    Args:
        descriptor: the open file that holds them.
        links: the streams.

    Raises:
        AudioError: undecodable: one of the streams, or all of them, being of unlike formats.
    """

    extra_info = ""
    """What libsndfile logs; of formats that can be chained it says nothing of use."""

    def __init__(self, descriptor: int, links: Sequence[Link]) -> None:
        self._descriptor, self._links = descriptor, links
        self._lengths: list[int] = []
        kinds = set()
        for number in range(len(links)):
            self._go_to(number)
            file = self._file
            self._lengths.append(file.frames)
            kinds.add((file.samplerate, file.channels, file.format, file.subtype))
        if len(kinds) > 1:
            self.close()
            raise AudioError("undecodable", f"{len(links)} streams in a row, of unlike formats")
        ((self.samplerate, self.channels, self.format, self.subtype),) = kinds
        self.frames = sum(self._lengths)
        self._go_to(0)

    @property
    def can_seek(self) -> bool:
        """Whether libsndfile can go to a sample without decoding all that is before it."""
        return self._file.can_seek

    def skip_to(self, start: int) -> None:
        """Go to sample `start` from the beginning of the first stream."""
        number = 0
        while number + 1 < len(self._lengths) and start >= self._lengths[number]:
            start -= self._lengths[number]
            number += 1
        self._go_to(number)
        self._file.skip_to(start)

    def read(self, out: NDArray[Any]) -> NDArray[Any]:
        """Fill `out` [samples, channels] as far as the audio goes; returns that part of it."""
        got = 0
        while got < len(out):
            length = len(self._file.read(out=out[got:]))
            if length == 0:
                if self._number + 1 == len(self._links):
                    break
                self._go_to(self._number + 1)
                self._file.skip_to(0)
            got += length
        return out[:got]

    def close(self) -> None:
        """Free what libsndfile holds."""
        self._file.close()

    def __enter__(self) -> "ChainedFile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _go_to(self, number: int) -> None:
        """Open a stream, in place of the one that is open."""
        if hasattr(self, "_file"):
            self.close()
        self._number = number
        self._file = decode_link(self._descriptor, self._links[number])


def decode(source: int | SplicedFile) -> OneWayFile:
    """What libsndfile makes of an open file.

    Raises:
        AudioError: undecodable.
    """
    try:
        # By descriptor, because soundfile cannot open names that are not UTF-8.
        return OneWayFile(source, closefd=False)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise AudioError("undecodable", error_text(error)) from error


def decode_link(descriptor: int, link: Link) -> OneWayFile:
    """One stream of an open file.

    Raises:
        AudioError: undecodable.
    """
    file = decode(SplicedFile(descriptor, link.ranges, link.head))
    if link.num_samples is not None:
        if file.frames < link.num_samples:
            file.close()
            raise AudioError(
                "undecodable", "an MPEG file of bit rates too unlike to tell its length"
            )
        file.frames = link.num_samples
    return file


def error_text(error: Exception) -> str:
    """libsndfile's own words, without the path or descriptor that soundfile puts before them."""
    text = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return text.removeprefix("Error : ").strip()

"""Audio files as libsndfile reads them, from the front to the end."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import Any, TypeAlias

import numpy as np
import soundfile
from numpy.typing import NDArray

from gmmpipe.audio.links import Link, find_links, may_need_links
from gmmpipe.audio.spliced import SplicedFile
from gmmpipe.errors import AudioError

BLOCK_SAMPLES = 1 << 20
_MP3_LEAD_SECONDS = 0.5
_UNSEEKABLE = frozenset({"DWVW_12", "DWVW_16", "DWVW_24"})
"""Encodings of which libsndfile says that it can seek, and then cannot."""

_UNKNOWN_LENGTH = (1 << 63) - 1
"""What libsndfile says of a FLAC whose header states no length, as of one written to a pipe."""


class OneWayFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """Read from the front to the end: soundfile then spares libsndfile a seek after every read."""

    # Asked for several times a file, and looked up anew each time; and `frames` may be corrected.
    format = cached_property(soundfile.SoundFile.format.fget)
    subtype = cached_property(soundfile.SoundFile.subtype.fget)
    frames = cached_property(soundfile.SoundFile.frames.fget)

    def seekable(self) -> bool:
        """Never, for soundfile's own `read`; `skip_to` asks libsndfile."""
        return False

    def skip_to(self, start: int) -> None:
        """Go to sample `start` from the beginning of the file."""
        # To 0 too in an MP3, which decodes to other bits without; and soundfile.read does it.
        if start == 0 and self.format != "MP3":
            return
        if not super().seekable() or self.frames == _UNKNOWN_LENGTH or self.subtype in _UNSEEKABLE:
            self.skip(start)  # GSM in WAV, for one, cannot seek
        elif self.format == "MP3":
            # A frame may take bits from some earlier ones, which a decoder lacks behind a seek.
            early = max(0, start - int(_MP3_LEAD_SECONDS * self.samplerate))
            self.seek(early)
            self.skip(start - early)
        else:
            self.seek(start)

    def skip(self, count: int) -> int:
        """Decode up to `count` samples for nothing; how many there were."""
        skipped = 0
        while skipped < count:
            shape = (min(count - skipped, BLOCK_SAMPLES), self.channels)
            length = len(self.read(out=np.empty(shape, np.int16)))
            if length == 0:
                break
            skipped += length
        return skipped


class ChainedFile:
    """Several files in a row, as one `OneWayFile`.

    Args:
        descriptor: the open file that holds them.
        links: each of them.

    Raises:
        AudioError: undecodable: one of them, or all together, being of unlike formats.
    """

    extra_info = ""
    """What libsndfile logs; of formats that can be chained, nothing that counts."""

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

    def skip_to(self, start: int) -> None:
        """Go to sample `start` from the beginning of the first one."""
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
        """Open a link, in place of the one that is open."""
        if hasattr(self, "_file"):
            self.close()
        self._number = number
        self._file = _open_link(self._descriptor, self._links[number])


AudioFile: TypeAlias = OneWayFile | ChainedFile


def header_seconds(path: str) -> float:
    """How long the file's header says it lasts, or 0.0 if nothing can be said."""
    try:
        with open_audio(path) as file:
            length = num_samples(file, path)
            return length / file.samplerate if length < 1 << 36 else 0.0
    except AudioError:
        return 0.0


def num_samples(file: AudioFile, path: str) -> int:
    """How many samples an open file has: what its header says, else what can be decoded."""
    if file.frames != _UNKNOWN_LENGTH:
        return int(file.frames)
    status = os.stat(path)
    return _count_samples(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)  # a long file is asked for each of its windows
def _count_samples(path: str, size: int, modified: int) -> int:
    """The samples of a file by decoding it; its size and time say whether it is still the same."""
    try:
        with open_audio(path) as file:
            assert isinstance(file, OneWayFile)  # no chain is of unknown length
            return file.skip(_UNKNOWN_LENGTH)
    except soundfile.LibsndfileError as error:
        raise AudioError("undecodable", error_text(error)) from error


@contextmanager
def open_audio(path: str) -> Iterator[AudioFile]:
    """A regular local file as soundfile sees it; anything else is refused before it is opened."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise AudioError("not_a_regular_file", "a folder, device, FIFO or socket")
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError("not_found", "no such file") from error
    except UnicodeEncodeError as error:
        raise AudioError("not_found", "a name that no file can have") from error
    except OSError as error:
        raise AudioError("unreadable", error.strerror or "cannot be opened") from error
    try:
        with _open_whole(descriptor, path) as file:
            yield file
    finally:
        os.close(descriptor)


def _open_whole(descriptor: int, path: str) -> AudioFile:
    """The file as libsndfile reads it, or otherwise where that would not be all of it."""
    file = _open(descriptor)
    if not may_need_links(file.format, file.subtype, file.frames):
        return file
    status = os.fstat(descriptor)
    try:
        known = (file.format, file.subtype, file.frames)
        links = find_links(path, status.st_size, status.st_mtime_ns, *known)
        if not links:
            return file
        file.close()
        if len(links) == 1:
            return _open_link(descriptor, links[0])
        return ChainedFile(descriptor, links)
    except BaseException:
        file.close()
        raise


def _open(source: int | SplicedFile) -> OneWayFile:
    try:
        # By descriptor: soundfile cannot open names that are not UTF-8.
        return OneWayFile(source, closefd=False)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise AudioError("undecodable", error_text(error)) from error


def _open_link(descriptor: int, link: Link) -> OneWayFile:
    file = _open(SplicedFile(descriptor, link.ranges, link.head))
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

"""Audio files as libsndfile reads them, from the front to the end."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache

import numpy as np
import soundfile

from gmmpipe.errors import AudioError

BLOCK_SAMPLES = 1 << 20
_UNKNOWN_LENGTH = (1 << 63) - 1
"""What libsndfile says of a FLAC whose header states no length, as of one written to a pipe."""


class OneWayFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile has no types
    """Read from the front to the end: soundfile then spares libsndfile a seek after every read."""

    # Asked for several times a file, and looked up anew each time.
    format = cached_property(soundfile.SoundFile.format.fget)
    subtype = cached_property(soundfile.SoundFile.subtype.fget)

    def seekable(self) -> bool:
        """Never, for soundfile's own `read`; `skip_to` asks libsndfile."""
        return False

    def skip_to(self, start: int) -> None:
        """Go to sample `start` from the beginning of the file."""
        # To 0 too in an MP3, which decodes to other bits without; and soundfile.read does it.
        if start == 0 and self.format != "MP3":
            return
        if super().seekable() and self.frames != _UNKNOWN_LENGTH:
            self.seek(start)
        else:  # GSM in WAV, for one, cannot seek
            self.skip(start)

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


def header_seconds(path: str) -> float:
    """How long the file's header says it lasts, or 0.0 if nothing can be said."""
    try:
        with open_audio(path) as file:
            length = num_samples(file, path)
            return length / file.samplerate if length < 1 << 36 else 0.0
    except AudioError:
        return 0.0


def num_samples(file: OneWayFile, path: str) -> int:
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
            return file.skip(_UNKNOWN_LENGTH)
    except soundfile.LibsndfileError as error:
        raise AudioError("undecodable", error_text(error)) from error


@contextmanager
def open_audio(path: str) -> Iterator[OneWayFile]:
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
        try:
            # By descriptor: soundfile cannot open names that are not UTF-8.
            file = OneWayFile(descriptor, closefd=False)
        except (soundfile.SoundFileError, TypeError, ValueError) as error:
            raise AudioError("undecodable", error_text(error)) from error
        with file:
            yield file
    finally:
        os.close(descriptor)


def error_text(error: Exception) -> str:
    """libsndfile's own words, without the path or descriptor that soundfile puts before them."""
    text = error.error_string if isinstance(error, soundfile.LibsndfileError) else str(error)
    return text.removeprefix("Error : ").strip()

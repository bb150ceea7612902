"""A recording of which several parts are loaded in the order of time."""

import os

from gmmpipe.audio.forward import ForwardFile
from gmmpipe.audio.member import Member
from gmmpipe.audio.opener import Recording
from gmmpipe.audio.segment import Limit, Part, Segment, find_part
from gmmpipe.audio.waveform import Waveform, load_waveform, read_part, usable_samples
from gmmpipe.errors import AudioError


class OpenRecording:
    """A recording that is opened and decoded once, as far as its format allows, for many parts.

    Args:
        recording: a file's path, a member of an archive, or a file's bytes.

    Raises:
        AudioError: it cannot be opened or used, whichever part is meant.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._version = _version(recording)
        self._file = ForwardFile(recording)
        try:
            self._available = usable_samples(self._file.file, recording)
        except BaseException:
            self.close()
            raise

    def part(self, limit: Limit, segment: Segment) -> Part:
        """The part that `segment` means and `limit` leaves; AudioError where there is none."""
        return find_part(self._file.file, self._available, limit, segment)

    def load(self, part: Part, sample_rate: int, limit: Limit, segment: Segment) -> Waveform:
        """The waveform of a part that `part` gave for this limit and segment.

        Where decoding up to it fails it is tried once more, by itself, as `load_waveform` does.

        Raises:
            AudioError: truncated, undecodable or non_finite.
        """
        try:
            return read_part(self._file, part, sample_rate)
        except AudioError as error:
            if error.reason == "non_finite":
                raise
        return load_waveform(self._recording, sample_rate, limit, segment)

    def keep_from(self, part: Part | None) -> None:
        """Keep what the next part to be loaded shares with the one after it, or nothing."""
        self._file.keep_from(None if part is None else part.span.start)

    def can_go_on(self, recording: Recording) -> bool:
        """Whether `recording` is this one, unchanged, and what is read of it the same as anew.

        In formats that are decoded from the front it is. In the others a damaged place that one
        passes, or does not pass, could make a difference; and opening them again costs little.
        """
        is_same = recording == self._recording and self._version is not None
        return is_same and self._file.is_from_front and _version(recording) == self._version

    def close(self) -> None:
        """Free what libsndfile holds, and the file."""
        self._file.close()


def _version(recording: Recording) -> tuple[int, ...] | None:
    """What changes when a file, or an archive, does; None where there is none."""
    if isinstance(recording, bytes):
        return None
    try:
        status = os.stat(recording.archive if isinstance(recording, Member) else recording)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

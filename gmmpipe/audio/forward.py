"""A recording that stays open while parts of it are read in the order of time.

What is read has the same samples as if the recording were opened anew for each part, but in an
MP3: that is decoded from its beginning, and not from half a second before each part, and the two
differ by roundings of float32.
"""

from contextlib import ExitStack
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from gmmpipe.audio.container import AudioFile
from gmmpipe.audio.decoder import BLOCK_SAMPLES
from gmmpipe.audio.opener import Recording, open_audio
from gmmpipe.errors import AudioError

LONGEST_SKIP_SECONDS = 10.0
"""A longer gap is not decoded where one can seek: the file is opened again, and sought in."""

_NOWHERE = 1 << 62


class ForwardFile:
    """An open recording, read like an `AudioFile` whose `skip_to` asks for later and later places.

    An earlier place is possible; the recording is then opened again, and in a format in which one
    cannot seek decoded again. So whoever will go back says so with `keep_from`.

    Args:
        recording: a file's path, a member of an archive, or a file's bytes.

    Raises:
        AudioError: the recording cannot be opened.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._stack = ExitStack()
        self._open()
        # The bits of an MP3 depend on all that was decoded, and on all seeks, before. A decoder
        # that does not say whether it can seek is taken for one that cannot.
        can_seek = getattr(self.file, "can_seek", False)
        self.is_from_front = self.file.format == "MP3" or not can_seek
        # An Opus decoder never forgets quite where it began, so each part begins anew.
        self._is_opus = self.file.subtype == "OPUS"
        self._failed_at: int | None = None
        self._keep_from: int | None = None

    @property
    def samplerate(self) -> int:
        """Hz."""
        return int(self.file.samplerate)

    @property
    def channels(self) -> int:
        """How many there are."""
        return int(self.file.channels)

    @property
    def format(self) -> str:
        """libsndfile's name for the container."""
        return str(self.file.format)

    @property
    def subtype(self) -> str:
        """libsndfile's name for the encoding."""
        return str(self.file.subtype)

    def keep_from(self, start: int | None) -> None:
        """Keep what is read from sample `start` on, because it is wanted once more."""
        self._keep_from = None if self._is_opus else start

    def skip_to(self, start: int) -> None:
        """Go to sample `start` from the beginning.

        Raises:
            AudioError: the recording cannot be opened again, or decoding it failed earlier.
            LibsndfileError: decoding it fails.
        """
        if self._failed_at is not None and start >= self._failed_at:
            raise AudioError("undecodable", "an earlier part cannot be decoded")
        if self._is_held(start):
            self._next = start
            self._drop_held_before(start)
            return
        self._held.clear()
        gap = start - self._decoded
        is_far = gap > LONGEST_SKIP_SECONDS * self.samplerate and not self.is_from_front
        if gap < 0 or is_far or not self._has_begun or self._is_opus:
            self._begin(start)
        self._skip(start - self._decoded)
        self._next = start

    def read(self, out: NDArray[Any]) -> NDArray[Any]:
        """Fill `out` [samples, channels] as far as the audio goes; returns that part of it.

        What is held fills a part of it first; nothing is returned at the end alone.
        """
        position = self._decoded - sum(map(len, self._held))
        for block in self._held:
            if position <= self._next < position + len(block):
                found = block[self._next - position :][: len(out)]
                out[: len(found)] = found
                self._next += len(found)
                return out[: len(found)]
            position += len(block)
        return self._decode(out)

    def close(self) -> None:
        """Free what libsndfile holds, and the file."""
        self._stack.close()

    def _open(self) -> None:
        self._stack.close()
        self.file: AudioFile = self._stack.enter_context(open_audio(self._recording))
        self._has_begun = False
        self._decoded = self._next = 0
        self._held: list[NDArray[Any]] = []

    def _begin(self, start: int) -> None:
        """Go to a place from which sample `start` can be reached, in a file that is just opened.

        libsndfile finds the right place in a Vorbis file only if nothing was read before.
        """
        if self._has_begun:
            self._open()
        self._has_begun = True
        self._decoded = 0 if self.is_from_front else start
        self.file.skip_to(self._decoded)

    def _skip(self, count: int) -> None:
        """Decode `count` samples, or as many as there are, and drop them."""
        dtype = np.int16 if self.subtype == "PCM_16" else np.float32
        while count > 0:
            shape = (min(count, BLOCK_SAMPLES), self.channels)
            length = len(self._decode(np.empty(shape, dtype)))
            if length == 0:
                break
            count -= length

    def _decode(self, out: NDArray[Any]) -> NDArray[Any]:
        try:
            block = self.file.read(out=out)
        except (soundfile.LibsndfileError, AudioError):
            if self.is_from_front:
                self._failed_at = self._decoded
            self._held.clear()
            self._decoded = _NOWHERE
            raise
        start = self._decoded
        self._decoded = self._next = start + len(block)
        # What is held ends where decoding goes on, or there is nothing held.
        if self._keep_from is None or self._keep_from >= start:
            self._held.clear()
        if self._keep_from is not None and self._keep_from < self._decoded:
            self._held.append(block[max(0, self._keep_from - start) :].copy())
        return block

    def _is_held(self, start: int) -> bool:
        held = sum(map(len, self._held))
        return held > 0 and self._decoded - held <= start <= self._decoded

    def _drop_held_before(self, start: int) -> None:
        position = self._decoded - sum(map(len, self._held))
        while self._held and position + len(self._held[0]) <= start:
            position += len(self._held.pop(0))

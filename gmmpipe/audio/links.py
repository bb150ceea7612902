"""Which bytes of a file libsndfile must be given so that it reads all of the audio.

libsndfile reads the first of several streams in a row, guesses the length of an MP3 that has no
Xing header or lies in a WAV, and believes a header that states no audio. Only formats in which that
can happen are looked at.
"""

from dataclasses import dataclass

from gmmpipe.audio import mpeg, ogg
from gmmpipe.audio.unclosed import STREAMED_LENGTHS, closed_header, data_span
from gmmpipe.errors import AudioError

CHAINED_FORMATS = frozenset({"MP3", "OGG"})
"""Formats whose files may follow one another in one, libsndfile reading the first alone."""

_MOST_LINKS = 1_000
_HEADER_BYTES = 44


@dataclass(frozen=True)
class Link:
    """One stream of a file.

    Args:
        head: bytes to put in front of it.
        ranges: where its bytes begin and end.
        num_samples: how long it is, where libsndfile must be told.
    """

    head: bytes
    ranges: tuple[tuple[int, int], ...]
    num_samples: int | None = None


def may_need_links(container: str, subtype: str, num_samples: int) -> bool:
    """Whether libsndfile may read less of such a file than there is, or at wrong places."""
    return container in CHAINED_FORMATS or subtype.startswith("MPEG") or not num_samples


def find_links(
    descriptor: int, size: int, container: str, subtype: str, num_samples: int
) -> tuple[Link, ...]:
    """The streams of a file in order, or none where libsndfile reads all of it as it is.

    Args:
        descriptor: the open file.
        size: its bytes.
        container: libsndfile's name for it.
        subtype: and for its encoding.
        num_samples: how long libsndfile takes it to be.

    Raises:
        AudioError: undecodable, truncated or unreadable.
    """
    try:
        if container == "MP3":
            links = _mpeg_links(mpeg.find_streams(descriptor, 0, size), num_samples)
        elif subtype.startswith("MPEG"):
            links = _mpeg_links(mpeg.find_streams(descriptor, *_audio(descriptor, container, size)))
        elif container == "OGG":
            found = ogg.find_links(descriptor, size)
            links = [Link(b"", (span,)) for span in found] if len(found) > 1 else []
        else:
            head = closed_header(descriptor, container, size)
            links = [Link(head, ((len(head), size),))] if head else []
    except OSError as error:
        raise AudioError("unreadable", error.strerror or "cannot be read") from error
    if len(links) > _MOST_LINKS:
        raise AudioError("undecodable", f"{len(links)} streams in a row")
    return tuple(links)


def _audio(descriptor: int, container: str, size: int) -> tuple[int, int]:
    """Where the audio in a file of `size` bytes begins and ends, by its container.

    Raises:
        AudioError: undecodable or truncated.
    """
    span = data_span(descriptor, container, size)
    if span is None:
        raise AudioError(
            "undecodable", f"MPEG audio in a {container} file, in no place that it names"
        )
    start, stated = span
    if stated not in STREAMED_LENGTHS and start + stated > size + _HEADER_BYTES:
        raise AudioError("truncated", f"{size - start} bytes of audio where {stated} are stated")
    return start, min(start + stated, size) if stated else size


def _mpeg_links(streams: list[mpeg.Stream], num_samples: int | None = None) -> list[Link]:
    """What libsndfile must be given; none where the bare file will do, taken for `num_samples`.

    Raises:
        AudioError: undecodable or truncated.
    """
    if not streams:
        raise AudioError("undecodable", "an MP3 whose frames do not state their lengths")
    for stream in streams:
        claim = stream.stated_frames or 0
        seconds = stream.kind.frame_samples / stream.kind.rate
        if (claim - stream.frames) * seconds > max(0.5, 0.05 * claim * seconds):
            raise AudioError("truncated", f"{stream.frames} frames where {claim} are stated")
    if streams[0].kind.layer < 3:
        # These layers have no tags, so libsndfile guesses the length from the number of bytes. It
        # gets the frames twice, and is told where the first time ends.
        (stream,) = streams
        return [Link(b"", stream.ranges * 2, stream.frames * stream.kind.frame_samples)]
    if len(streams) == 1 and num_samples is not None:
        (stream,) = streams
        stated = stream.stated_frames
        # libsndfile copes with a frame or two that damage took away.
        if stated is not None and stated >= stream.frames - 1:
            return []
        excess = num_samples - stream.frames * stream.kind.frame_samples
        if stated is None and 0 <= excess <= stream.kind.rate // 2:
            return []
    return [Link(*stream.head_and_ranges()) for stream in streams]

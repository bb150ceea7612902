"""Opens a recording: a local file, a member of an archive, or the bytes of a file in memory."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeAlias

import soundfile

from gmmpipe.audio.container import AudioFile, ContainerFile
from gmmpipe.audio.container_kinds import demuxer_of
from gmmpipe.audio.decoder import (
    UNKNOWN_LENGTH,
    ChainedFile,
    OneWayFile,
    decode,
    decode_link,
    error_text,
)
from gmmpipe.audio.links import Link, find_links, may_need_links
from gmmpipe.audio.member import Member, open_member, open_regular
from gmmpipe.audio.memory_file import memory_file
from gmmpipe.audio.parquet_rows import is_row, open_row
from gmmpipe.errors import AudioError

Recording: TypeAlias = str | bytes | Member
"""The path of a local file, a file's bytes, or a member of an archive."""


@contextmanager
def open_audio(recording: Recording) -> Iterator[AudioFile]:
    """All of the audio in a recording.

    A path must be that of a regular file; anything else is refused before it is opened.

    Raises:
        AudioError: not_found, not_a_regular_file, unreadable, undecodable or truncated.
    """
    descriptor = _descriptor_of(recording)
    try:
        with _open_whole(descriptor, recording) as file:
            yield file
    finally:
        os.close(descriptor)


def header_seconds(recording: Recording) -> float:
    """How long the recording's header says it lasts, or 0.0 if nothing can be said."""
    try:
        with open_audio(recording) as file:
            stated = file.stated_samples if isinstance(file, ContainerFile) else None
            length = stated or num_samples(file, recording)
            return length / file.samplerate if length < 1 << 36 else 0.0
    except AudioError:
        return 0.0


def num_samples(file: AudioFile, recording: Recording) -> int:
    """How many samples an open recording has: what its header says, else what can be decoded."""
    if file.frames != UNKNOWN_LENGTH:
        return int(file.frames)
    if isinstance(recording, bytes):
        return _count_samples(recording)
    assert not isinstance(file, ChainedFile)  # no chain is of unknown length
    status = os.fstat(file.name)
    return _count_samples_of_file(recording, status.st_size, _modified(recording, file.name))


def _modified(recording: str | Member, descriptor: int) -> int:
    """When a recording, open as `descriptor`, was changed, or its archive."""
    if not isinstance(recording, Member):
        return os.fstat(descriptor).st_mtime_ns
    try:
        return os.stat(recording.archive).st_mtime_ns
    except OSError:
        return 0


@lru_cache(maxsize=64)  # a long file is asked for each of its windows
def _count_samples_of_file(recording: str | Member, size: int, modified: int) -> int:
    """`_count_samples`; the size and time say whether it is still the same."""
    return _count_samples(recording)


def _count_samples(recording: Recording) -> int:
    """The samples of a recording, by decoding it."""
    try:
        with open_audio(recording) as file:
            assert not isinstance(file, ChainedFile)
            return file.skip(UNKNOWN_LENGTH)
    except soundfile.LibsndfileError as error:
        raise AudioError("undecodable", error_text(error)) from error


def _descriptor_of(recording: Recording) -> int:
    if isinstance(recording, bytes):
        return memory_file([recording])
    if isinstance(recording, Member):
        return open_row(recording) if is_row(recording) else open_member(recording)
    return open_regular(recording)


def _open_whole(descriptor: int, recording: Recording) -> AudioFile:
    """The file as libsndfile reads it, or by its streams where libsndfile would miss some of it.

    What libsndfile cannot decode is left to PyAV if it looks like a container that PyAV may know.
    """
    try:
        file = decode(descriptor)
    except AudioError:
        demuxer = demuxer_of(descriptor)
        if demuxer is None:
            raise
        return ContainerFile(descriptor, demuxer)
    if not may_need_links(file.format, file.subtype, file.frames):
        return file
    try:
        links = _links(descriptor, recording, file)
        if not links:
            return file
        file.close()
        if len(links) == 1:
            return decode_link(descriptor, links[0])
        return ChainedFile(descriptor, links)
    except BaseException:
        file.close()
        raise


def _links(descriptor: int, recording: Recording, file: OneWayFile) -> tuple[Link, ...]:
    """The streams of a recording, if libsndfile must be told; see `find_links`."""
    size = os.fstat(descriptor).st_size
    known = (size, file.format, file.subtype, file.frames)
    if isinstance(recording, bytes):
        return find_links(descriptor, *known)
    opened = _Opened(recording, _modified(recording, descriptor), known, descriptor)
    return _links_of_opened(opened)


@dataclass(frozen=True)
class _Opened:
    """An open recording; two of equal size and time are the same, whatever their descriptors."""

    recording: str | Member
    modified: int
    known: tuple[int, str, str, int]
    descriptor: int = field(compare=False)


@lru_cache(maxsize=64)  # a long file is asked for each of its segments
def _links_of_opened(opened: _Opened) -> tuple[Link, ...]:
    return find_links(opened.descriptor, *opened.known)

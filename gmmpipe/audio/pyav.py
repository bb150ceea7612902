"""What of PyAV is needed: to open an audio container, and what PyAV raises."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from gmmpipe.audio.spliced import SplicedFile
from gmmpipe.errors import AudioError


def skip_manual() -> int:
    """The flag by which a decoder leaves the delay in the audio, and says how long it is."""
    from av.codec.context import Flags2

    return int(Flags2.skip_manual)


def open_container(descriptor: int, demuxer: str) -> Any:
    """An open file as a container of PyAV's."""
    import av

    # Video is not decoded, not even to find out what it is.
    options = {"codec_whitelist": _audio_decoders()}
    return av.open(
        SplicedFile(descriptor, [(0, os.fstat(descriptor).st_size)]),
        format=demuxer,
        container_options=options,
        metadata_errors="replace",
        io_open=_refuse_other_files,
    )


@lru_cache(maxsize=1)
def _audio_decoders() -> str:
    """The names of FFmpeg's audio decoders."""
    from av.codec import Codec, codecs_available

    names = []
    for name in sorted(codecs_available):
        try:
            if Codec(name, "r").type == "audio":
                names.append(name)
        except ValueError:
            continue  # it only encodes
    return ",".join(names)


def _refuse_other_files(url: str, flags: int, options: dict[str, str]) -> None:
    raise AudioError("undecodable", "a container that refers to other files")


@contextmanager
def refusing_errors() -> Iterator[None]:
    """What PyAV raises becomes an AudioError."""
    try:
        import av
    except ImportError as error:
        text = 'a container that PyAV may decode: pip install "gmmpipe[av]"'
        raise AudioError("undecodable", text) from error
    # Looked up here: a generator may be closed when the interpreter ends, and modules are empty.
    errors = (av.FFmpegError, ValueError, OverflowError, MemoryError)
    try:
        yield
    except errors as error:
        text = getattr(error, "strerror", None) or str(error)
        raise AudioError("undecodable", f"a damaged container: {text[:200]}") from error

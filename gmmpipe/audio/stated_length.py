"""Headers that state more audio than there is, where libsndfile goes by the file's size instead."""

import os
import re

from gmmpipe.audio.container import AudioFile
from gmmpipe.audio.decoder import OneWayFile
from gmmpipe.audio.unclosed import STREAMED_LENGTHS
from gmmpipe.errors import AudioError

_CLAMPED_FORMATS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU"})
"""Containers whose too large a size libsndfile replaces by the file's, and only logs that."""

_SHORT_DATA = re.compile(r"^\s*(?:data|SSND|Data Size)\s*:\s*(\d+) \(should be (\d+)\)", re.M)
_W64_DATA = re.compile(r"^\s*data\s*:\s*(\d+)", re.M)
_HEADER_BYTES = {"AIFF": 54, "AU": 28, "W64": 104, "RF64": 104}
"""How long a writer's header is; 44 for other formats. Some writers count it as audio."""


def refuse_truncated(file: AudioFile) -> None:
    """Refuse a file whose header states more audio than there is, by more than a header's length.

    Raises:
        AudioError: truncated.
    """
    if not isinstance(file, OneWayFile):
        return  # these are of formats whose headers promise nothing
    if file.format in _CLAMPED_FORMATS:
        stated, found = _stated_and_found(file)
        excess = stated - found
        if stated not in STREAMED_LENGTHS and excess > _HEADER_BYTES.get(file.format, 44):
            raise AudioError("truncated", f"{found} bytes of audio where {stated} are stated")
    elif file.format == "NIST":
        header = os.pread(file.name, 1024, 0)
        samples = re.search(rb"^sample_count -i (\d+)", header, re.M)
        if samples and file.frames < int(samples[1]):
            raise AudioError(
                "truncated", f"{file.frames} samples where {int(samples[1])} are stated"
            )


def _stated_and_found(file: OneWayFile) -> tuple[int, int]:
    """The bytes of audio that a header states, and those that can be there; 0 and 0 if unknown."""
    if file.format in ("W64", "RF64"):
        if not isinstance(file.name, int):
            return 0, 0  # a header that has been mended
        most = os.fstat(file.name).st_size - _HEADER_BYTES["W64"]
        if file.format == "RF64":  # the size of its data stands in its first chunk
            return int.from_bytes(os.pread(file.name, 8, 28), "little"), most
        stated = _W64_DATA.search(file.extra_info)
        return (int(stated[1]) - 24 if stated else 0), most
    short = _SHORT_DATA.search(file.extra_info)
    return (int(short[1]), int(short[2])) if short else (0, 0)

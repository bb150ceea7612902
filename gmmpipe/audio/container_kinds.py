"""What container a file is, by its first bytes."""

import os

from gmmpipe.errors import AudioError

_SIGNATURES = (
    *((4, name, "mov") for name in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c", "asf"),
    (0, b"#!AMR", "amr"),
    (0, b"FLV\x01", "flv"),
    (8, b"AVI ", "avi"),
    (28, b"Speex   ", "ogg"),
    (0, b"\x0b\x77", "ac3"),
    (0, b"wvpk", "wv"),
    (0, b"MAC ", "ape"),
)
"""Where bytes stand by which a demuxer of FFmpeg's is chosen."""

_TS_PACKET_BYTES = 188

_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"


def demuxer_of(descriptor: int) -> str | None:
    """FFmpeg's name of the demuxer for an open file that libsndfile cannot decode, or None."""
    head = os.pread(descriptor, 3 * _TS_PACKET_BYTES, 0)
    for offset, signature, demuxer in _SIGNATURES:
        if head.startswith(signature, offset):
            return demuxer
    if head[::_TS_PACKET_BYTES] == b"GGG":
        return "mpegts"
    return "aac" if _is_adts(descriptor, head) else None


def _is_adts(descriptor: int, head: bytes) -> bool:
    """Whether a file begins with two frames of AAC in ADTS."""
    if len(head) < 7 or not _is_adts_sync(head):
        return False
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return length >= 7 and _is_adts_sync(os.pread(descriptor, 2, length))


def _is_adts_sync(start: bytes) -> bool:
    return len(start) >= 2 and start[0] == 0xFF and start[1] & 0xF6 == 0xF0


def refuse_cut_off(descriptor: int, demuxer: str) -> None:
    """Refuse a Matroska file that ends before its one segment does.

    Its stated duration need not be that of the audio, and a decoder sees no error.

    Raises:
        AudioError: truncated.
    """
    if demuxer != "matroska":
        return
    head = os.pread(descriptor, 1 << 10, 0)
    start, size = _element_size(head, len(_EBML))
    if not head.startswith(_SEGMENT, start + size):
        return
    start, size = _element_size(head, start + size + len(_SEGMENT))
    missing = start + size - os.fstat(descriptor).st_size
    if size and missing > 0:
        raise AudioError("truncated", f"{missing} bytes are missing of those that are stated")


def _element_size(head: bytes, at: int) -> tuple[int, int]:
    """Where an element's content begins, whose size stands at `at`, and that; 0 if unknown."""
    first = head[at] if at < len(head) else 0
    length = 9 - first.bit_length()
    value = int.from_bytes(head[at : at + length], "big") & (1 << 7 * length) - 1
    return at + length, (0 if value == (1 << 7 * length) - 1 else value)

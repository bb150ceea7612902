"""The endings of names that audio files have."""

import os

AUDIO_ENDINGS = frozenset(
    (
        # What libsndfile reads.
        *(".wav", ".wave", ".flac", ".mp3", ".mp2", ".mpga", ".ogg", ".oga", ".opus"),
        *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64", ".sph", ".nist"),
        *(".voc",),
        # What PyAV reads.
        *(".m4a", ".m4b", ".mp4", ".aac", ".3gp", ".webm", ".weba", ".mka", ".wma", ".amr"),
    )
)
"""In lower case. A file or a member of an archive with another ending is passed over."""

_MAC_PREFIX = "._"
"""Of the files that macOS writes beside others on foreign disks and into archives."""


def ending_of(name: str) -> str:
    """The ending of a path's name in lower case, with its dot; empty if it has none."""
    return os.path.splitext(name)[1].lower()


def is_audio_name(name: str) -> bool:
    """Whether a path is that of an audio file by its name alone: ``a/b.FLAC``, not ``a/._b.flac``.

    A folder on the way may have any name.
    """
    if os.path.basename(name).startswith(_MAC_PREFIX):
        return False
    return ending_of(name) in AUDIO_ENDINGS


def what_it_is(name: str) -> str:
    """What to call a file that is passed over: a hidden one, or by its ending."""
    if os.path.basename(name).startswith("."):
        return "hidden"
    return ending_of(name) or "no ending"

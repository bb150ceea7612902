"""Where the tables of well-known corpora have their audio, relative to the table's folder."""

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path

_LOOKED_AT = 100
"""Rows whose audio is looked for: some of it may be missing."""

COMMON_VOICE_COLUMNS = frozenset(("client_id", "path"))
VOX_POPULI_COLUMNS = frozenset(("id", "raw_text", "normalized_text"))

_CLIPS = "clips"
_VOX_POPULI_ENDINGS = (".ogg", ".opus", ".flac", ".wav", ".mp3")
_MLS_ENDINGS = (".flac", ".opus", ".ogg", ".wav", ".mp3")
_MLS_ID = re.compile(r"(\d+)_(\d+)_\d+")


def lie_in_clips(folder: Path, paths: Iterable[str]) -> bool:
    """Whether paths of a table are names of files below ``clips/``, as those of Common Voice are.

    Args:
        folder: the table's.
        paths: as the table gives them.
    """
    if not (folder / _CLIPS).is_dir():
        return False
    names = islice((path for path in paths if path and "/" not in path), _LOOKED_AT)
    return any(
        (folder / _CLIPS / name).exists() and not (folder / name).exists()
        for name in names
        if "\0" not in name
    )


def in_clips(path: str) -> str:
    """The path of a clip from its name."""
    return path if "/" in path else f"{_CLIPS}/{path}"


def vox_populi_ending(folder: Path, ids: Iterable[str]) -> str:
    """The ending that the audio of VoxPopuli's utterances has."""
    stems = [vox_populi_path(identifier, "") for identifier in islice(ids, _LOOKED_AT)]
    return _ending_there(folder, stems, _VOX_POPULI_ENDINGS)


def vox_populi_path(identifier: str, ending: str) -> str:
    """The path of an utterance of VoxPopuli: in a folder of its year, with which its id begins."""
    return f"{identifier[:4]}/{identifier}{ending}"


def is_mls(line: str) -> bool:
    """Whether a line is one of Multilingual LibriSpeech's ``transcripts.txt``."""
    return _MLS_ID.fullmatch(line.partition("\t")[0]) is not None and "\t" in line


def mls_ending(folder: Path, ids: Iterable[str]) -> str:
    """The ending that the audio of those utterances has: the corpus comes as FLAC and as Opus."""
    fields = (mls_fields(identifier, "") for identifier in islice(ids, _LOOKED_AT))
    stems = [found["wav_path"] for found in fields if found]
    return _ending_there(folder, stems, _MLS_ENDINGS)


def mls_fields(identifier: str, ending: str) -> Mapping[str, str] | None:
    """The path and the speaker of an utterance, which its id names; None if that is no such id."""
    found = _MLS_ID.fullmatch(identifier)
    if found is None:
        return None
    speaker, book = found.groups()
    path = f"audio/{speaker}/{book}/{identifier}{ending}"
    return {"wav_path": path, "id": identifier, "speaker": speaker}


def _ending_there(folder: Path, stems: Iterable[str], endings: tuple[str, ...]) -> str:
    """The first ending under which a file is there; the first of all if none is."""
    for stem in stems:
        for ending in endings:
            if "\0" not in stem and (folder / f"{stem}{ending}").exists():
                return ending
    return endings[0]

"""The members of a zip archive by its directory alone."""

import os
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

from gmmpipe.audio.inflate import inflated
from gmmpipe.audio.tar_headers import DamagedArchiveError, Entry, ask_for_nothing, clean_name
from gmmpipe.errors import AudioError

_MOST_DIRECTORY_BYTES = 1 << 28
"""Of a zip's directory, which is read as a whole: of a million members or more."""
_MOST_STATED_BYTES = 1 << 62
"""Of a member once it is unpacked: a size of 64 bits would not fit into an index."""
_LOCAL_HEADER_BYTES = 30
_ENCRYPTED = 0x1


def zip_entries(
    file: BinaryIO, wants: Callable[[str, int], bool] = ask_for_nothing
) -> Iterator[Entry]:
    """Every member, in the order of the directory.

    Args:
        file: the open archive.
        wants: whether the content of a file of this name and size is asked for.

    Raises:
        DamagedArchiveError: the directory cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    for info in _infos(file):
        name = clean_name(info.filename)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.filename.endswith("/"):
            yield Entry(name, 0, 0, is_not="a folder")
        elif kind not in (0, stat.S_IFREG):
            is_not = "a link" if kind == stat.S_IFLNK else "a device or FIFO"
            yield Entry(name, 0, 0, is_not=is_not)
        else:
            entry = _file_entry(file.fileno(), info, name, size)
            if entry.range and wants(name, info.file_size):
                entry = _with_content(file.fileno(), entry)
            yield entry


def _infos(file: BinaryIO) -> list[zipfile.ZipInfo]:
    try:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]
        if not end:
            raise DamagedArchiveError("no zip archive, or its end is missing")
        if end[5] > _MOST_DIRECTORY_BYTES:
            raise DamagedArchiveError(f"a directory of {end[5]} bytes")
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    # NotImplementedError is zipfile's word for an archive that needs a later version of zip.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
        raise DamagedArchiveError(str(error)) from error
    except (IndexError, OverflowError, struct.error) as error:
        raise DamagedArchiveError("a directory that cannot be read") from error


def _file_entry(descriptor: int, info: zipfile.ZipInfo, name: str, size: int) -> Entry:
    """The entry of a file, with its place as its local header says it."""
    stored, place = info.compress_size, info.header_offset
    if info.flag_bits & _ENCRYPTED:
        return Entry(name, 0, 0, problem=("undecodable", "encrypted"))
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        detail = f"compressed by method {info.compress_type}, neither stored nor deflated"
        return Entry(name, 0, 0, problem=("undecodable", detail))
    header = os.pread(descriptor, _LOCAL_HEADER_BYTES, place) if 0 <= place < size else b""
    if len(header) < _LOCAL_HEADER_BYTES or header[:4] != b"PK\3\4":
        return Entry(name, 0, 0, problem=("undecodable", "no header where its archive says"))
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = place + _LOCAL_HEADER_BYTES + lengths
    if start + stored > size:
        detail = f"the archive ends within its {stored} bytes"
        return Entry(name, 0, 0, problem=("truncated", detail))
    if info.file_size >= _MOST_STATED_BYTES:
        detail = f"its archive states {info.file_size} bytes, which it has not"
        return Entry(name, 0, 0, problem=("undecodable", detail))
    is_stored = info.compress_type == zipfile.ZIP_STORED
    return Entry(name, start, stored, None if is_stored else info.file_size)


def _with_content(descriptor: int, entry: Entry) -> Entry:
    """The entry with its bytes; without them where they are damaged."""
    if entry.size is None:
        content = os.pread(descriptor, entry.stored_bytes, entry.start)
    else:
        try:
            pieces = inflated(descriptor, entry.start, entry.stored_bytes, entry.size)
            content = b"".join(pieces)
        except AudioError:
            return entry
    return replace(entry, content=content)

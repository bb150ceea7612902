"""The members of a tar archive by their headers alone, read from front to end."""

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

_BLOCK_BYTES = 512
MOST_EXTENSION_BYTES = 1 << 20
"""Of a header that belongs to the next one: a long name, or pax records."""

_LONG_NAME, _LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_WITHOUT_DATA = {
    tarfile.LNKTYPE: "a link",
    tarfile.SYMTYPE: "a link",
    tarfile.CHRTYPE: "a device or FIFO",
    tarfile.BLKTYPE: "a device or FIFO",
    tarfile.FIFOTYPE: "a device or FIFO",
    tarfile.DIRTYPE: "a folder",
}
_FILE_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE)


class DamagedArchiveError(Exception):
    """An archive is no archive, or is damaged; the message says where."""


class ForwardFile(Protocol):
    """The bytes of a tar archive, which may be readable from front to end only."""

    at: int
    """The place of the next byte."""

    def read(self, count: int) -> bytes:
        """The next `count` bytes, fewer at the end."""

    def skip_to(self, place: int) -> bool:
        """Go forward to a place; False if the archive ends before it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A member of an archive.

    Args:
        name: its path in the archive, without a leading ``./``.
        start: where its bytes begin in the archive.
        stored_bytes: how many bytes it takes there.
        size: how many bytes it has once it is unpacked; None where they are stored as they are.
        is_not: what it is instead of a file: ``a folder``, ``a link``; empty for a file.
        problem: why a file cannot be read, as a reason of a reject and its detail; None if it can.
        content: its bytes, if they were asked for.
    """

    name: str
    start: int
    stored_bytes: int
    size: int | None = None
    is_not: str = ""
    problem: tuple[str, str] | None = None
    content: bytes | None = None

    @property
    def range(self) -> tuple[int, ...] | None:
        """Where its bytes are, as `Member` has it; None where they cannot be read."""
        if self.is_not or self.problem:
            return None
        if self.size is None:
            return self.start, self.stored_bytes
        return self.start, self.stored_bytes, self.size


@dataclass
class _Extension:
    """What the headers in front of a member's own say of it."""

    name: str | None = None
    size: int | None = None
    is_sparse: bool = False


def _ask_for_nothing(name: str, size: int) -> bool:
    return False


def tar_entries(
    file: ForwardFile, wants: Callable[[str, int], bool] = _ask_for_nothing
) -> Iterator[Entry]:
    """Every member, in order. A member that the end of the archive cuts off is the last one.

    Args:
        file: the archive, at its beginning.
        wants: whether the content of a file of this name and size is asked for.

    Raises:
        DamagedArchiveError: there is no header where one should be, or not all of it.
    """
    extension = _Extension()
    while info := _header(file):
        padded_end = file.at + -(-info.size // _BLOCK_BYTES) * _BLOCK_BYTES
        if info.type in (_LONG_NAME, _LONG_LINK, *_PAX_TYPES, tarfile.XGLTYPE):
            _extend(extension, info.type, _extension_bytes(file, info.size))
            _skip(file, padded_end)
            continue
        is_sparse = info.type == tarfile.GNUTYPE_SPARSE or extension.is_sparse
        if info.type == tarfile.GNUTYPE_SPARSE:
            _skip_sparse_map(file, info)
        name = clean_name(info.name if extension.name is None else extension.name)
        size = info.size if extension.size is None else extension.size
        extension = _Extension()
        if is_not := _WITHOUT_DATA.get(info.type, ""):
            yield Entry(name, file.at, 0, is_not=is_not)
            continue
        if info.type not in _FILE_TYPES:
            is_not = "no file"
        start = file.at
        content = file.read(size) if not is_not and wants(name, size) else None
        problem = None
        if not file.skip_to(start + size):
            problem = ("truncated", f"the archive ends within its {size} bytes")
        elif is_sparse:
            problem = ("undecodable", "a sparse file, which its archive holds without its zeros")
        yield Entry(name, start, size, None, is_not, problem, content)
        if not file.skip_to(start + -(-size // _BLOCK_BYTES) * _BLOCK_BYTES):
            return


def clean_name(name: str) -> str:
    """A member's name without a leading ``./``."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _header(file: ForwardFile) -> tarfile.TarInfo | None:
    """The next header; None at the end of the archive."""
    place = file.at
    block = file.read(_BLOCK_BYTES)
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.EmptyHeaderError, tarfile.EOFHeaderError):  # type: ignore[attr-defined]
        return None
    except tarfile.HeaderError as error:
        is_cut = len(block) < _BLOCK_BYTES
        what = "ends within a header" if is_cut else "there is no header"
        raise DamagedArchiveError(f"{what} at byte {place}") from error
    if info.size < 0:
        raise DamagedArchiveError(f"a negative size in the header at byte {place}")
    return info


def _extension_bytes(file: ForwardFile, size: int) -> bytes:
    if size > MOST_EXTENSION_BYTES:
        raise DamagedArchiveError(f"a name or pax records of {size} bytes at byte {file.at}")
    content = file.read(size)
    if len(content) < size:
        raise DamagedArchiveError(f"ends within a header at byte {file.at}")
    return content


def _extend(extension: _Extension, kind: bytes, content: bytes) -> None:
    """Note what a header in front of a member's own says of it."""
    if kind == _LONG_NAME:
        extension.name = content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    elif kind in _PAX_TYPES:
        for keyword, value in _pax_records(content):
            if keyword in (b"path", b"GNU.sparse.name"):
                extension.name = value.decode("utf-8", "surrogateescape")
            elif keyword == b"size" and value.isdigit() and len(value) < 20:
                extension.size = int(value)
            extension.is_sparse |= keyword.startswith(b"GNU.sparse.")


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keywords and values of pax records: ``length keyword=value`` and a line end, each."""
    at = 0
    while at < len(content) and content[at]:
        length, _, _ = content[at : at + 20].partition(b" ")
        stop = at + int(length) if length.isdigit() else at
        record = content[at + len(length) + 1 : stop]
        keyword, equals, value = record.partition(b"=")
        if stop <= at or stop > len(content) or not equals or value[-1:] != b"\n":
            raise DamagedArchiveError("pax records that cannot be read")
        yield keyword, value[:-1]
        at = stop


def _skip_sparse_map(file: ForwardFile, info: tarfile.TarInfo) -> None:
    """Go behind the further blocks of a sparse file's map."""
    _, is_extended, _ = info._sparse_structs  # type: ignore[attr-defined]
    while is_extended:
        block = file.read(_BLOCK_BYTES)
        if len(block) < _BLOCK_BYTES:
            raise DamagedArchiveError(f"ends within a header at byte {file.at}")
        is_extended = bool(block[504])


def _skip(file: ForwardFile, place: int) -> None:
    if not file.skip_to(place):
        raise DamagedArchiveError(f"ends within a header at byte {file.at}")

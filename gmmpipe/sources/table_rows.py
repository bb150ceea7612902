"""The rows of a text file with a header, and what that file looks like."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gmmpipe.errors import ManifestError
from gmmpipe.sources.text_file import first_lines, raw_lines

_ENDINGS = {".tsv": "\t", ".csv": ",;|\t"}
"""What may stand between two cells, by the ending of the file."""
_BOM = b"\xef\xbb\xbf"
_END = "\0end of the table"


@dataclass(frozen=True)
class Header:
    """The first row of a table.

    Args:
        names: of the columns, in order.
        delimiter: what stands between two cells.
        is_quoted: whether cells may stand in double quotes, and then hold anything. In a ``.tsv``
            a quote is a plain character, as corpora write it, unless the header itself is quoted.
    """

    names: tuple[str, ...]
    delimiter: str
    is_quoted: bool


def headers_of(path: Path) -> list[Header]:
    """Every way to read the first row of a file with a table's ending; none of another file.

    One name above rows of several cells is no header; fairseq's files begin so, with a folder.

    Raises:
        ManifestError: the file cannot be read, or is damaged.
    """
    delimiters = _ENDINGS.get(Path(path.name.removesuffix(".gz")).suffix.lower(), "")
    lines = first_lines(path, 2) if delimiters else []
    try:
        line = lines[0].removeprefix(_BOM).decode().rstrip("\r\n") if lines else ""
    except UnicodeDecodeError:
        return []
    second = b"".join(lines[1:]).strip()
    headers = []
    for delimiter in delimiters:
        is_quoted = delimiter != "\t" or line.startswith('"')
        cells = _cells_of_one_line(line, delimiter) if is_quoted else line.split(delimiter)
        if len(cells) > 1 or delimiter.encode() not in second:
            headers.append(Header(tuple(map(str.strip, cells)), delimiter, is_quoted))
    return headers


def rows_of(path: Path, header: Header) -> Iterator[tuple[list[str], int]]:
    """The cells of each row, and how many lines of the file it takes; those of the header too.

    A blank line has no cells. What is not UTF-8 is kept as `os.fsdecode` keeps it.

    Raises:
        ManifestError: the file cannot be read, or is damaged, or a quote is not closed.
    """
    lines = (
        (raw if number else raw.removeprefix(_BOM)).decode("utf-8", "surrogateescape")
        for number, raw in enumerate(raw_lines(path))
    )
    if header.is_quoted:
        return _quoted_rows(path, lines, header.delimiter)
    plain = (line.rstrip("\r\n") for line in lines)
    return ((line.split(header.delimiter) if line.strip() else [], 1) for line in plain)


def _quoted_rows(
    path: Path, lines: Iterator[str], delimiter: str
) -> Iterator[tuple[list[str], int]]:
    def lines_and_end() -> Iterator[str]:
        yield from lines
        yield _END  # a last cell whose quote is not closed would hold this, too

    reader = csv.reader(lines_and_end(), delimiter=delimiter)
    before = 0
    try:
        for cells in reader:
            if cells == [_END]:
                return
            if reader.line_num - before > 1 and cells and cells[-1].endswith(_END):
                raise csv.Error("a quote that is not closed")
            yield cells, reader.line_num - before
            before = reader.line_num
    except csv.Error as error:
        raise ManifestError(f"{path}: line {before + 1}: {error}") from error


def _cells_of_one_line(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(line), delimiter=delimiter), [])
    except csv.Error:
        return []

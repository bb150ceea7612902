"""``table``: text files with a header and a row an utterance, Common Voice's and others'."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.sources import corpus_tables
from gmmpipe.sources.in_folder import manifests_at
from gmmpipe.sources.kind import Found, Specificity
from gmmpipe.sources.line_fields import PATH_FIELDS
from gmmpipe.sources.plain_line import BLANK_LINE, plain_line
from gmmpipe.sources.refusal import refused_line
from gmmpipe.sources.table_rows import ENDINGS, Header, headers_of, rows_of
from gmmpipe.sources.text_file import first_lines, raw_lines

_MLS_NAMES = ("transcripts.txt", "transcripts.txt.gz")
_SAMPLE_ROWS = 100
_Fields = dict[str, str]


class Table:
    """A .csv or .tsv file whose columns are the fields of a manifest, or a folder of those."""

    name = "table"
    looks_like = (
        "a .csv or .tsv file, also .gz, with a header that names a column of audio paths, a .tsv "
        "of VoxPopuli, a transcripts.txt of MLS, or a folder of those"
    )
    specificity = Specificity.BESIDE
    is_streamed = False

    def find(self, path: Path, ignored: Path | None = None) -> Found | None:
        """See `SourceKind`. Tables of one folder of Common Voice repeat each other: refused."""
        found = manifests_at(path, self.name, _is_table, ignored, (*ENDINGS, *_MLS_NAMES))
        if found and len(found.manifests) > 1:
            common_voice = [m.name for m in found.manifests if _is_common_voice(m.path)]
            if len(common_voice) > 1:
                raise ManifestError(
                    f"{path}: its tables name the same clips more than once: name one of "
                    + ", ".join(common_voice)
                )
        return found

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """See `SourceKind`. Line n is of line n of the file; a row of several has its first."""
        if path.name in _MLS_NAMES:
            return _mls_lines(path)
        return _lines_of_rows(path, _header_of(path))


def _is_table(path: Path) -> bool:
    if path.name in _MLS_NAMES:
        line = b"".join(first_lines(path, 1)).decode("utf-8", "replace")
        return corpus_tables.is_mls(line)
    return _known_header(path) is not None


def _is_common_voice(path: Path) -> bool:
    header = _known_header(path)
    return header is not None and set(header.names) >= corpus_tables.COMMON_VOICE_COLUMNS


def _known_header(path: Path) -> Header | None:
    """The first row of a file, read in the way that gives a table of audio; None if none does."""
    for header in headers_of(path):
        names = set(header.names)
        if names.intersection(PATH_FIELDS) or names >= corpus_tables.VOX_POPULI_COLUMNS:
            return header
    return None


def _header_of(path: Path) -> Header:
    header = _known_header(path)
    if header is None:
        raise ManifestError(f"{path}: changed while it was in use: its header is another one")
    named = [name for name in header.names if name]
    if twice := [name for name, count in Counter(named).items() if count > 1]:
        raise ManifestError(f"{path}: two columns have the name {twice[0]}")
    return header


def _lines_of_rows(path: Path, header: Header) -> Iterator[bytes]:
    rows = rows_of(path, header)
    head = list(islice(rows, 1 + _SAMPLE_ROWS))
    place = _placing(path.parent, header, [cells for cells, _ in head[1:]])
    for number, (cells, num_lines) in enumerate(chain(head, rows)):
        if number == 0 or not cells:
            yield BLANK_LINE
        elif fault := _fault(header, cells):
            yield refused_line(AudioError("bad_json", fault))
        else:
            yield plain_line(place(_fields(header, cells)))
        yield from [BLANK_LINE] * (num_lines - 1)


def _fault(header: Header, cells: list[str]) -> str | None:
    """What is wrong with a row, if anything; cells beyond the header's may be there, but empty."""
    if any(cells[len(header.names) :]):
        return f"a row of {len(cells)} cells under a header of {len(header.names)}"
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return "a row that is not UTF-8"
    return None


def _fields(header: Header, cells: list[str]) -> _Fields:
    """The named cells of a row."""
    return {name: cell for name, cell in zip(header.names, cells, strict=False) if name}


def _placing(folder: Path, header: Header, sample: list[list[str]]) -> Callable[[_Fields], _Fields]:
    """What makes of a row's fields those of its line: the path is that of the corpus.

    Args:
        folder: where the table is.
        header: its first row.
        sample: the cells of its next rows; their audio is looked for.
    """
    first = [_fields(header, cells) for cells in sample]
    path_fields = [name for name in PATH_FIELDS if name in header.names]
    if not path_fields:
        ids = (fields.get("id", "") for fields in first)
        ending = corpus_tables.vox_populi_ending(folder, ids)
        return lambda fields: _with_vox_populi_path(fields, ending)
    paths = (next((f[n] for n in path_fields if f.get(n)), "") for f in first)
    if corpus_tables.lie_in_clips(folder, paths):
        return lambda fields: {
            name: corpus_tables.in_clips(cell) if cell and name in path_fields else cell
            for name, cell in fields.items()
        }
    return lambda fields: fields


def _with_vox_populi_path(fields: _Fields, ending: str) -> _Fields:
    if not fields.get("id"):
        return fields
    return {**fields, "wav_path": corpus_tables.vox_populi_path(fields["id"], ending)}


def _mls_lines(path: Path) -> Iterator[bytes]:
    rows = (raw.decode("utf-8", "replace").rstrip("\r\n") for raw in raw_lines(path))
    head = list(islice(rows, _SAMPLE_ROWS))
    ending = corpus_tables.mls_ending(path.parent, (row.partition("\t")[0] for row in head))
    for row in chain(head, rows):
        identifier, _, text = row.partition("\t")
        if fields := corpus_tables.mls_fields(identifier, ending):
            yield plain_line({**fields, "text": text})
        else:
            fault = AudioError("bad_json", "no id of MLS before a tab")
            yield refused_line(fault) if row.strip() else BLANK_LINE

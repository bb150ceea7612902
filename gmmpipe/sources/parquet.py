"""``parquet``: Parquet files with a column of audio, as Hugging Face's datasets are stored."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gmmpipe.audio.parquet_file import AudioParquet, ParquetError, is_parquet
from gmmpipe.errors import ManifestError
from gmmpipe.sources.endings import what_it_is
from gmmpipe.sources.kind import Found, Specificity
from gmmpipe.sources.line_fields import END_FIELDS, RANGE_FIELD, START_FIELDS
from gmmpipe.sources.manifest import Manifest
from gmmpipe.sources.member_lines import TIMES_FIELD
from gmmpipe.sources.plain_line import plain_line
from gmmpipe.sources.walk import is_folder, sorted_entries

_MOST_LEVELS = 2
"""How far below a folder its files may lie: ``data/train-00000-of-00010.parquet``."""

_BATCH_ROWS = 64
_MOST_PAGE_BYTES = 1 << 26
"""Of a column that is carried: a small file may hold a text that no memory does."""

_TIMES = frozenset((*START_FIELDS, *END_FIELDS))
"""Fields that would mean a segment of the row's audio; a row's audio is the segment already."""


class Parquet:
    """Parquet files whose rows are utterances, and folders of those."""

    name = "parquet"
    looks_like = "a .parquet file with a column of audio, {bytes, path}, or a folder of those"
    specificity = Specificity.ARCHIVE
    is_streamed = False

    def find(self, path: Path, ignored: Path | None = None) -> Found | None:
        """See `SourceKind`. Of a folder, the files of the topmost level that has any are read."""
        if path.is_file():
            return Found([Manifest(path, path.name, self.name)]) if is_parquet(path) else None
        folders = [path] if path.is_dir() else []
        for _ in range(_MOST_LEVELS + 1):
            names, others, below = _listed(folders)
            if names:
                return Found(
                    [Manifest(each, str(each.relative_to(path)), self.name) for each in names],
                    [str(each.relative_to(path)) for each in others],
                )
            folders = below
        return None

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """See `SourceKind`. Line n is of row n - 1; of the audio itself no bytes are read."""
        try:
            parquet = AudioParquet(path)
            try:
                yield from _lines(parquet, path, passed_over)
            finally:
                parquet.close()
        except ParquetError as error:
            raise ManifestError(f"{path}: {error}") from error


def _listed(folders: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """The Parquet files in the folders, other files, and the folders there, each in order.

    Raises:
        ManifestError: there are such files, and one of the folders cannot be read. Where there are
            none it is of no concern: a disk of archives has a lost+found.
    """
    names: list[Path] = []
    others: list[Path] = []
    below: list[Path] = []
    unreadable: ManifestError | None = None
    for folder in folders:
        try:
            entries = sorted_entries(folder)
        except ManifestError as error:
            unreadable = error
            continue
        for entry in entries:
            if is_folder(entry):
                if not entry.name.startswith("."):
                    below.append(Path(entry.path))
            elif is_parquet(entry.name) and what_it_is(entry.name) != "hidden":
                names.append(Path(entry.path))
            else:
                others.append(Path(entry.path))
    if names and unreadable:
        raise unreadable
    return names, others, below


def _lines(parquet: AudioParquet, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
    """The plain lines of an open file."""
    schema = parquet.file.schema_arrow
    plain = {field.name: _is_plain(field.type) for field in schema if field.name != RANGE_FIELD}
    carried = [name for name, is_plain in plain.items() if is_plain]
    for name, is_plain in plain.items():
        if name != parquet.column and not is_plain:
            passed_over[f"column {name}"] += 1
    audio_path = f"{parquet.column}.path"
    columns = [*carried, audio_path] if parquet.has_path else carried
    for group, (row, stop) in enumerate(
        zip(parquet.first_rows, parquet.first_rows[1:], strict=False)
    ):
        largest = parquet.largest_page_bytes(group, columns) if columns else 0
        if largest > _MOST_PAGE_BYTES:
            raise ParquetError(f"a page of {largest} bytes of text, beyond {_MOST_PAGE_BYTES}")
        is_elsewhere = parquet.has_path and parquet.has_no_bytes(group)
        for values, inner in _rows(parquet, group, columns, carried):
            if is_elsewhere:
                yield plain_line({**values, "wav_path": inner})
            else:
                # The range is that of the row group: other audio, another digest of the lines.
                place = {"wav_path": f"{path.name}#{row}", RANGE_FIELD: parquet.place(group)}
                yield plain_line({"audio_path": inner, **_own_fields(values), **place})
            row += 1
        if row != stop:
            raise ParquetError("damaged: a row group has not as many rows as it states")


def _own_fields(values: dict[str, Any]) -> dict[str, Any]:
    """What a row says of audio of its own: times are those of what that was cut from."""
    times = {n: value for n, value in values.items() if n in _TIMES and value is not None}
    fields = {name: value for name, value in values.items() if name not in _TIMES}
    return {**fields, TIMES_FIELD: times} if times else fields


def _rows(
    parquet: AudioParquet, group: int, columns: Sequence[str], carried: Sequence[str]
) -> Iterator[tuple[dict[str, Any], str | None]]:
    """The plain values of each row of a group by their columns, and the path of its audio."""
    if not columns:
        yield from [({}, None)] * (parquet.first_rows[group + 1] - parquet.first_rows[group])
        return
    for batch in parquet.batches(group, columns, _BATCH_ROWS):
        named = {name: _values(batch.column(name)) for name in carried}
        paths: list[Any] = [None] * batch.num_rows
        if parquet.has_path:
            inner = batch.column(parquet.column)
            paths = _values(inner.field("path"))
            paths = [
                p if ok.as_py() else None for p, ok in zip(paths, inner.is_valid(), strict=True)
            ]
        for number, path in enumerate(paths):
            yield {name: values[number] for name, values in named.items()}, path


def _values(column: Any) -> list[Any]:
    """A column's values as Python's; those that JSON has no word for are None."""
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:  # Parquet writers do not check it
        import pyarrow

        encoded = column.cast(pyarrow.string()).cast(pyarrow.binary()).to_pylist()
        values = [None if value is None else value.decode(errors="replace") for value in encoded]
    return [
        None if isinstance(value, float) and not math.isfinite(value) else value for value in values
    ]


def _is_plain(kind: Any) -> bool:
    """Whether a column of this Arrow type can be carried: numbers, texts, and yes or no."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
    )

"""Parquet files with a column of audio, ``{bytes, path}`` as Hugging Face's datasets have it."""

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

from gmmpipe.audio.parquet_layout import LayoutError, largest_page_bytes, row_groups

ENDING = ".parquet"
_BUFFER_BYTES = 1 << 18
_USUAL_NAME = "audio"


class ParquetError(Exception):
    """A file is no Parquet file with audio, or is damaged, or pyarrow is not installed."""


class AudioParquet:
    """An open Parquet file that has a column of audio.

    Args:
        path: the file.

    Raises:
        ParquetError: it is none.
    """

    def __init__(self, path: str | Path) -> None:
        with refusing_errors():
            import pyarrow.parquet

            self._raw = open(path, "rb")  # which may have a name that pyarrow cannot open
            try:
                self.file: Any = pyarrow.parquet.ParquetFile(
                    self._raw, pre_buffer=False, buffer_size=_BUFFER_BYTES
                )
                self.column, self.has_path = _audio_column(self.file.schema_arrow)
                self._groups = row_groups(self._raw.fileno())
                self.first_rows = list(accumulate((g.rows for g in self._groups), initial=0))
            except BaseException:
                self._raw.close()
                raise

    def close(self) -> None:
        """Close the file."""
        self._raw.close()

    def group_of(self, row: int) -> int:
        """The number of the row group that a row, from 0, is in."""
        return bisect_right(self.first_rows, row) - 1

    def batches(self, group: int, columns: Sequence[str], rows: int) -> Iterator[Any]:
        """The record batches of a row group, each of up to `rows` rows, read as they are asked for.

        Args:
            group: its number.
            columns: the columns that are read: ``text``, ``audio.path``.
            rows: how many rows at a time.

        Raises:
            ParquetError: the file is damaged.
        """
        with refusing_errors():
            yield from self.file.iter_batches(
                batch_size=rows, row_groups=[group], columns=list(columns), use_threads=False
            )

    def largest_page_bytes(self, group: int, columns: Sequence[str]) -> int:
        """How many bytes the largest page has of these columns, one or more, in a row group.

        Raises:
            ParquetError: the file is damaged.
        """
        chunks = self._groups[group].chunks
        with refusing_errors():
            descriptor = self._raw.fileno()
            return max(largest_page_bytes(descriptor, chunks[name]) for name in columns)

    def place(self, group: int) -> tuple[int, int]:
        """Where the audio of a row group begins in the file, and how many bytes it takes there."""
        with refusing_errors():
            chunk = self._groups[group].chunks[f"{self.column}.bytes"]
            return chunk.start, chunk.stop - chunk.start

    def has_no_bytes(self, group: int) -> bool:
        """Whether the file says that no row of a row group has bytes of audio."""
        with refusing_errors():
            chunk = self._groups[group].chunks[f"{self.column}.bytes"]
            return chunk.nulls == chunk.values


@contextmanager
def refusing_errors() -> Iterator[None]:
    """What pyarrow raises becomes a ParquetError."""
    try:
        import pyarrow
    except ImportError as error:
        raise ParquetError('it needs pyarrow: pip install "gmmpipe[parquet]"') from error
    # Looked up here: a generator may be closed when the interpreter ends, and modules are empty.
    errors = (pyarrow.ArrowException, OSError, ValueError, MemoryError, OverflowError)
    layout_error = LayoutError
    try:
        yield
    except layout_error as error:
        raise ParquetError(f"damaged: {error}") from error
    except KeyError as error:
        raise ParquetError(f"damaged: it has no place for the column {error}") from error
    except errors as error:
        text = getattr(error, "strerror", None) or str(error)
        raise ParquetError(f"damaged: {' '.join(text.split())[:200]}") from error


def is_parquet(name: str | Path) -> bool:
    """Whether a file is a Parquet file by its name alone."""
    return os.path.splitext(name)[1].lower() == ENDING


def _audio_column(schema: Any) -> tuple[str, bool]:
    """The name of the column of audio, and whether it has paths too; `audio` of several."""
    found = {field.name: field.type for field in schema if _is_audio(field.type)}
    names = [_USUAL_NAME] if _USUAL_NAME in found else list(found)
    if len(names) > 1:
        raise ParquetError(f"several columns of audio, none called audio: {', '.join(names)}")
    if not names:
        raise ParquetError("no column of audio, which holds {bytes, path}")
    return names[0], found[names[0]].get_field_index("path") >= 0


def _is_audio(kind: Any) -> bool:
    """Whether an Arrow type is that of audio: a struct that has bytes."""
    from pyarrow import types

    if not types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    content = kind.field("bytes").type
    return bool(types.is_binary(content) or types.is_large_binary(content))

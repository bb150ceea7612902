"""``metrics.tsv``: a table of what a run has measured, a row an update or a few steps."""

from collections.abc import Sequence
from pathlib import Path

from gmmpipe.files import read_regular, write_atomic

METRICS_FILE = "metrics.tsv"


def metrics_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """The content of the file.

    Args:
        columns: their names, in order. Those beyond the longest row are left out.
        rows: cells as text. A row that lacks the last columns has ``nan`` there.
    """
    width = max(map(len, rows), default=len(columns))
    lines = [columns[:width], *([*row, *["nan"] * (width - len(row))] for row in rows)]
    return "".join("\t".join(line) + "\n" for line in lines if line).encode()


def write_metrics(folder: Path, text: bytes) -> None:
    """Write the file anew, whole or not at all: a run that is gone on with has no row twice."""
    write_atomic(folder / METRICS_FILE, text)


def holds_metrics(folder: Path, text: bytes) -> bool:
    """Whether the file is there, and is what `write_metrics` would write."""
    try:
        return read_regular(folder / METRICS_FILE, len(text)) == text
    except OSError:
        return False

"""Sources of plain text: the makers of each."""

import gzip
from pathlib import Path

from helpers.kinds.made import Made, corpus_lines, write_manifest


def compressed_lines(folder: Path) -> Made:
    """A ``.jsonl.gz``."""
    loose = write_manifest(folder / "loose.jsonl", corpus_lines())
    path = folder / "m.jsonl.gz"
    path.write_bytes(gzip.compress(loose.read_bytes(), mtime=0))
    return Made(str(path), loose)


MAKERS = {"jsonl.gz": compressed_lines}

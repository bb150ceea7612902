"""``fairseq``: a .tsv whose first line is a folder, and each other one a path and its samples."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gmmpipe.errors import AudioError
from gmmpipe.sources.in_folder import manifests_at
from gmmpipe.sources.kind import Found, Specificity
from gmmpipe.sources.plain_line import BLANK_LINE, plain_line
from gmmpipe.sources.refusal import refused_line
from gmmpipe.sources.text_file import first_lines, raw_lines

_ENDINGS = (".tsv", ".tsv.gz")


class Fairseq:
    """The manifests of fairseq's wav2vec and HuBERT recipes, or a folder of those."""

    name = "fairseq"
    looks_like = (
        "a .tsv file, also .gz, whose first line is a folder and the second a path and a number "
        "of samples, or a folder of those"
    )
    specificity = Specificity.BESIDE
    is_streamed = False

    def find(self, path: Path, ignored: Path | None = None) -> Found | None:
        """See `SourceKind`."""
        return manifests_at(path, self.name, _is_fairseq, ignored, _ENDINGS)

    def translate(self, path: Path, passed_over: Counter[str]) -> Iterator[bytes]:
        """See `SourceKind`.

        A relative folder starts where relative audio paths do. A number of samples is carried as
        ``samples`` and states no duration, because the file does not say at which rate.
        """
        root = None
        for raw in raw_lines(path):
            cells = _cells(raw)
            if root is None:
                root = cells[0]
                yield BLANK_LINE
            elif cells == [""]:
                yield BLANK_LINE
            elif len(cells) == 2 and cells[0].strip():
                samples = int(cells[1]) if _is_count(cells[1]) else cells[1]
                yield plain_line({"wav_path": os.path.join(root, cells[0]), "samples": samples})
            else:
                fault = f"{len(cells)} cells, not a path and a number of samples"
                yield refused_line(AudioError("bad_json", fault))


def _is_fairseq(path: Path) -> bool:
    lines = [_cells(raw) for raw in first_lines(path, 2)]
    return [len(cells) for cells in lines] == [1, 2] and _is_count(lines[1][1])


def _cells(raw: bytes) -> list[str]:
    """The cells of a line; names of files need not be UTF-8."""
    text = raw.decode("utf-8", "surrogateescape").strip("\r\n")
    return text.removeprefix("\ufeff").split("\t") if text.strip() else [""]


def _is_count(cell: str) -> bool:
    return cell.strip().isdecimal() and cell.isascii() and len(cell) < 19

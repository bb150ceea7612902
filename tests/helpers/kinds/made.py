"""What each maker of a source gives: the source, and the same audio as loose files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.making import CORPUS

NUM_UTTERANCES = 12
"""Of each source that is made: some shards of a few each."""


@dataclass(frozen=True)
class Made:
    """A source of one kind.

    Args:
        data_dir: what ``--data_dir`` says of it.
        loose: the manifest of the same utterances as loose files, with the same ids.
        tolerance: how far frames may be from those of the loose files; 0 where nothing is lost.
    """

    data_dir: str
    loose: Path
    tolerance: float = 0.0


def corpus_lines(count: int = NUM_UTTERANCES) -> list[dict[str, Any]]:
    """Lines of the demo corpus, of all its languages, with absolute paths and ids of their own."""
    texts = (CORPUS / "manifest.jsonl").read_text().splitlines()
    lines = [json.loads(text) for text in texts[:: len(texts) // count][:count]]
    return [
        {**line, "wav_path": str(CORPUS / line["wav_path"]), "id": f"utterance-{number:02d}"}
        for number, line in enumerate(lines)
    ]


def write_manifest(path: Path, lines: list[dict[str, Any]]) -> Path:
    """The lines as a plain manifest."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path

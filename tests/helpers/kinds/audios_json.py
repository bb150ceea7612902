"""Sources of one JSON of recordings and their segments: the makers of each."""

import json
from pathlib import Path
from typing import Any

from helpers.kinds.made import Made, corpus_lines, write_manifest

SEGMENTS = ((0.0, 0.5), (0.25, 0.875))
"""Where the segments of each recording begin and end, in seconds."""


def document_of(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """A document like GigaSpeech's, two segments a recording."""
    audios = [
        {
            "title": "Episode",
            "url": "https://example.org/episode.mp3",
            "path": line["wav_path"],
            "aid": line["id"],
            "source": "podcast",
            "channels": 1,
            "sample_rate": 16000,
            "duration": line["duration"],
            "speaker": "N/A",
            "category": "News",
            "segments": [
                {
                    "sid": f"{line['id']}_S{number:07d}",
                    "speaker": f"speaker-{number}",
                    "begin_time": begin,
                    "end_time": end,
                    "text_tn": f"WHAT {line['id']} SAYS <PERIOD>",
                    "subsets": ["{XL}", "{L}"],
                }
                for number, (begin, end) in enumerate(SEGMENTS)
            ],
        }
        for line in lines
    ]
    return {"dataset": "Demo", "language": "EN", "version": "v1.0.0", "audios": audios}


def gigaspeech(folder: Path) -> Made:
    """A folder with an indented JSON and other files."""
    lines = corpus_lines(6)
    source = folder / "corpus"
    source.mkdir()
    document = json.dumps(document_of(lines), indent=2)
    (source / "Demo.json").write_text(document)
    (source / "TERMS").write_text("none")
    parts = [
        {
            "wav_path": line["wav_path"],
            "id": f"{line['id']}_S{number:07d}",
            "offset": begin,
            "duration": end - begin,
        }
        for line in lines
        for number, (begin, end) in enumerate(SEGMENTS)
    ]
    return Made(str(source), write_manifest(folder / "loose.jsonl", parts))


MAKERS = {"audios_json": gigaspeech}

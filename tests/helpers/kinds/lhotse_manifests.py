"""Sources that lhotse writes: the makers of each."""

import tarfile
from functools import partial
from pathlib import Path
from typing import Any

from helpers.kinds.made import Made, corpus_lines, write_manifest


def recordings_of(lines: list[dict[str, Any]]) -> Any:
    """A RecordingSet of the files, by the ids of the lines."""
    from lhotse import Recording, RecordingSet

    return RecordingSet.from_recordings(
        Recording.from_file(line["wav_path"], recording_id=line["id"]) for line in lines
    )


def supervisions_of(lines: list[dict[str, Any]], recordings: Any) -> Any:
    """A SupervisionSet of one a recording, all of it, with a text, speaker and language."""
    from lhotse import SupervisionSegment, SupervisionSet

    return SupervisionSet.from_segments(
        SupervisionSegment(
            id=f"{line['id']}-said",
            recording_id=line["id"],
            start=0.0,
            duration=recordings[line["id"]].duration,
            text=f"what {line['id']} says",
            speaker=line["speaker"],
            language=line["lang"],
        )
        for line in lines
    )


def cuts_of(lines: list[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
    """A CutSet, every other cut a part of its recording, and the lines of the same parts."""
    from lhotse import CutSet

    recordings = recordings_of(lines)
    manifests = {"recordings": recordings, "supervisions": supervisions_of(lines, recordings)}
    cuts, parts = [], []
    for number, cut in enumerate(CutSet.from_manifests(**manifests)):
        times = {}
        if number % 2:
            cut = cut.truncate(offset=0.25, duration=0.5)
            times = {"offset": 0.25, "duration": 0.5}
        cuts.append(cut.with_id(lines[number]["id"]))
        parts.append({**lines[number], **times})
    return CutSet.from_cuts(cuts), parts


def cuts(folder: Path) -> Made:
    """A ``cuts.jsonl.gz``."""
    written, parts = cuts_of(corpus_lines())
    written.to_file(folder / "cuts.jsonl.gz")
    return Made(str(folder / "cuts.jsonl.gz"), write_manifest(folder / "loose.jsonl", parts))


def recordings(folder: Path) -> Made:
    """A folder of recordings and their supervisions, as lhotse's recipes leave it."""
    lines = corpus_lines()
    source = folder / "manifests"
    source.mkdir()
    written = recordings_of(lines)
    written.to_file(source / "demo_recordings_train.jsonl.gz")
    supervisions_of(lines, written).to_file(source / "demo_supervisions_train.jsonl.gz")
    return Made(str(source), write_manifest(folder / "loose.jsonl", lines))


def shar(folder: Path, audio_format: str) -> Made:
    """A Shar folder, and what its tars hold as loose files."""
    written, parts = cuts_of(corpus_lines())
    source, loose = folder / "shar", folder / "loose"
    source.mkdir()
    written.to_shar(source, fields={"recording": audio_format}, shard_size=5)
    for tar in source.glob("*.tar"):
        with tarfile.open(tar) as archive:
            archive.extractall(loose, filter="data")
    lines = [{"wav_path": f"{loose}/{p['id']}.{audio_format}", "id": p["id"]} for p in parts]
    return Made(str(source), write_manifest(folder / "loose.jsonl", lines))


MAKERS = {
    "lhotse cuts": cuts,
    "lhotse recordings": recordings,
    **{f"shar {name}": partial(shar, audio_format=name) for name in ("flac", "wav", "mp3", "opus")},
}

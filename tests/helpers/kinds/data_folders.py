"""Folders of Kaldi's recipes and of Libri-Light: the makers of each."""

from pathlib import Path
from typing import Any

import soundfile

from helpers.kinds.made import Made, corpus_lines, write_manifest


def _wav_files(folder: Path) -> list[dict[str, Any]]:
    """Lines of the corpus, their audio as .wav files in `folder`."""
    folder.mkdir()
    lines = corpus_lines()
    for line in lines:
        samples, rate = soundfile.read(line["wav_path"], dtype="int16")
        line["wav_path"] = str(folder / f"{line['id']}.wav")
        soundfile.write(line["wav_path"], samples, rate)
        line["duration"] = len(samples) / rate
    return lines


def kaldi_recordings(folder: Path) -> Made:
    """A data folder without segments, its paths relative to it."""
    lines = _wav_files(folder / "data")
    names = [(line["id"], Path(line["wav_path"]).name) for line in lines]
    (folder / "data" / "wav.scp").write_text("".join(f"{id_} {name}\n" for id_, name in names))
    return Made(str(folder / "data"), write_manifest(folder / "loose.jsonl", lines))


def kaldi_segments(folder: Path) -> Made:
    """A data folder with two segments a recording, whose paths are absolute."""
    (folder / "data").mkdir()
    files: dict[str, list[str]] = {name: [] for name in ("wav.scp", "segments", "utt2spk", "text")}
    segments = []
    for line in _wav_files(folder / "wav")[:6]:
        half = round(line["duration"] / 2, 2)
        files["wav.scp"].append(f"{line['id']} {line['wav_path']}")
        for part, (start, end) in enumerate(((0.0, half), (half, line["duration"]))):
            segment = {**line, "id": f"{line['id']}-{part}", "offset": start}
            segments.append({**segment, "duration": end - start})
            files["segments"].append(f"{segment['id']} {line['id']} {start:.2f} {end}")
            files["utt2spk"].append(f"{segment['id']} {line['source']}")
            files["text"].append(f"{segment['id']} a text of words")
    for name, content in files.items():
        (folder / "data" / name).write_text("\n".join(content) + "\n")
    return Made(str(folder / "data"), write_manifest(folder / "loose.jsonl", segments))


MAKERS = {"kaldi wav.scp": kaldi_recordings, "kaldi segments": kaldi_segments}

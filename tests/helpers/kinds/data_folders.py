"""Folders of Kaldi's recipes and of Libri-Light: the makers of each."""

import json
import shutil
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


def libri_light(folder: Path) -> Made:
    """Recordings as Libri-Light has them, with two spans each."""
    spans = []
    for number, line in enumerate(corpus_lines()[:6]):
        book = Path(f"{100 + number % 2}", "sea_fairies_0812_librivox_64kb_mp3")
        (folder / "small" / book).mkdir(parents=True, exist_ok=True)
        stem = folder / "small" / book / f"{number:02d}_baum_sea_fairies_64kb"
        shutil.copy(line["wav_path"], f"{stem}.flac")
        end = line["duration"]
        times = [[0.04, round(end / 2, 2)], [round(end / 2 + 0.04, 2), round(end - 0.04, 2)]]
        about = {"speaker": book.parts[0], "book_meta": {"id": "812"}, "snr": 9.5}
        about["voice_activity"] = times
        Path(f"{stem}.json").write_text(json.dumps(about, indent=1))
        for at, (start, end) in enumerate(times):
            identifier = f"{book}/{stem.name}_{at:04d}"
            spans.append({**line, "id": identifier, "offset": start, "duration": end - start})
    return Made(str(folder / "small"), write_manifest(folder / "loose.jsonl", spans))


MAKERS = {
    "kaldi wav.scp": kaldi_recordings,
    "kaldi segments": kaldi_segments,
    "libri-light": libri_light,
}

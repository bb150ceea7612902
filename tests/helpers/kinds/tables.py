"""Tables with a row an utterance: the makers of each."""

import csv
import gzip
import io
import shutil
from pathlib import Path
from typing import Any

import soundfile

from helpers.kinds.made import Made, corpus_lines, write_manifest


def _table(lines: list[dict[str, Any]], **form: Any) -> str:
    """The lines as a table of the fields that all of them have."""
    names = [name for name in lines[0] if all(name in line for line in lines)]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", **form)
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def compressed_csv(folder: Path) -> Made:
    """A ``.csv.gz`` with cells that take quotes and several lines."""
    lines = [{**line, "text": 'one, "two"\nthree'} for line in corpus_lines()]
    (folder / "t.csv.gz").write_bytes(gzip.compress(_table(lines).encode(), mtime=0))
    return Made(str(folder / "t.csv.gz"), write_manifest(folder / "loose.jsonl", lines))


def common_voice(folder: Path) -> Made:
    """A ``validated.tsv`` beside ``clips/``."""
    lines = corpus_lines()
    (folder / "en" / "clips").mkdir(parents=True)
    rows = []
    for number, line in enumerate(lines):
        name = f"common_voice_en_{number}{Path(line['wav_path']).suffix}"
        shutil.copy(line["wav_path"], folder / "en" / "clips" / name)
        line["id"] = f"utterance-{number}"
        row = {"client_id": "c0ffee", "path": name, "sentence": '"Quoted," it says.'}
        rows.append({**row, "id": line["id"]})
    table = _table(rows, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
    (folder / "en" / "validated.tsv").write_text(table)
    return Made(str(folder / "en"), write_manifest(folder / "loose.jsonl", lines))


def vox_populi(folder: Path) -> Made:
    """An ``asr_train.tsv`` beside a folder a year, as VoxPopuli's ``get_asr_data`` leaves it."""
    lines = corpus_lines()
    rows = ["id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender\n"]
    for number, line in enumerate(lines):
        identifier = f"{2009 + number % 3}0120-0900-PLENARY-9-de_20140121-10:32:41_{number}"
        year = folder / "de" / identifier[:4]
        year.mkdir(parents=True, exist_ok=True)
        shutil.copy(line["wav_path"], year / f"{identifier}.flac")
        rows.append(f'{identifier}\t"Ja," sagt sie\tja sagt sie\t{number}\ttrain\tfemale\n')
        line["id"] = identifier
    (folder / "de" / "asr_train.tsv").write_text("".join(rows))
    loose = write_manifest(folder / "loose.jsonl", lines)
    return Made(str(folder / "de" / "asr_train.tsv"), loose)


def mls(folder: Path) -> Made:
    """A ``train`` folder of Multilingual LibriSpeech."""
    lines = corpus_lines()
    rows = []
    for number, line in enumerate(lines):
        speaker, book = 4800 + number % 2, 10003 + number % 3
        identifier = f"{speaker}_{book}_{number:06d}"
        chapter = folder / "train" / "audio" / str(speaker) / str(book)
        chapter.mkdir(parents=True, exist_ok=True)
        shutil.copy(line["wav_path"], chapter / f"{identifier}.flac")
        rows.append(f"{identifier}\tein text von {number}\n")
        line["id"] = identifier
    (folder / "train" / "transcripts.txt").write_text("".join(rows))
    (folder / "train" / "segments.txt").write_text("4800_10003_000000\thttp://x/a.mp3\t1.5\t9\n")
    return Made(str(folder / "train"), write_manifest(folder / "loose.jsonl", lines))


def fairseq(folder: Path) -> Made:
    """A ``train.tsv`` of the HuBERT recipe; it has no ids, and neither has the loose manifest."""
    lines = corpus_lines()
    (folder / "audio" / "part").mkdir(parents=True)
    rows = [f"{folder / 'audio'}\n"]
    for line in lines:
        name = f"part/{line.pop('id')}.flac"
        line["wav_path"] = str(shutil.copy(line["wav_path"], folder / "audio" / name))
        rows.append(f"{name}\t{soundfile.info(line['wav_path']).frames}\n")
    (folder / "train.tsv").write_text("".join(rows))
    loose = folder / "loose.jsonl"
    loose.write_text("\n" + write_manifest(loose, lines).read_text())  # a line of its own a folder
    return Made(str(folder / "train.tsv"), loose)


MAKERS = {
    "csv.gz": compressed_csv,
    "common voice": common_voice,
    "voxpopuli": vox_populi,
    "mls": mls,
    "fairseq": fairseq,
}

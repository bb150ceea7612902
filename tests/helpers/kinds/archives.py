"""Archives of audio: the makers of each form."""

import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import webdataset

from helpers.kinds.made import Made, corpus_lines, write_manifest


def loose_lines(folder: Path) -> Path:
    """The manifest of the same audio as loose files."""
    return write_manifest(folder / "loose.jsonl", corpus_lines())


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", **fields: Any) -> None:
    """Add a member; further fields are those of its header."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))


def add_corpus(tar: tarfile.TarFile, prefix: str = "") -> None:
    """Add the corpus's files, each under its id."""
    for line in corpus_lines():
        path = Path(line["wav_path"])
        add(tar, f"{prefix}{line['id']}{path.suffix}", path.read_bytes())


def web_dataset(folder: Path) -> Made:
    """A folder of tars, as `webdataset.ShardWriter` writes them."""
    (folder / "tars").mkdir()
    pattern = str(folder / "tars" / "shard-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=5, verbose=0) as writer:
        for line in corpus_lines():
            path = Path(line["wav_path"])
            sample = {"__key__": line["id"], path.suffix[1:]: path.read_bytes()}
            writer.write({**sample, "json": {"speaker": "s", "path": "elsewhere.wav"}})
    return Made(str(folder / "tars"), loose_lines(folder))


def nemo_tarred(folder: Path) -> Made:
    """A folder of tars beside the manifest of all of them, as NeMo's converter writes them."""
    (folder / "tars").mkdir()
    lines = corpus_lines()
    for shard in range(3):
        with tarfile.open(folder / "tars" / f"audio_{shard}.tar", "w") as tar:
            for line in lines[shard::3]:
                content = Path(line["wav_path"]).read_bytes()
                base, ending = os.path.splitext(line["wav_path"])
                line["audio_filepath"] = base.replace("/", "_").replace(".", "_") + ending
                line["shard_id"] = shard
                add(tar, line["audio_filepath"], content)
    for line in lines:
        del line["wav_path"]
    write_manifest(folder / "tars" / "tarred_audio_manifest.json", lines)
    return Made(str(folder / "tars"), loose_lines(folder))


def zipped(folder: Path) -> Made:
    """A zip of members that are stored and deflated by turns."""
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for number, line in enumerate(corpus_lines()):
            path = Path(line["wav_path"])
            method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[number % 2]
            archive.write(path, f"{line['id']}{path.suffix}", method)
    return Made(str(folder / "a.zip"), loose_lines(folder))


def packed_tar(folder: Path) -> Made:
    """A tar.gz, with the corpus in a folder."""
    with tarfile.open(folder / "a.tar.gz", "w:gz") as tar:
        add_corpus(tar, "./")
    return Made(str(folder / "a.tar.gz"), loose_lines(folder))


MAKERS = {
    "tar of WebDataset": web_dataset,
    "tars of NeMo": nemo_tarred,
    "tar.gz": packed_tar,
    "zip": zipped,
}

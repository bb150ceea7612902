"""``zip``: what members of every form become."""

import json
import os
import resource
import stat
import struct
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gmmpipe.audio.member import Member, open_member
from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.sources.zip import ZipArchives
from helpers.kinds.made import corpus_lines

AUDIO = Path(corpus_lines(1)[0]["wav_path"]).read_bytes()
BOTH = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]


def lines_of(path: Path) -> tuple[list[dict[str, Any]], Counter[str]]:
    passed_over = Counter[str]()
    return [json.loads(raw) for raw in ZipArchives().translate(path, passed_over)], passed_over


def content_of(path: Path, line: dict[str, Any]) -> bytes:
    name = line["wav_path"].removeprefix(path.name + "#")
    place = tuple(line["archive_range"]) if "archive_range" in line else None
    with open(open_member(Member(str(path), name, place)), "rb") as file:
        return file.read()


@pytest.mark.parametrize("method", BOTH)
def test_members_and_what_lies_beside_them(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    link = zipfile.ZipInfo("link.wav")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("./d/имя.wav", AUDIO)
        archive.writestr("d/имя.json", '{"speaker": "s"}')
        archive.writestr("__MACOSX/d/._x.wav", AUDIO)
        archive.mkdir("e")
        archive.writestr("../up.wav", AUDIO)
        archive.writestr("/root.wav", AUDIO)
        archive.writestr(link, "/etc/passwd")
        archive.writestr("note.md", "text")
    (line,), passed_over = lines_of(path)
    assert (line["id"], line["speaker"]) == ("d/имя", "s")
    assert len(line["archive_range"]) == (2 if method == zipfile.ZIP_STORED else 3)
    assert content_of(path, line) == AUDIO
    del line["archive_range"]
    assert content_of(path, line) == AUDIO
    assert passed_over == {"a folder": 1, "a link": 1, "an unsafe name": 2, "hidden": 1, ".md": 1}


def test_behind_other_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"#!/bin/sh\n")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.wav", AUDIO)
    (line,), _ = lines_of(path)
    assert content_of(path, line) == AUDIO


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_methods_are_rejects(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.wav", AUDIO)
    (line,), _ = lines_of(path)
    with pytest.raises(AudioError, match="undecodable: compressed by"):
        content_of(path, line)


def test_an_encrypted_member_is_a_reject(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.wav", AUDIO)
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"PK\1\2") + 8] |= 1
    path.write_bytes(raw)
    (line,), _ = lines_of(path)
    with pytest.raises(AudioError, match="undecodable: encrypted"):
        content_of(path, line)


def bomb(path: Path, size: int, stated: int | None = None) -> Path:
    """A zip with one member of zeros, which states another size if asked to."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a.wav", "w", force_zip64=True) as file,
    ):
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    if stated is not None:
        raw = bytearray(path.read_bytes())
        raw[(at := raw.rindex(b"PK\1\2") + 24) : at + 4] = struct.pack("<I", stated)
        path.write_bytes(raw)
    return path


@pytest.mark.parametrize("stated", [None, 1 << 20, 0, (1 << 32) - 2])
def test_a_bomb_takes_no_memory(tmp_path: Path, stated: int | None) -> None:
    path = bomb(tmp_path / "a.zip", 300 << 20, stated)
    (line,), _ = lines_of(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(AudioError, match="undecodable"):
        content_of(path, line)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.parametrize("method", BOTH)
def test_damage(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.wav", AUDIO)
    whole = path.read_bytes()
    (line,), _ = lines_of(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ManifestError, match=r"a\.zip: damaged: no zip archive, or its end"):
        lines_of(path)
    with pytest.raises(AudioError, match="truncated"):
        content_of(path, line)
    path.write_bytes(whole.replace(b"PK\3\4", b"PK\3\0"))
    (line,), _ = lines_of(path)
    with pytest.raises(AudioError, match="no header where"):
        content_of(path, line)


def test_any_bytes_end_in_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", AUDIO[:2000])
        archive.writestr("a.json", "{}")
    whole = path.read_bytes()
    for at in range(len(whole) - 250, len(whole)):
        for value in (0, 0xFF):
            raw = bytearray(whole)
            raw[at] = value
            path.write_bytes(raw)
            os.utime(path, ns=(at, at * 2 + value))
            try:
                for line in lines_of(path)[0]:
                    content_of(path, line)
            except (AudioError, ManifestError):
                pass


@pytest.mark.parametrize(
    ("field", "detail"), [(24, f"states {2**64 - 1} bytes"), (42, "no header where")]
)
def test_numbers_beyond_all_files_are_rejects(tmp_path: Path, field: int, detail: str) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", bytes(1000))
    content = path.read_bytes()
    directory, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    zip64 = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    entry, tail = bytearray(content[directory:end] + zip64), bytearray(content[end:])
    struct.pack_into("<I", entry, field, 0xFFFFFFFF)
    struct.pack_into("<H", entry, 30, len(zip64))
    struct.pack_into("<I", tail, 12, len(entry))
    path.write_bytes(content[:directory] + entry + tail)
    (line,), _ = lines_of(path)
    with pytest.raises(AudioError, match=detail) as caught:
        content_of(path, line)
    assert caught.value.reason == "undecodable"

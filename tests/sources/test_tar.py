"""``tar``: every form of a tar of audio, and what is passed over or refused in it."""

import json
import os
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset

from gmmpipe.audio.member import Member, open_member
from gmmpipe.audio.opener import header_seconds
from gmmpipe.audio.plain_bytes import PlainBytes
from gmmpipe.audio.tar_headers import tar_entries
from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.sources.find import find_manifests, find_sources
from gmmpipe.sources.tar import TarArchives
from helpers.kinds.archives import add
from helpers.kinds.made import corpus_lines
from helpers.making import CORPUS

AUDIO = Path(corpus_lines(1)[0]["wav_path"]).read_bytes()


def lines_of(path: Path) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The lines of a tar, and what is passed over in it."""
    passed_over = Counter[str]()
    return [json.loads(raw) for raw in TarArchives().translate(path, passed_over)], passed_over


def made(path: Path, fill: Callable[[tarfile.TarFile], None], **how: Any) -> Path:
    with tarfile.open(path, "w", **how) as tar:
        fill(tar)
    return path


def content_of(path: Path, line: dict[str, Any]) -> bytes:
    name = line["wav_path"].removeprefix(path.name + "#")
    place = tuple(line["archive_range"]) if "archive_range" in line else None
    descriptor = open_member(Member(str(path), name, place))
    with open(descriptor, "rb") as file:
        return file.read()


NAMES = [
    "a.wav",
    "nested/of/some/depth/b.flac",
    "x" * 99 + ".wav",
    "/".join(["deep" * 20] * 5) + "/c.wav",
    "y" * 250 + ".wav",
    "имя с пробелом.wav",
    "h#sh.wav",
]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_names_of_every_form(tmp_path: Path, form: int, prefix: str) -> None:
    names = [n for n in NAMES if form != tarfile.USTAR_FORMAT or (len(n) < 99 and n.isascii())]

    def fill(tar: tarfile.TarFile) -> None:
        for name in names:
            add(tar, prefix + name, name.encode() + AUDIO)

    path = made(tmp_path / "a.tar", fill, format=form, pax_headers={"comment": "all"})
    lines, passed_over = lines_of(path)
    assert [line["wav_path"] for line in lines] == [f"a.tar#{name}" for name in names]
    assert [line["id"] for line in lines] == [os.path.splitext(name)[0] for name in names]
    for name, line in zip(names, lines, strict=True):
        assert content_of(path, line) == name.encode() + AUDIO
        del line["archive_range"]
        assert content_of(path, line) == name.encode() + AUDIO
    assert not passed_over


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    path = made(tmp_path / "a.tar", lambda tar: add(tar, "\udce9.wav", AUDIO), encoding="utf-8")
    (line,), _ = lines_of(path)
    assert content_of(path, line) == AUDIO


def test_the_tar_of_the_system_and_all_that_lies_in_a_folder(tmp_path: Path) -> None:
    names = ["1.wav", "._1.wav", "b/2.wav", "b/note.txt", "b/.hidden.wav", "__MACOSX/3.wav"]
    names += ["PaxHeaders.7/4.wav", ".git/5.wav"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(AUDIO)
    (tmp_path / "in" / "link.wav").symlink_to("/etc/passwd")
    os.link(tmp_path / "in" / "1.wav", tmp_path / "in" / "same.wav")
    os.mkfifo(tmp_path / "in" / "fifo.wav")
    command = ["tar", "--sort=name", "-cf", "../a.tar", "."]
    subprocess.run(command, cwd=tmp_path / "in", check=True)
    lines, passed_over = lines_of(tmp_path / "a.tar")
    assert [line["id"] for line in lines] == ["1", "b/2"]
    assert all(content_of(tmp_path / "a.tar", line) == AUDIO for line in lines)
    assert passed_over == {
        "a folder": 5,
        "a link": 2,
        "a device or FIFO": 1,
        "hidden": 5,
        ".txt": 1,
    }


def test_samples_of_webdataset(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        first = {"text": "one", "duration": 2.5, "wav": "x/y.wav", "archive_range": [0, 1]}
        times = {"start": 70.5, "end": 73.0}
        writer.write({"__key__": "d/a", "flac": AUDIO, "json": {**first, **times}, "cls": 3})
        writer.write({"__key__": "d/b", "json": {"id": "own", "speaker": 7}, "wav": AUDIO})
        writer.write({"__key__": "d/c", "txt": "said", "audio.mp3": AUDIO, "json": {"id": [1]}})
        writer.write({"__key__": "d/d", "left.wav": AUDIO, "right.wav": AUDIO, "txt": "both"})
        writer.write({"__key__": "d/e", "json": [1], "wav": AUDIO})
        writer.write({"__key__": "d/f", "json": {"no": "audio"}})
    lines, passed_over = lines_of(tmp_path / "a.tar")
    for line in lines:
        assert content_of(tmp_path / "a.tar", line) == AUDIO
        del line["archive_range"]
    assert lines == [
        {
            "wav_path": "a.tar#d/a.flac",
            "id": "d/a",
            "text": "one",
            "duration": 2.5,
            "times_in_source": {"start": 70.5, "end": 73.0},
        },
        {"wav_path": "a.tar#d/b.wav", "id": "own", "speaker": 7},
        {"wav_path": "a.tar#d/c.audio.mp3", "id": "d/c", "text": "said"},
        {"wav_path": "a.tar#d/d.left.wav", "id": "d/d.left", "text": "both"},
        {"wav_path": "a.tar#d/d.right.wav", "id": "d/d.right", "text": "both"},
        {"wav_path": "a.tar#d/e.wav", "id": "d/e"},
    ]
    assert passed_over == {".cls": 1, ".json": 2}


def test_files_without_webdataset_keep_names_with_dots_apart(tmp_path: Path) -> None:
    names = ["a.1.wav", "b.wav", "a.2.wav", *(f"c.{number}.wav" for number in range(200))]
    path = made(tmp_path / "a.tar", lambda tar: [add(tar, name, b"x") for name in names])
    lines, _ = lines_of(path)
    assert [line["id"] + ".wav" for line in lines] == names


def test_hostile_members_are_never_followed(tmp_path: Path) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        add(tar, "/etc/absolute.wav", AUDIO)
        add(tar, "../above.wav", AUDIO)
        add(tar, "a/../../b.wav", AUDIO)
        add(tar, "good.wav", AUDIO)
        add(tar, "soft.wav", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(tar, "hard.wav", type=tarfile.LNKTYPE, linkname="/etc/passwd")
        add(tar, "device.wav", type=tarfile.CHRTYPE)
        add(tar, "fifo.wav", type=tarfile.FIFOTYPE)
        add(tar, "folder.wav", type=tarfile.DIRTYPE)
        add(tar, "volume.wav", type=b"V")

    lines, passed_over = lines_of(made(tmp_path / "a.tar", fill))
    assert [line["id"] for line in lines] == ["good"]
    assert passed_over == {
        "an unsafe name": 3,
        "a link": 2,
        "a device or FIFO": 2,
        "a folder": 1,
        "no file": 1,
    }


def with_size(info: tarfile.TarInfo, size: int) -> bytes:
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("size", [1 << 20, 1 << 40, (1 << 62) - 1, 1 << 70])
def test_a_size_beyond_the_file_is_a_reject(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("a.wav")
    path.write_bytes(with_size(info, len(AUDIO)) + AUDIO + b"\0" * (-len(AUDIO) % 512))
    with open(path, "ab") as file:
        file.write(with_size(tarfile.TarInfo("b.wav"), size) + AUDIO)
    good, cut = lines_of(path)[0]
    assert content_of(path, good) == AUDIO
    with pytest.raises(AudioError, match="truncated: the archive ends"):
        content_of(path, cut)


def test_a_huge_name_is_not_read(tmp_path: Path) -> None:
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        info = tarfile.TarInfo("././@LongLink")
        info.type = kind
        (tmp_path / "a.tar").write_bytes(with_size(info, 1 << 33))
        with open(tmp_path / "a.tar", "ab") as file:
            file.truncate(1 << 34)
        with pytest.raises(ManifestError, match=r"a\.tar: damaged: a name or pax records of"):
            lines_of(tmp_path / "a.tar")


@pytest.mark.parametrize("records", [b"x", b"99 path=a\n", b"7 path=", b"0 a=\n", b"-1 a=b\n"])
def test_damaged_pax_records(tmp_path: Path, records: bytes) -> None:
    info = tarfile.TarInfo("a")
    info.type = tarfile.XHDTYPE
    content = with_size(info, len(records)) + records.ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(ManifestError, match=r"a\.tar: damaged: pax records"):
        lines_of(tmp_path / "a.tar")


def test_the_size_in_pax_records_counts(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.wav")
    info.pax_headers = {"size": str(len(AUDIO))}
    info.size = 0
    raw = info.create_pax_header(info.get_info(), "utf-8")
    (tmp_path / "a.tar").write_bytes(raw + AUDIO)
    (line,), _ = lines_of(tmp_path / "a.tar")
    assert content_of(tmp_path / "a.tar", line) == AUDIO


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_a_sparse_file_is_a_reject(tmp_path: Path, form: str) -> None:
    with open(tmp_path / "holes.wav", "wb") as file:
        for number in range(40):
            file.seek(number << 20)
            file.write(AUDIO[:4096])
    (tmp_path / "z.wav").write_bytes(AUDIO)
    names = ["holes.wav", "z.wav"]
    command = ["tar", "-S", f"--format={form}", "-cf", "a.tar", *names]
    subprocess.run(command, cwd=tmp_path, check=True)
    holes, good = lines_of(tmp_path / "a.tar")[0]
    assert holes["wav_path"] == "a.tar#holes.wav"
    with pytest.raises(AudioError, match="undecodable: a sparse file"):
        content_of(tmp_path / "a.tar", holes)
    assert content_of(tmp_path / "a.tar", good) == AUDIO


@pytest.mark.parametrize("keep", [100, 512 + len(AUDIO) // 2])
def test_a_tar_that_is_cut_off(tmp_path: Path, keep: int) -> None:
    path = made(tmp_path / "a.tar", lambda tar: add(tar, "a.wav", AUDIO))
    path.write_bytes(path.read_bytes()[:keep])
    if keep < 512:
        with pytest.raises(ManifestError, match=r"a\.tar: damaged: ends within a header at byte 0"):
            lines_of(path)
    else:
        (line,), _ = lines_of(path)
        assert "archive_range" not in line
        assert header_seconds(Member(str(path), "a.wav")) == 0.0


def test_what_is_no_tar(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"no archive " * 100)
    with pytest.raises(ManifestError, match=r"a\.tar: damaged: there is no header at byte 0"):
        lines_of(path)
    with pytest.raises(AudioError, match="undecodable: its archive: there is no header"):
        open_member(Member(str(path), "a.wav"))
    path.write_bytes(b"")
    assert lines_of(path) == ([], Counter())


def test_a_folder_of_tars(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", ".hidden.tar"):
        made(tmp_path / name, lambda tar: add(tar, "a.wav", AUDIO))
    (tmp_path / "README.md").write_text("of these")
    (source,) = find_sources(str(tmp_path))
    assert [manifest.name for manifest in source.manifests] == ["a.tar", "b.tar"]
    assert {manifest.kind for manifest in source.manifests} == {"tar"}
    assert source.passed_over == ["README.md"]


def test_the_shards_of_a_store_are_no_source(tmp_path: Path) -> None:
    made(tmp_path / "shard-000000.tar", lambda tar: add(tar, "a.wav", AUDIO))
    assert TarArchives().find(tmp_path) is not None
    (tmp_path / "store.json").write_text("{}")
    assert TarArchives().find(tmp_path) is None


def test_it_agrees_with_the_standard_library(tmp_path: Path) -> None:
    def fill(tar: tarfile.TarFile) -> None:
        for number in range(50):
            add(tar, "d" * (number * 5) + f"/{number}", os.urandom(number * 37))

    path = made(tmp_path / "a.tar", fill)
    with open(path, "rb") as file, tarfile.open(path) as tar:
        found = tar_entries(PlainBytes(file.fileno(), path.stat().st_size))
        assert [(e.name, e.start, e.stored_bytes) for e in found] == [
            (info.name, info.offset_data, info.size) for info in tar
        ]


def test_manifests_come_before_archives_beside_them(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(CORPUS / "en-cards" / "001.flac", "a.flac")
    assert [m.kind for m in find_manifests(str(tmp_path))] == ["tar"]
    (tmp_path / "m.jsonl").write_text('{"path": "x.tar#a.flac"}\n')
    assert [m.name for m in find_manifests(str(tmp_path))] == ["m.jsonl"]
    assert [m.name for m in find_manifests(str(tmp_path), "tar")] == ["x.tar"]


def test_a_folder_that_cannot_be_read_beside_tars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(tmp_path / "a.tar", lambda archive: None)
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir

    def refusing(folder: Any) -> Any:  # as to anyone but root, who may run the tests
        if str(folder).endswith("lost+found"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    assert [each.kind for each in find_manifests(str(tmp_path))] == ["tar"]

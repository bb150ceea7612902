"""``targz``: streamed from front to end, whatever is asked of it."""

import gzip
import json
import os
import random
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gmmpipe import FeatureStore
from gmmpipe.audio import streamed
from gmmpipe.audio.gzip_bytes import GzipBytes
from gmmpipe.audio.member import Member, open_member
from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.featurization.slow_segments import warn_of_slow_segments
from gmmpipe.sources import targz
from gmmpipe.sources.find import find_sources
from gmmpipe.sources.registry import kind_named
from gmmpipe.sources.targz import TarGzArchives
from helpers.kinds.archives import add
from helpers.kinds.made import corpus_lines
from helpers.making import make_store, save_plan
from helpers.processes import run
from helpers.results import read_json_lines

AUDIO = Path(corpus_lines(1)[0]["wav_path"]).read_bytes()


def lines_of(path: Path) -> tuple[list[dict[str, Any]], Counter[str]]:
    passed_over = Counter[str]()
    return [json.loads(raw) for raw in TarGzArchives().translate(path, passed_over)], passed_over


def member_of(path: Path, line: dict[str, Any]) -> Member:
    name = line["wav_path"].removeprefix(path.name + "#")
    return Member(str(path), name, tuple(line["archive_range"]))


def content_of(member: Member) -> bytes:
    with open(open_member(member), "rb") as file:
        return file.read()


def made(path: Path, count: int = 30) -> tuple[Path, list[bytes]]:
    contents = [random.Random(number).randbytes(number * 7001) for number in range(count)]
    with tarfile.open(path, "w:gz") as tar:
        for number, content in enumerate(contents):
            add(tar, f"d/{number}.wav", content)
            add(tar, f"d/{number}.json", json.dumps({"number": number}).encode())
    return path, contents


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passes over archives that are begun."""
    begun: list[str] = []

    class Counted(streamed._Stream):
        def __init__(self, path: str, *rest: Any) -> None:
            begun.append(path)
            super().__init__(path, *rest)

    monkeypatch.setattr(streamed, "_Stream", Counted)
    return begun


def test_members_in_order_take_one_pass(tmp_path: Path, passes: list[str]) -> None:
    path, contents = made(tmp_path / "a.tar.gz")
    lines, passed_over = lines_of(path)
    assert [line["number"] for line in lines] == list(range(len(contents)))
    for line, content in zip(lines, contents, strict=True):
        for _ in range(2):  # a file, then its length
            assert content_of(member_of(path, line)) == content
    assert (passes, passed_over) == ([str(path)], Counter())


def test_going_back_begins_again(tmp_path: Path, passes: list[str]) -> None:
    path, contents = made(tmp_path / "a.tar.gz")
    lines, _ = lines_of(path)
    for number in (3, 7, 2, 2, 29):
        assert content_of(member_of(path, lines[number])) == contents[number]
    name_alone = Member(str(path), "d/5.wav")
    assert content_of(name_alone) == contents[5]
    assert len(passes) == 3


def test_two_open_members_have_places_of_their_own(tmp_path: Path) -> None:
    path, contents = made(tmp_path / "a.tar.gz", 5)
    lines, _ = lines_of(path)
    one, other = (open_member(member_of(path, lines[4])) for _ in range(2))
    assert os.read(one, 10) == os.read(other, 10) == contents[4][:10]
    os.close(one)
    os.close(other)


def test_gzip_files_in_a_row_and_padding(tmp_path: Path) -> None:
    raw = os.urandom(3 << 20)
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(raw) + gzip.compress(b"") + gzip.compress(raw) + b"\0" * 600)
    with open(path, "rb") as file:
        stream = GzipBytes(file.fileno())
        assert stream.read(1 << 24) == raw + raw
        assert stream.read(1) == b""


def test_a_cut_archive_loses_only_what_is_cut(tmp_path: Path) -> None:
    path, contents = made(tmp_path / "a.tar.gz")
    path.write_bytes(path.read_bytes()[:-100_000])
    lines, _ = lines_of(path)
    assert [line["number"] for line in lines[:-1]] == list(range(len(lines) - 1))
    assert "archive_range" not in lines[-1]
    assert content_of(member_of(path, lines[-2])) == contents[len(lines) - 2]
    with pytest.raises(AudioError, match="truncated: the archive ends"):
        open_member(Member(str(path), lines[-1]["wav_path"].partition("#")[2]))


def test_damage_is_named(tmp_path: Path) -> None:
    path, _ = made(tmp_path / "a.tar.gz")
    raw = bytearray(path.read_bytes())
    raw[40_000:40_100] = bytes(100)
    path.write_bytes(raw)
    with pytest.raises(ManifestError, match=r"a\.tar\.gz: damaged"):
        lines_of(path)
    path.write_bytes(b"no gzip at all" * 100)
    with pytest.raises(ManifestError, match=r"a\.tar\.gz: damaged"):
        lines_of(path)


def test_an_archive_is_translated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.tgz", "b.tgz"):
        made(tmp_path / "in" / name, 5)
    kind, passes = TarGzArchives(), []
    monkeypatch.setattr(targz, "GzipBytes", lambda number: passes.append(1) or GzipBytes(number))
    paths = sorted((tmp_path / "in").iterdir())
    first, again = ([list(kind.translate(path, Counter())) for path in paths] for _ in range(2))
    assert first == again
    assert [len(lines) for lines in first] == [5, 5]
    assert len(passes) == 2
    made(paths[0], 6)
    assert len(list(kind.translate(paths[0], Counter()))) == 6


def test_a_bomb_is_a_reject(tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    info = tarfile.TarInfo("a.wav")
    info.size = 1 << 30
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf())
        for _ in range(100):
            file.write(bytes(1 << 20))
    with pytest.raises(AudioError, match="as those of no recording do"):
        open_member(Member(str(path), "a.wav", (512, 1 << 30)))


def test_what_is_found(tmp_path: Path) -> None:
    made(tmp_path / "b.tgz", 1)
    made(tmp_path / "a.TAR.GZ", 1)
    (source,) = find_sources(str(tmp_path))
    assert [manifest.name for manifest in source.manifests] == ["a.TAR.GZ", "b.tgz"]
    assert {manifest.kind for manifest in source.manifests} == {"targz"}


def test_a_packed_tar_says_so_in_its_name(tmp_path: Path) -> None:
    made(tmp_path / "c.tar", 1)
    with pytest.raises(ManifestError, match=r"c\.tar: packed by gzip; let its name end in"):
        list(kind_named("tar").translate(tmp_path / "c.tar", Counter()))


@pytest.mark.parametrize("options", [{}, {"long_audio": "split", "max_seconds": 1.0}])
def test_a_store_takes_a_pass_an_archive(
    tmp_path: Path, passes: list[str], options: dict[str, Any]
) -> None:
    (tmp_path / "in").mkdir()
    for half, name in enumerate(("b.tar.gz", "a.tgz")):
        with tarfile.open(tmp_path / "in" / name, "w:gz") as tar:
            for line in reversed(corpus_lines()[half::2]):
                path = Path(line["wav_path"])
                add(tar, line["id"] + path.suffix, path.read_bytes())
            add(tar, f"damaged-{half}.wav", b"no audio")
    store = make_store(tmp_path / "in", tmp_path / "s", utterances_per_shard=4, **options)
    passes_of_splitting = 2 if options else 0
    assert len(passes) == 2 + passes_of_splitting
    assert FeatureStore.open(store).num_frames > 0


def test_repeated_ids_take_no_pass_of_their_own(tmp_path: Path, passes: list[str]) -> None:
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for number, line in enumerate(corpus_lines()):
            audio = Path(line["wav_path"])
            add(tar, f"{number:02d}{audio.suffix}", audio.read_bytes())
            add(tar, f"{number:02d}.json", json.dumps({"id": f"id-{number // 2}"}).encode())
    store = make_store(path, tmp_path / "s", utterances_per_shard=4)
    assert passes == [str(path)]
    reasons = [reject["reason"] for reject in read_json_lines(store / "rejects.jsonl")]
    assert reasons == ["duplicate_id"] * 6


def test_lines_that_find_no_room_are_made_again(tmp_path: Path) -> None:
    path, _ = made(tmp_path / "a.tgz", 40)
    program = (
        "import resource, sys, pathlib, collections\n"
        "from gmmpipe.sources.targz import TarGzArchives\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "kind, path = TarGzArchives(), pathlib.Path(sys.argv[1])\n"
        "first, again = (list(kind.translate(path, collections.Counter())) for _ in range(2))\n"
        "assert first == again and len(first) == 40, (len(first), len(again))\n"
    )
    run([sys.executable, "-c", program, str(path)])


def test_a_manifest_of_its_members_gets_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(tmp_path / "a.tgz", 3)
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"path": "a.tgz#d/1.wav"}\n{"path": "a.tgz#d/2.wav"}\n')
    for shuffle_by, warns in (("auto", True), ("recordings", False)):
        caplog.clear()
        folder = tmp_path / shuffle_by
        options = FeaturizeOptions(data_dir=str(manifest), output_dir=folder, shuffle_by=shuffle_by)
        warn_of_slow_segments(save_plan(options).task(0, folder, None))
        assert any("m.jsonl names members of a tar.gz" in m for m in caplog.messages) == warns

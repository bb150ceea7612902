"""Lines that name a member of an archive: ``ARCHIVE#MEMBER``."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from gmmpipe import FeatureStore
from gmmpipe.errors import AudioError
from gmmpipe.sources.line_fields import range_of
from helpers.kinds.made import corpus_lines
from helpers.making import make_store
from helpers.results import read_json_lines


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    path = tmp_path / "loose.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in corpus_lines(3)))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "a#1.tar", "w") as tar:
        for number, line in enumerate(corpus_lines(3)):
            add(tar, f"./deep/{number}#.audio", Path(line["wav_path"]).read_bytes())
    return tmp_path / "a#1.tar"


def lines_of(archive: Path, with_range: bool) -> list[dict]:
    lines = []
    with tarfile.open(archive) as tar:
        for line, info in zip(corpus_lines(3), tar, strict=True):
            line["wav_path"] = f"{archive.name}#{info.name.removeprefix('./')}"
            if with_range:
                line["archive_range"] = [info.offset_data, info.size]
            lines.append(line)
    return lines


@pytest.mark.parametrize("with_range", [False, True])
def test_a_line_names_a_member(archive: Path, loose: Path, with_range: bool) -> None:
    manifest = archive.parent / "m.jsonl"
    lines = lines_of(archive, with_range)
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = FeatureStore.open(make_store(manifest, archive.parent / "s"))
    expected = FeatureStore.open(make_store(loose, archive.parent / "e"))
    for one, other in zip(found.utterances(), expected.utterances(), strict=True):
        np.testing.assert_array_equal(one.features.numpy(), other.features.numpy())
        assert "archive_range" not in one.metadata
        assert one.metadata["wav_path"].startswith("a#1.tar#deep/")


def test_a_file_whose_name_looks_like_a_member_is_that_file(tmp_path: Path) -> None:
    (line,) = corpus_lines(1)
    name = "a.tar#b" + Path(line["wav_path"]).suffix
    (tmp_path / name).write_bytes(Path(line["wav_path"]).read_bytes())
    (tmp_path / "a.tar").write_bytes(b"")
    (tmp_path / "m.jsonl").write_text(json.dumps({**line, "wav_path": name}) + "\n")
    assert len(FeatureStore.open(make_store(tmp_path / "m.jsonl", tmp_path / "s"))) == 1


def test_what_cannot_be_read_is_a_reject(archive: Path) -> None:
    good, *_ = lines_of(archive, with_range=False)
    ends = [
        {"wav_path": f"{archive.name}#none.wav"},
        {"wav_path": "none.tar#a.wav"},
        {"wav_path": good["wav_path"], "archive_range": [512, 1 << 40]},
        {"wav_path": good["wav_path"], "archive_range": [512, 1 << 30]},
        {"wav_path": good["wav_path"], "archive_range": [512, -1]},
        {"wav_path": good["wav_path"], "archive_range": [0, 512]},
    ]
    manifest = archive.parent / "m.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in [good, *ends]))
    store = make_store(manifest, archive.parent / "s", max_reject_fraction=1.0)
    assert [reject["reason"] for reject in read_json_lines(store / "rejects.jsonl")] == [
        *("not_found", "not_found", "undecodable", "truncated", "bad_json", "undecodable"),
    ]


@pytest.mark.parametrize("value", ["0", [1], [1, 2, 3, 4], [1.0, 2], [True, 2], [1, 1 << 62], {}])
def test_a_range_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(AudioError, match="archive_range"):
        range_of(value)

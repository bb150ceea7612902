"""The .tsv manifests of fairseq, and how they differ from tables."""

import gzip
import json
import os
import shutil
from pathlib import Path

import pytest

from gmmpipe import FeatureStore
from gmmpipe.errors import ManifestError
from gmmpipe.sources.find import find_manifests, find_sources
from gmmpipe.sources.lines import read_lines
from gmmpipe.sources.survey import survey
from helpers.making import CORPUS, make_store
from helpers.results import read_json_lines

SPEECH = CORPUS / "en-cards" / "001.flac"


@pytest.mark.parametrize("name", ["train.tsv", "train.tsv.gz", "TRAIN.TSV"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_paths_start_in_the_folder_of_the_first_line(name: str, end: str, tmp_path: Path) -> None:
    text = end.join(["/data/audio", "a/1.flac\t16000", "", "b c.wav\t7", "/elsewhere/d.wav\t1"])
    content = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    (manifest,) = find_manifests(str(tmp_path / name))
    assert manifest.kind == "fairseq"
    assert [json.loads(raw) if raw.strip() else None for _, raw in read_lines(manifest)] == [
        None,
        {"wav_path": "/data/audio/a/1.flac", "samples": 16000},
        None,
        {"wav_path": "/data/audio/b c.wav", "samples": 7},
        {"wav_path": "/elsewhere/d.wav", "samples": 1},
    ]


def test_no_duration_is_stated_and_a_relative_folder_starts_at_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    shutil.copy(SPEECH, tmp_path / "audio" / "1.flac")
    (tmp_path / "train.tsv").write_text("audio\n1.flac\t17526\nno samples\ngone.flac\t1\n\t5\n")
    (totals,) = survey(find_sources(str(tmp_path / "train.tsv")))
    assert (totals.utterances, totals.hours) == (2, None)
    assert totals.first[0]["path"] == str(tmp_path / "audio" / "1.flac")
    store = make_store(tmp_path / "train.tsv", tmp_path / "store")
    (utterance,) = FeatureStore.open(store).utterances()
    assert utterance.metadata["samples"] == 17526
    assert (utterance.key, utterance.metadata["line"]) == ("0000000002-1", 2)
    rejects = read_json_lines(store / "rejects.jsonl")
    assert {r["line"]: r["reason"] for r in rejects} == {
        3: "bad_json",
        4: "not_found",
        5: "bad_json",
    }


def test_names_that_are_not_unicode_are_read(tmp_path: Path) -> None:
    shutil.copy(SPEECH, os.path.join(os.fsencode(tmp_path), b"caf\xe9.flac"))
    (tmp_path / "train.tsv").write_bytes(os.fsencode(tmp_path) + b"\ncaf\xe9.flac\t17526\n")
    store = make_store(tmp_path / "train.tsv", tmp_path / "store")
    assert len(FeatureStore.open(store)) == 1


@pytest.mark.parametrize(
    "content",
    ["", "/data\n", "/data\na.wav\n", "/data\na.wav\tx\n", "/data\tb\na.wav\t5\n", "/d\na\t5\t6\n"],
)
def test_what_is_no_such_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text(content)
    with pytest.raises(ManifestError, match=r"m\.tsv: neither .* fairseq \(a \.tsv file"):
        find_manifests(str(tmp_path / "m.tsv"))


def test_a_folder_is_read_in_order(tmp_path: Path) -> None:
    for name in ("valid.tsv", "train.tsv"):
        (tmp_path / name).write_text("/data\na.wav\t5\n")
    (tmp_path / "train.ltr").write_text("H I |\n")
    (source,) = find_sources(str(tmp_path))
    assert [(m.kind, m.name) for m in source.manifests] == [
        ("fairseq", "train.tsv"),
        ("fairseq", "valid.tsv"),
    ]
    assert source.passed_over == ["train.ltr"]
    (tmp_path / "table.tsv").write_text("path\na.wav\n")
    with pytest.raises(ManifestError, match="could be read as table or fairseq; say which with"):
        find_manifests(str(tmp_path))
    assert [m.name for m in find_manifests(str(tmp_path), "table")] == ["table.tsv"]


@pytest.mark.parametrize("root", ["audio", "wav", "path"])
def test_a_folder_that_is_called_as_a_column_is_no_header(root: str, tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text(f"{root}\na.wav\t5\n")
    assert find_manifests(str(tmp_path / "m.tsv"))[0].kind == "fairseq"
    (tmp_path / "m.tsv").write_text(f"{root}\na.wav\n")
    assert find_manifests(str(tmp_path / "m.tsv"))[0].kind == "table"

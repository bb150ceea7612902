"""A folder of audio files: which are read, in which order, and under which ids."""

import json
import os
import shutil
from collections import Counter
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


def put(folder: Path, *names: str) -> None:
    """Files of these names, each of one and the same speech."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SPEECH, folder / name)


def paths_in(folder: Path, passed_over: Counter[str] | None = None) -> list[str]:
    (manifest,) = find_manifests(str(folder))
    assert (manifest.kind, manifest.audio_folder) == ("folder", folder)
    return [json.loads(raw)["wav_path"] for _, raw in read_lines(manifest, passed_over)]


def test_audio_of_any_depth_is_read_in_order_and_the_rest_is_counted(tmp_path: Path) -> None:
    put(tmp_path, "b/2.FLAC", "b/1.wav", "a/x/y/z.mp3", "c.opus", "b.m4a", "a.b/file.with.dots.ogg")
    put(tmp_path, ".hidden.wav", "a/._1.wav", ".git/x.wav", "a/notes.txt", "a/NOTES.TXT", "README")
    counts = Counter[str]()
    assert paths_in(tmp_path, counts) == [
        *("a/x/y/z.mp3", "a.b/file.with.dots.ogg", "b/1.wav", "b/2.FLAC", "b.m4a", "c.opus")
    ]
    assert counts == {"hidden": 2, "hidden folder": 1, ".txt": 2, "no ending": 1}


def test_the_id_is_the_path_without_the_ending_and_its_sample_says_the_path(tmp_path: Path) -> None:
    put(tmp_path / "corpus", "19/198/19-198-0000.flac", "short.wav")
    store = make_store(tmp_path / "corpus", tmp_path / "store")
    found = {u.metadata["id"]: u.metadata for u in FeatureStore.open(store).utterances()}
    assert found.keys() == {"19/198/19-198-0000", "short"}
    assert found["19/198/19-198-0000"]["wav_path"] == "19/198/19-198-0000.flac"
    assert found["short"]["key"] == "short"
    assert {metadata["manifest"] for metadata in found.values()} == {"corpus"}
    assert (found["19/198/19-198-0000"]["line"], found["short"]["line"]) == (1, 2)


def test_of_files_that_differ_in_their_ending_alone_the_first_is_used(tmp_path: Path) -> None:
    put(tmp_path / "corpus", "a.wav", "a.flac", "b/a.wav")
    store = make_store(tmp_path / "corpus", tmp_path / "store")
    found = {u.metadata["id"]: u.metadata for u in FeatureStore.open(store).utterances()}
    assert {i: metadata["wav_path"] for i, metadata in found.items()} == {
        "a": "a.flac",
        "b/a": "b/a.wav",
    }
    (reject,) = read_json_lines(store / "rejects.jsonl")
    assert (reject["path"], reject["reason"]) == ("a.wav", "duplicate_id")


def test_links_to_files_and_to_other_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "deep/1.wav")
    put(tmp_path / "corpus", "a/1.wav")
    os.symlink(SPEECH, tmp_path / "corpus" / "link.flac")
    os.symlink("../elsewhere", tmp_path / "corpus" / "other")
    os.symlink("..", tmp_path / "corpus" / "a" / "up")
    os.symlink("a", tmp_path / "corpus" / "again")
    os.symlink("../../elsewhere", tmp_path / "elsewhere" / "deep" / "back")
    os.symlink(tmp_path, tmp_path / "corpus" / "z")
    counts = Counter[str]()
    assert paths_in(tmp_path / "corpus", counts) == [
        *("a/1.wav", "link.flac", "other/deep/1.wav", "z/elsewhere/deep/1.wav")
    ]
    assert counts == {"link to a folder that is read anyway": 5}


def test_a_file_that_is_none_is_a_reject(tmp_path: Path) -> None:
    put(tmp_path / "corpus", "good.wav")
    os.symlink("nowhere", tmp_path / "corpus" / "dangling.wav")
    os.symlink("itself.wav", tmp_path / "corpus" / "itself.wav")
    os.mkfifo(tmp_path / "corpus" / "pipe.wav")
    put(tmp_path / "corpus", "command |.wav", "https:/x.wav")
    (tmp_path / "corpus" / "text.wav").write_text("no audio")
    store = make_store(tmp_path / "corpus", tmp_path / "store")
    rejects = {r["path"]: r["reason"] for r in read_json_lines(store / "rejects.jsonl")}
    assert rejects == {
        "dangling.wav": "not_found",
        "itself.wav": "unreadable",
        "pipe.wav": "not_a_regular_file",
        "text.wav": "undecodable",
    }


def test_names_that_are_not_unicode_are_read(tmp_path: Path) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.flac")
    shutil.copy(SPEECH, name)
    (tmp_path / "store").mkdir()
    store = make_store(tmp_path, tmp_path / "store" / "out")
    assert len(FeatureStore.open(store)) == 1


def test_manifests_come_first_and_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "corpus", "a/1.wav")
    assert paths_in(tmp_path / "corpus") == ["a/1.wav"]
    (tmp_path / "corpus" / "m.jsonl").write_text('{"path": "a/1.wav"}\n')
    (manifest,) = find_manifests(str(tmp_path / "corpus"))
    assert manifest.kind == "jsonl"
    (manifest,) = find_manifests(str(tmp_path / "corpus"), "folder")
    assert manifest.kind == "folder"
    (tmp_path / "empty" / "within").mkdir(parents=True)
    with pytest.raises(ManifestError, match=r"no .* manifest in this folder, nor another source"):
        find_manifests(str(tmp_path / "empty"))


def test_a_folder_that_cannot_be_entered_is_named(tmp_path: Path) -> None:
    put(tmp_path, "a/1.wav")
    deep = tmp_path / "b" / Path(*["d"] * 201)
    deep.mkdir(parents=True)
    with pytest.raises(ManifestError, match="more than 200 folders deep"):
        paths_in(tmp_path)


def test_the_survey_of_a_folder(tmp_path: Path) -> None:
    put(tmp_path, "a/1.wav", "a/2.wav", "a/x.txt")
    (totals,) = survey(find_sources(str(tmp_path)))
    assert (totals.kind, totals.utterances, totals.hours) == ("folder", 2, None)
    assert totals.first[0]["path"] == str(tmp_path / "a" / "1.wav")
    assert totals.passed_over_files == {".txt": 1}

"""Libri-Light: spans of voice activity, and files that have none."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gmmpipe import FeatureStore
from gmmpipe.sources.find import find_manifests, find_sources
from gmmpipe.sources.lines import read_lines
from gmmpipe.sources.survey import survey
from helpers.making import CORPUS, make_store
from helpers.results import read_json_lines


def put(folder: Path, name: str, about: Any = None) -> None:
    """A recording, and its .json if `about` is given: as text, or what to write as JSON."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(next((CORPUS / "en-librivox").glob("*.flac")), path)
    if about is not None:
        text = about if isinstance(about, str) else json.dumps(about, indent=1)
        path.with_suffix(".json").write_text(text)


def test_a_span_is_an_utterance_and_the_rest_is_counted(tmp_path: Path) -> None:
    about = {"speaker": "100", "snr": 9.5, "book_meta": {"id": "7"}}
    put(tmp_path, "100/book/01.flac", {**about, "voice_activity": [[0.04, 1], [1.5, 2.25]]})
    put(tmp_path, "100/book/02.flac", {"speaker": "100", "voice_activity": []})
    (tmp_path / "100" / "book" / "other.json").write_text("{}")
    (tmp_path / "LICENSE.txt").write_text("public domain")
    (manifest,) = find_manifests(str(tmp_path))
    assert (manifest.kind, manifest.audio_folder) == ("librilight", tmp_path)
    counts = Counter[str]()
    carried = {"wav_path": "100/book/01.flac", "speaker": "100", "snr": 9.5}
    assert [json.loads(raw) for _, raw in read_lines(manifest, counts)] == [
        {**carried, "id": "100/book/01_0000", "start": 0.04, "end": 1},
        {**carried, "id": "100/book/01_0001", "start": 1.5, "end": 2.25},
    ]
    assert counts == {".txt": 1, ".json": 1, "audio without voice activity": 1}
    (totals,) = survey(find_sources(str(tmp_path)))
    assert (totals.utterances, totals.stated, round(totals.seconds, 6)) == (2, 2, 1.71)


def test_files_without_their_json_and_spans_that_are_none_are_rejects(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    spans = [[0.1, 0.9], [0, 0], [2, 1], [-1, 1], [0.5], "0.5", [0, "1"], [0, None], [0.5, 1e7]]
    put(folder, "a.flac", {"voice_activity": spans})
    put(folder, "b.flac")
    put(folder, "c.flac", '{"voice_activity": [[0.1,')
    put(folder, "d.flac", {"speaker": "7"})
    put(folder, "e.flac", {"voice_activity": {"0": 1}})
    os.mkfifo(folder / "b.json")
    store = make_store(folder, tmp_path / "store")
    found = {u.metadata["id"] for u in FeatureStore.open(store).utterances()}
    rejects = [(r["path"], r["reason"]) for r in read_json_lines(store / "rejects.jsonl")]
    assert {"a_0000"} <= found <= {"a_0000", "a_0008"}
    assert Counter(path for path, _ in rejects) == {
        "a.flac": 9 - len(found),
        "b.flac": 1,
        "c.flac": 1,
        "d.flac": 1,
        "e.flac": 1,
    }
    assert {reason for path, reason in rejects if path != "a.flac"} == {"bad_json"}


@pytest.mark.parametrize("about", [None, {"speaker": "ann"}, "voice_activity", "[]"])
def test_other_folders_of_audio_are_no_libri_light(about: Any, tmp_path: Path) -> None:
    put(tmp_path, "a/1.flac", about)
    assert find_manifests(str(tmp_path))[0].kind == "folder"
    (tmp_path / "m.jsonl").write_text('{"path": "a/1.flac"}\n')
    assert find_manifests(str(tmp_path))[0].kind == "jsonl"
    put(tmp_path, "a/2.flac", {"voice_activity": [[0, 1]]})
    assert find_manifests(str(tmp_path))[0].kind == "librilight"


def test_manifests_beside_recordings_come_before_their_json(tmp_path: Path) -> None:
    put(tmp_path, "1.flac", {"voice_activity": [[0, 1]]})
    assert find_manifests(str(tmp_path))[0].kind == "librilight"
    (tmp_path / "m.jsonl").write_text('{"path": "1.flac"}\n')
    assert find_manifests(str(tmp_path))[0].kind == "jsonl"
    assert find_manifests(str(tmp_path), "librilight")[0].kind == "librilight"

"""Manifests: which files, which lines, and what a line says."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile

from conftest import make_store, read_json_lines, read_speech
from gmmpipe import FeatureStore
from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.featurize.manifest import (
    PATH_FIELDS,
    Manifest,
    ManifestLine,
    Utterance,
    find_manifests,
    parse_line,
)

WriteManifest = Callable[..., Path]
NESTED = '{"wav_path": "a.wav", "x": %s}'


def parse(line: dict[str, Any] | str | bytes, ordinal: int = 1) -> Utterance:
    text = line if isinstance(line, str | bytes) else json.dumps(line)
    raw = text.encode() if isinstance(text, str) else text
    return parse_line(raw, ManifestLine(Manifest(Path("m.jsonl"), "m.jsonl"), ordinal, ordinal))


def reason_of(line: dict[str, Any] | str | bytes) -> str:
    with pytest.raises(AudioError) as error:
        parse(line)
    return error.value.reason


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """A second of real speech, beside the manifest."""
    soundfile.write(tmp_path / "a.wav", *read_speech(1.0))
    return tmp_path / "a.wav"


@pytest.mark.parametrize("name", ["wav_path", "audio_path", "audio_filepath", "path"])
def test_every_path_field_is_understood(name: str) -> None:
    assert parse({name: "x.wav"}).wav_path == "x.wav"


def test_the_first_path_field_that_is_not_empty_counts() -> None:
    assert PATH_FIELDS == ("wav_path", "audio_path", "audio_filepath", "path")
    values = dict(zip(reversed(PATH_FIELDS), "dcba", strict=True))
    for name, expected in zip(PATH_FIELDS, "abcd", strict=True):
        assert parse(values).wav_path == expected
        values[name] = ""


@pytest.mark.parametrize("line", [{}, {"path": ""}, {"path": "  "}, {"path": 7}, {"file": "a.wav"}])
def test_a_line_without_a_path_says_so(line: dict[str, Any]) -> None:
    assert reason_of(line) == "missing_path"


@pytest.mark.parametrize("identifier", ["a", "A-b_9", "x" * 80, "-", "0000000001-a"])
def test_a_safe_id_is_the_key(identifier: str) -> None:
    utterance = parse({"path": "x.wav", "id": identifier})
    assert utterance.key == utterance.id == identifier


@pytest.mark.parametrize(
    ("identifier", "start"),
    [
        ("a.b", "a_b"),
        ("dir/sub/name.wav", "dir_sub_name_wav"),
        ("Привет", "_"),
        ("x" * 81, "x" * 60),
        ("\ud800", "_"),
        ("a\n", "a_"),
        (" ", "_"),
    ],
)
def test_an_unsafe_id_is_sanitised_and_told_apart_by_its_digest(
    identifier: str, start: str
) -> None:
    utterance = parse({"path": "x.wav", "id": identifier})
    digest = hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()
    assert utterance.key == f"{start}-{digest[:10]}"
    assert utterance.id == identifier
    assert re.fullmatch("[A-Za-z0-9_-]{1,80}", utterance.key)


@pytest.mark.parametrize("line", [{"path": "d/my file.é.wav"}, {"path": "my file.é.wav", "id": ""}])
def test_without_an_id_the_key_is_the_line_number_and_the_stem(line: dict[str, Any]) -> None:
    utterance = parse(line, ordinal=42)
    assert utterance.key == "0000000042-my_file_"
    assert utterance.id is None


def test_a_long_stem_is_cut_to_forty_characters() -> None:
    assert parse({"path": "y" * 90 + ".wav"}, ordinal=7).key == "0000000007-" + "y" * 40


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[1]",
        '"text"',
        "{",
        '{"path": "a.wav", "x": NaN}',
        '{"path": "a.wav", "x": Infinity}',
        '{"path": "a.wav", "x": 1e999}',
        b'{"path": "caf\xe9.wav"}',
        NESTED % ("[" * 100_000 + "]" * 100_000),
        NESTED % ('{"a":' * 100_000 + "1" + "}" * 100_000),
        NESTED % ("9" * 5000),
        '{"path": "a.wav", "id": 17}',
        '{"path": "a.wav"} {"path": "b.wav"}',
    ],
    ids=lambda line: str(line[:40]),
)
def test_what_is_no_plain_json_object_is_bad_json(line: str | bytes) -> None:
    assert reason_of(line) == "bad_json"


def test_nesting_of_any_depth_is_features_or_bad_json_but_never_a_crash(
    speech: Path, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    # Near Python's own limit, a value may be read at one place and no longer written at another.
    depths = [1, 50, *range(850, 1050)]
    path = write_manifest(*(NESTED % ("[" * depth + "]" * depth) for depth in depths))
    rejects = read_json_lines(make_store(path, tmp_path / "out") / "rejects.jsonl")
    assert {reject["reason"] for reject in rejects} == {"bad_json"}
    assert len(FeatureStore.open(tmp_path / "out")) + len(rejects) == len(depths)


def test_the_other_fields_are_carried_and_the_path_kept_as_given(
    speech: Path, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    line = {
        "wav_path": "./a.wav",
        "id": "päth",
        "text": "\ud83d é",
        "speaker": {"name": None, "ages": [1, 2.5, True]},
        "duration": 1.0,
        "audio_path": "elsewhere.wav",
        "key": "not the key",
        "line": 99,
    }
    store = make_store(write_manifest(line), tmp_path / "out")
    (utterance,) = FeatureStore.open(store).utterances()
    assert utterance.metadata == {
        **line,
        "key": utterance.key,
        "line": 1,
        "manifest": "manifest.jsonl",
        "num_frames": 50,
        "num_samples": 16000,
        "sample_rate": 16000,
        "offset": 0.0,
    }


def test_bom_crlf_blank_lines_and_a_missing_last_newline_are_fine(
    speech: Path, tmp_path: Path
) -> None:
    text = b'\xef\xbb\xbf{"path": "a.wav"}\r\n\r\n  \t\n {"path": "a.wav"} \r\n{"path": "a.wav"}'
    (tmp_path / "m.jsonl").write_bytes(text)
    store = make_store(tmp_path / "m.jsonl", tmp_path / "out", shuffle=False)
    info = json.loads((store / "store.json").read_text())
    assert info["totals"]["lines"] == info["totals"]["utterances"] == 3
    metadata = [utterance.metadata for utterance in FeatureStore.open(store).utterances()]
    assert [m["line"] for m in metadata] == [1, 4, 5]
    assert [m["key"] for m in metadata] == ["0000000001-a", "0000000004-a", "0000000005-a"]


def test_lines_are_numbered_within_their_manifest_and_keys_over_all(
    speech: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for path, lines in [
        (folder / "b.jsonl", 2),
        (folder / "a.jsonl", 3),
        (folder / ".hidden.jsonl", 9),
        (folder / "notes.txt", 9),
        (tmp_path / "z.jsonl", 1),
    ]:
        path.write_text('{"path": "../a.wav"}\n\n' * lines)
    soundfile.write(tmp_path.parent / "a.wav", *read_speech(0.5))  # z.jsonl's "../a.wav"
    store = make_store(f"{tmp_path / 'z.jsonl'}, {folder}", tmp_path / "out", shuffle=False)
    metadata = [utterance.metadata for utterance in FeatureStore.open(store).utterances()]
    assert [(m["manifest"], m["line"], m["key"]) for m in metadata] == [
        ("z.jsonl", 1, "0000000001-a"),
        ("a.jsonl", 1, "0000000003-a"),
        ("a.jsonl", 3, "0000000005-a"),
        ("a.jsonl", 5, "0000000007-a"),
        ("b.jsonl", 1, "0000000009-a"),
        ("b.jsonl", 3, "0000000011-a"),
    ]


def test_a_base_path_replaces_the_manifests_folder_but_not_an_absolute_path(
    speech: Path, tmp_path: Path
) -> None:
    base, data = tmp_path / "base", tmp_path / "data"
    base.mkdir()
    data.mkdir()
    soundfile.write(base / "r.wav", *read_speech(0.5))
    lines = [{"path": "r.wav"}, {"path": str(speech)}, {"path": "a.wav"}]
    (data / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    store = make_store(data, tmp_path / "out", base_path=base)
    metadata = [utterance.metadata for utterance in FeatureStore.open(store).utterances()]
    assert [m["num_samples"] for m in metadata] == [8000, 16000]
    assert [r["reason"] for r in read_json_lines(store / "rejects.jsonl")] == ["not_found"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("none", "none: no such manifest or folder"),
        ("none.jsonl", "none.jsonl: no such manifest or folder"),
        ("empty", "empty: no .*jsonl manifest in this folder"),
        ("text.txt", "text.txt: neither a folder nor a .jsonl file"),
        (",", "no manifest given"),
    ],
)
def test_a_data_dir_without_a_manifest_is_an_error_that_names_it(
    entry: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").touch()
    with pytest.raises(ManifestError, match=message):
        find_manifests(entry)


def test_a_name_that_is_not_utf_8_is_found(write_manifest: WriteManifest, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "ascii.wav", *read_speech(1.0))
    os.rename(tmp_path / "ascii.wav", os.fsencode(tmp_path) + b"/caf\xe9.wav")
    store = make_store(write_manifest({"path": "caf\udce9.wav"}), tmp_path / "out")
    (utterance,) = FeatureStore.open(store).utterances()
    assert utterance.metadata["wav_path"] == "caf\udce9.wav"
    assert utterance.features.shape == (50, 80)

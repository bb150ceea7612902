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

from gmmpipe import FeatureStore
from gmmpipe.errors import AudioError, ManifestError
from gmmpipe.sources.find import find_manifests
from gmmpipe.sources.line_fields import ID_FIELDS, PATH_FIELDS
from gmmpipe.sources.utterance import ParsedLine, Utterance
from gmmpipe.store.verify import verify
from helpers.making import make_store, read_speech
from helpers.results import read_json_lines

WriteManifest = Callable[..., Path]
NESTED = '{"wav_path": "a.wav", "x": %s}'


def parse(line: dict[str, Any] | str | bytes, ordinal: int = 1) -> Utterance:
    text = line if isinstance(line, str | bytes) else json.dumps(line)
    raw = text.encode() if isinstance(text, str) else text
    return ParsedLine(raw).utterance(ordinal)


def reason_of(line: dict[str, Any] | str | bytes) -> str:
    with pytest.raises(AudioError) as error:
        parse(line)
    return error.value.reason


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """A second of real speech, beside the manifest."""
    soundfile.write(tmp_path / "a.wav", *read_speech(1.0))
    return tmp_path / "a.wav"


@pytest.mark.parametrize("name", PATH_FIELDS)
def test_every_path_field_is_understood(name: str) -> None:
    assert parse({name: "x.wav"}).wav_path == "x.wav"


def test_the_first_path_field_that_is_not_empty_counts() -> None:
    names = "wav_path audio_path audio_filepath path wav audio file_name file"
    assert " ".join(PATH_FIELDS) == names
    values = dict(zip(reversed(PATH_FIELDS), "hgfedcba", strict=True))
    for name, expected in zip(PATH_FIELDS, "abcdefgh", strict=True):
        assert parse(values).wav_path == expected
        values[name] = ""


@pytest.mark.parametrize(
    "line", [{}, {"path": ""}, {"path": "  "}, {"path": 7}, {"audio": {"path": "a.wav"}}]
)
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
        b'{"path": "caf\xe9.wav"}',
        NESTED % ("[" * 100_000 + "]" * 100_000),
        NESTED % ('{"a":' * 100_000 + "1" + "}" * 100_000),
        NESTED % ("9" * 5000),
        '{"path": "a.wav", "id": 1.5}',
        '{"path": "a.wav", "id": true}',
        '{"path": "a.wav", "utt_id": ["a"]}',
        '{"path": "a.wav"} {"path": "b.wav"}',
    ],
    ids=lambda line: str(line[:40]),
)
def test_what_is_no_plain_json_object_is_bad_json(line: str | bytes) -> None:
    assert reason_of(line) == "bad_json"


@pytest.mark.parametrize("name", ID_FIELDS)
def test_every_id_field_is_understood_and_an_integer_is_its_text(name: str) -> None:
    assert ID_FIELDS[0] == "id"
    for value, text in (("a", "a"), (7, "7"), (-1, "-1")):
        utterance = parse({"path": "x.wav", "id": "", name: value, "unlike": "b"})
        assert (utterance.id, utterance.key) == (text, text)


def test_the_first_id_field_that_is_not_empty_counts() -> None:
    values: dict[str, Any] = dict(zip(reversed(ID_FIELDS), "edcba", strict=True))
    for name, expected in zip(ID_FIELDS, "abcde", strict=True):
        assert parse({"path": "x.wav", **values}).id == expected
        values[name] = None


def test_an_integer_id_is_the_same_as_its_text(
    speech: Path, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    lines = ({"path": "a.wav", "id": 7}, {"path": "a.wav", "id": "7"}, {"path": "a.wav", "sid": 8})
    store = make_store(write_manifest(*lines), tmp_path / "out")
    said = {u.key: (u.metadata["id"], u.metadata.get("sid")) for u in opened(store)}
    assert said == {"7": ("7", None), "8": ("8", 8)}
    assert [r["reason"] for r in read_json_lines(store / "rejects.jsonl")] == ["duplicate_id"]


def opened(store: Path) -> list[Any]:
    return list(FeatureStore.open(store).utterances())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (None, None)),
        ({"duration": 4}, (None, 4.0)),
        ({"duration": "4.0"}, (None, 4.0)),
        ({"duration": " 4e0 ", "offset": "1.5"}, (1.5, 4.0)),
        ({"duration": "", "offset": None}, (None, None)),
        ({"duration": -1}, (None, None)),
        ({"offset": 0, "duration": -1}, (0.0, None)),
        ({"offset": 2, "duration": 0}, (2.0, None)),
        ({"start": 1.5}, (1.5, None)),
        ({"end": 1.5}, (0.0, 1.5)),
        ({"start": 1.5, "end": 4}, (1.5, 2.5)),
        ({"start_time": "1.5", "end_time": "4"}, (1.5, 2.5)),
        ({"begin_time": 1.5, "end_time": 4}, (1.5, 2.5)),
        ({"start": 1.5, "end": -1}, (1.5, None)),
        ({"start": 1.234, "end": 5.678, "offset": 1.23, "duration": 4.45}, (1.23, 4.45)),
        ({"start": 1, "end": 2, "start_time": 1, "end_time": 2}, (1.0, 1.0)),
        ({"offset": 1, "start": 1.02}, (1.0, None)),
        ({"start": 36000.02, "start_time": 36000, "end": 36001, "duration": 1}, (36000.02, 1.0)),
    ],
    ids=str,
)
def test_each_spelling_of_a_segment_means_its_times(
    fields: dict[str, Any], expected: tuple[float | None, float | None]
) -> None:
    utterance = parse({"path": "a.wav", **fields})
    assert (utterance.offset_seconds, utterance.duration_seconds) == pytest.approx(expected)
    assert utterance.carried == fields


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"offset": 1.0, "start": 2.5}, "offset and start disagree: starts of 1 s and 2.5 s"),
        ({"start": 1, "begin_time": 2}, "start and begin_time disagree: starts of 1 s and 2 s"),
        (
            {"start": 5, "end": 10, "duration": 10},
            "duration and end disagree: lengths of 10 s and 5 s",
        ),
        (
            {"start": 0.1, "end": 4.3, "duration": "2.25"},
            "duration and end disagree: lengths of 2.25 s and 4.2 s",
        ),
        ({"end": 4, "end_time": 5}, "end and end_time disagree: lengths of 4 s and 5 s"),
        (
            {"start": 1, "begin_time": 1.03},
            "start and begin_time disagree: starts of 1 s and 1.03 s",
        ),
        ({"duration": "1_000"}, "the duration is not a number"),
        ({"duration": "nan"}, "the duration is not a number"),
        ({"start": "inf"}, "the start is beyond any file"),
        ({"end": "0:01"}, "the end is a JSON str, not a number"),
        ({"start_time": -1, "end_time": 1}, "the start_time of -1.0 s is negative"),
    ],
    ids=str,
)
def test_times_that_disagree_or_are_none_are_rejects_that_say_which(
    fields: dict[str, Any], detail: str
) -> None:
    with pytest.raises(AudioError) as error:
        parse({"path": "a.wav", **fields})
    assert (error.value.reason, error.value.detail) == ("bad_offset", detail)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_only_carried_may_be_no_number_and_is_then_null(
    number: str, speech: Path, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    line = f'{{"path": "a.wav", "snr": {number}, "deep": [{{"x": [1.5, {number}]}}], "start": 0.5'
    path = write_manifest(f"{line}}}", f'{line}, "duration": {number}}}')
    store = make_store(path, tmp_path / "out")
    (utterance,) = opened(store)
    metadata = utterance.metadata
    assert (metadata["snr"], metadata["deep"]) == (None, [{"x": [1.5, None]}])
    assert (metadata["start"], metadata["offset"], metadata["num_samples"]) == (0.5, 0.5, 8000)
    (reject,) = read_json_lines(store / "rejects.jsonl")
    assert (reject["line"], reject["reason"]) == (2, "bad_offset")


def test_deep_nesting_is_bad_json_wherever_a_reader_could_no_longer_read_it(
    speech: Path, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    depths = [1, 50, 499, 500, *range(850, 1050)]
    lines = [
        *(NESTED % ("[" * depth + "]" * depth) for depth in depths),
        *(NESTED % ('{"a":' * depth + "1" + "}" * depth) for depth in depths),
        NESTED % f"[{', '.join(['[{}]'] * 1000)}]",
    ]
    store = make_store(write_manifest(*lines), tmp_path / "out")
    rejects = read_json_lines(store / "rejects.jsonl")
    assert {reject["reason"] for reject in rejects} == {"bad_json"}
    found = FeatureStore.open(store)
    lines_kept = sorted(utt.metadata["line"] for utt in found.utterances())
    assert lines_kept == [1, 2, 3, 205, 206, 207, 409]
    assert [fault for _, fault in verify(found)] == [""]


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

"""Kaldi's data folders: what becomes of each file's columns, and what is a reject."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gmmpipe import FeatureStore
from gmmpipe.errors import ManifestError
from gmmpipe.sources.find import find_manifests, find_sources
from gmmpipe.sources.lines import read_lines
from gmmpipe.sources.survey import survey
from helpers.making import CORPUS, make_store
from helpers.results import read_json_lines

SPEECH = CORPUS / "en-cards" / "001.flac"
WAV_SCP = b"rec1 a.wav\nrec2\t/data/with blanks.flac \n"


def data(folder: Path, **files: bytes) -> Path:
    """A data folder of these files; ``wav_scp`` stands for ``wav.scp``."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_bytes(content)
    return folder


def lines_of(folder: Path) -> dict[int, Any]:
    """What is on each line that is not blank, by its number."""
    (manifest,) = find_manifests(str(folder))
    assert (manifest.kind, manifest.audio_folder) == ("kaldi", folder)
    lines = enumerate(read_lines(manifest), start=1)
    return {number: json.loads(raw) for number, (_, raw) in lines if raw != b"\n"}


def test_without_segments_a_recording_is_an_utterance(tmp_path: Path) -> None:
    data(tmp_path, wav_scp=WAV_SCP, utt2spk=b"rec1 ann\nrec2 bob\n", spk2utt=b"ann rec1\n")
    assert lines_of(tmp_path) == {
        1: {"id": "rec1", "wav_path": "a.wav", "speaker": "ann"},
        2: {"id": "rec2", "wav_path": "/data/with blanks.flac", "speaker": "bob"},
    }
    (source,) = find_sources(str(tmp_path))
    assert source.passed_over == ["spk2utt"]
    assert source.manifests[0].name == "wav.scp"


def test_with_segments_each_is_an_utterance_of_its_recording(tmp_path: Path) -> None:
    data(
        tmp_path,
        wav_scp=WAV_SCP,
        segments=b"u1 rec2 0.5 2.25\r\n\nu2 rec1 1 -1 1\nu3 rec1 0 3\n",
        utt2spk=b"u1 ann\nu2 ann\nu3 bob\n",
        text="u1 zwölf  Wörter \nu3 three\n".encode(),
    )
    assert lines_of(tmp_path) == {
        1: {
            "id": "u1",
            "recording": "rec2",
            "wav_path": "/data/with blanks.flac",
            "start": 0.5,
            "end": 2.25,
            "speaker": "ann",
            "text": "zwölf  Wörter",
        },
        3: {
            "id": "u2",
            "recording": "rec1",
            "wav_path": "a.wav",
            "speaker": "ann",
            "start": 1.0,
            "end": -1.0,
            "channel": "1",
        },
        4: {
            "id": "u3",
            "recording": "rec1",
            "wav_path": "a.wav",
            "speaker": "bob",
            "start": 0.0,
            "end": 3.0,
            "text": "three",
        },
    }
    (totals,) = survey(find_sources(str(tmp_path)))
    assert (totals.utterances, totals.stated, totals.seconds) == (3, 2, 4.75)
    assert totals.first[1]["channel"] == 1


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [2, 1, 0]])
def test_files_in_another_order_say_the_same(order: list[int], tmp_path: Path) -> None:
    speakers = [b"u1 ann\n", b"u2 bob\n", b"u3 eve\n"]
    data(
        tmp_path,
        wav_scp=b"r a.wav\n",
        segments=b"u2 r 0 1\nu1 r 1 2\nu4 r 2 3\nu3 r 3 4\n",
        utt2spk=b"".join(speakers[at] for at in order),
    )
    found = [line.get("speaker") for line in lines_of(tmp_path).values()]
    assert found == ["bob", "ann", None, "eve"]


def test_commands_archives_and_broken_lines_are_rejects(tmp_path: Path) -> None:
    scp = b"""r1 sph2pipe -f wav x.sph |
r2 cat a.flac|
r3 feats.ark:123
r4
r5 -
r6 https://example.org/a.wav
r7 a.flac
r7 a.flac
"""
    shutil.copy(SPEECH, data(tmp_path / "scp", wav_scp=scp) / "a.flac")
    store = make_store(tmp_path / "scp", tmp_path / "store")
    assert [u.key for u in FeatureStore.open(store).utterances()] == ["r7"]
    rejects = read_json_lines(store / "rejects.jsonl")
    assert {(r["manifest"], r["line"], r["reason"]) for r in rejects} == {
        ("wav.scp", 1, "unsafe_path"),
        ("wav.scp", 2, "unsafe_path"),
        ("wav.scp", 3, "not_found"),
        ("wav.scp", 4, "missing_path"),
        ("wav.scp", 5, "unsafe_path"),
        ("wav.scp", 6, "unsafe_path"),
        ("wav.scp", 8, "duplicate_id"),
    }
    segments = b"""u1 r7 0.1 0.9
u2 unknown 0 1
u3 r7 0
u4 r7 zero one
u5 r7 1 0.5
u6 r7 0 nan
u7 r1 0 1
u8 r7 0 1 1 1
u1 r7 0 1
u9 r7 0.2 0.8 7
"""
    data(tmp_path / "scp", segments=segments)
    store = make_store(tmp_path / "scp", tmp_path / "segments")
    assert [u.key for u in FeatureStore.open(store).utterances()] == ["u1"]
    reasons = {r["line"]: r["reason"] for r in read_json_lines(store / "rejects.jsonl")}
    assert [reasons[number] for number in range(2, 11)] == [
        *("missing_path", "bad_json", "bad_offset", "bad_offset", "bad_offset"),
        *("unsafe_path", "bad_json", "duplicate_id", "bad_json"),
    ]


def test_relative_paths_start_at_the_base_path_if_one_is_given(tmp_path: Path) -> None:
    (tmp_path / "egs").mkdir()
    shutil.copy(SPEECH, tmp_path / "egs" / "a.wav")
    data(tmp_path / "data", wav_scp=b"rec1 a.wav\n", text=b"rec1 caf\xe9\n")
    store = make_store(tmp_path / "data", tmp_path / "store", base_path=tmp_path / "egs")
    (utterance,) = FeatureStore.open(store).utterances()
    assert (utterance.key, utterance.metadata["text"]) == ("rec1", "caf?")


def test_a_data_folder_comes_before_manifests_and_audio(tmp_path: Path) -> None:
    shutil.copy(SPEECH, tmp_path / "a.wav")
    (tmp_path / "m.jsonl").write_text('{"path": "a.wav"}\n')
    data(tmp_path, wav_scp=b"rec1 a.wav\n")
    assert find_manifests(str(tmp_path))[0].kind == "kaldi"
    assert find_manifests(str(tmp_path), "jsonl")[0].kind == "jsonl"
    (tmp_path / "segments").symlink_to("nowhere")
    with pytest.raises(ManifestError, match="segments: cannot be read"):
        lines_of(tmp_path)

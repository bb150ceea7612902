"""Headers that are wrong about a file whose audio is all there, and those that are not."""

import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from gmmpipe import FeatureStore
from gmmpipe.audio.opener import header_seconds, num_samples, open_audio
from gmmpipe.audio.waveform import Limit, Segment, load_waveform
from gmmpipe.errors import AudioError
from helpers.making import CORPUS, make_store, read_speech
from helpers.processes import run
from helpers.results import read_json_lines

WHOLE = Limit(1e6)
SECONDS = 2.0
FORMATS: dict[str, dict[str, Any]] = {
    "wav": {},
    "wavex": {"format": "WAVEX"},
    "rf64": {"format": "RF64"},
    "w64": {},
    "aiff": {},
    "au": {},
}
HEADERS = {"wav": 44, "wavex": 44, "rf64": 104, "w64": 104, "aiff": 54, "au": 24}
"""How many bytes too much are taken for a header's own, by format."""


def load(path: Path, start: float | None = None, seconds: float | None = None) -> torch.Tensor:
    return load_waveform(str(path), 16000, WHOLE, Segment(start, seconds)).samples


def place_of_size(data: bytes, kind: str) -> tuple[int, str, int]:
    """Where a header says how many bytes of audio there are, in which form, and what beside."""
    if kind == "au":
        return 8, ">I", 0
    if kind == "rf64":
        return 28, "<Q", 0
    if kind == "w64":
        return data.index(b"data") + 16, "<Q", 24
    if kind == "aiff":
        return data.index(b"SSND") + 4, ">I", 8
    return data.index(b"data") + 4, "<I", 0


def with_size(data: bytes, kind: str, change: Callable[[int], int]) -> bytes:
    """The same file with another number of bytes of audio in its header."""
    place, form, beside = place_of_size(data, kind)
    stated = struct.unpack_from(form, data, place)[0] - beside
    assert stated == SECONDS * 32000
    changed = bytearray(data)
    struct.pack_into(form, changed, place, change(stated) + beside)
    return bytes(changed)


def speech(path: Path, kind: str) -> bytes:
    soundfile.write(path, *read_speech(SECONDS), **FORMATS[kind])
    return path.read_bytes()


def path_for(folder: Path, kind: str) -> Path:
    return folder / f"a.{kind.replace('wavex', 'wav')}"


@pytest.mark.parametrize("kind", HEADERS)
def test_a_size_too_large_by_no_more_than_a_header_is_an_error_of_the_writers(
    kind: str, tmp_path: Path
) -> None:
    path = path_for(tmp_path, kind)
    data = speech(path, kind)
    expected = load(path)
    for excess in (1, 2, 13, HEADERS[kind] - 1, HEADERS[kind]):
        path.write_bytes(with_size(data, kind, lambda size, more=excess: size + more))
        assert torch.equal(load(path), expected)
    path.write_bytes(with_size(data, kind, lambda size: size + 1000))
    with pytest.raises(AudioError, match="bytes of audio where"):
        load(path)


@pytest.mark.parametrize("size", [0, "nothing at all"])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_size_of_0_with_audio_behind_is_that_of_a_recorder_that_was_not_closed(
    kind: str, size: int | str, tmp_path: Path
) -> None:
    path = path_for(tmp_path, kind)
    data = speech(path, kind)
    expected = load(path)
    unclosed = bytearray(with_size(data, kind, lambda size: 0))
    if size != 0:  # nor any other size in the header
        place, form, _ = place_of_size(data, kind)
        struct.pack_into(form, unclosed, place, 0)
        if kind in ("wav", "wavex", "aiff"):
            unclosed[4:8] = bytes(4)
        if kind == "aiff":
            comm = data.index(b"COMM")
            unclosed[comm + 10 : comm + 14] = bytes(4)
        if kind == "rf64":
            unclosed[20:44] = bytes(24)
    path.write_bytes(unclosed)
    assert torch.equal(load(path), expected)
    assert torch.equal(load(path, 0.5, 1.0), expected[8000:24000])
    assert header_seconds(str(path)) == SECONDS


KILLED = ("wav", "aiff", "au", "w64", "caf")


def test_what_a_killed_writer_leaves_is_read_as_far_as_it_came(tmp_path: Path) -> None:
    samples = read_speech(SECONDS)[0]
    for kind in KILLED:
        soundfile.write(tmp_path / f"whole.{kind}", samples, 16000)
    code = f"""
import os, soundfile
samples, rate = soundfile.read("whole.wav")
files = [soundfile.SoundFile("killed." + kind, "w", rate, 1) for kind in {KILLED}]
for file in files:
    file.write(samples)
os.kill(os.getpid(), 9)
"""
    done = run([sys.executable, "-c", code], check=False, cwd=tmp_path)
    assert done.returncode == -signal.SIGKILL
    for kind in KILLED:
        killed, whole = tmp_path / f"killed.{kind}", tmp_path / f"whole.{kind}"
        assert torch.equal(load(killed), load(whole)), kind


@pytest.mark.parametrize("kind", KILLED)
def test_an_empty_file_stays_empty(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    soundfile.write(path, read_speech(1.0)[0][:0], 16000)
    assert len(load(path)) == 0
    if kind == "wav":  # with something behind that is not audio
        chunk = b"LIST" + struct.pack("<I", 14) + b"INFOIART\2\0\0\0me"
        path.write_bytes(path.read_bytes() + chunk)
        assert len(load(path)) == 0


@pytest.mark.parametrize("size", [0, 36, 77, 1_000_000, 0xFFFF_FFFF])
@pytest.mark.parametrize("kind", ["wav", "w64"])
def test_the_size_of_the_whole_file_is_nobodys_business(
    kind: str, size: int, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{kind}"
    data = bytearray(speech(path, kind))
    expected = load(path)
    struct.pack_into("<I" if kind == "wav" else "<Q", data, 4 if kind == "wav" else 16, size)
    path.write_bytes(data)
    assert torch.equal(load(path), expected)


def test_such_files_give_the_features_of_the_files_they_should_have_been(
    write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    data = speech(tmp_path / "a.wav", "wav")
    for name, size in (("zero", 0), ("more", 64044), ("lost", 64100)):
        (tmp_path / f"{name}.wav").write_bytes(with_size(data, "wav", lambda _, size=size: size))
    lines = [{"path": f"{name}.wav", "id": name} for name in ("a", "zero", "more", "lost")]
    store = make_store(write_manifest(*lines), tmp_path / "out")
    features = {utt.key: utt.features for utt in FeatureStore.open(store).utterances()}
    assert sorted(features) == ["a", "more", "zero"]
    assert torch.equal(features["a"], features["zero"])
    assert torch.equal(features["a"], features["more"])
    (reject,) = read_json_lines(store / "rejects.jsonl")
    assert (reject["line"], reject["reason"]) == (4, "truncated")


def test_a_flac_of_unstated_length_is_counted_and_may_vanish_before(tmp_path: Path) -> None:
    data = bytearray((CORPUS / "en-cards" / "001.flac").read_bytes())
    data[21:26] = bytes([data[21] & 0xF0]) + bytes(4)  # its header's number of samples
    path = tmp_path / "a.flac"
    path.write_bytes(data)
    assert header_seconds(str(path)) == header_seconds(bytes(data)) == 1.095375
    path = path.rename(tmp_path / "b.flac")  # which was not counted yet
    with open_audio(str(path)) as file:
        path.unlink()
        with pytest.raises(AudioError, match="not_found"):
            num_samples(file, str(path))

"""All of the audio in a file, whatever its header says or is silent about, or a reject."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from gmmpipe import FeatureStore
from gmmpipe.audio.opener import header_seconds
from gmmpipe.audio.waveform import Limit, Segment, load_waveform
from gmmpipe.errors import AudioError
from helpers.making import make_store, read_speech, without_xing
from helpers.results import read_json_lines

WHOLE = Limit(1e6)
VBR: dict[str, Any] = {"bitrate_mode": "VARIABLE", "compression_level": 0.6}
CBR: dict[str, Any] = {"bitrate_mode": "CONSTANT", "compression_level": 0.6}


def speech(path: Path, first: float, seconds: float, rate: int = 16000, **options: Any) -> bytes:
    """A file of real speech, from so many seconds into it; returns its bytes."""
    samples = np.resize(read_speech()[0], int((first + seconds) * rate))[int(first * rate) :]
    soundfile.write(path, samples, rate, **options)
    return path.read_bytes()


def load(path: Path, start: float | None = None, seconds: float | None = None) -> Tensor:
    rate = soundfile.info(path).samplerate
    return load_waveform(str(path), rate, WHOLE, Segment(start, seconds)).samples


def with_frames(data: bytes, change: Callable[[int], int]) -> bytes:
    """An MP3 whose Xing header states another number of frames."""
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    (stated,) = struct.unpack_from(">I", data, at)
    return data[:at] + struct.pack(">I", change(stated)) + data[at + 4 :]


def id3(size: int) -> bytes:
    """An ID3v2 tag with a picture of so many bytes, which hold what looks like frames."""
    picture = b"\0image/jpeg\0\3\0" + (b"\xff\xfb\x90\x64" + bytes(range(256))) * (size // 260)
    frame = b"APIC" + struct.pack(">I", len(picture)) + b"\0\0" + picture
    length = bytes(len(frame) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + length + frame


@pytest.mark.parametrize("rate", [44100, 24000, 16000, 8000])
@pytest.mark.parametrize("options", [VBR, CBR], ids=["VBR", "CBR"])
@pytest.mark.parametrize("front", [b"", id3(3_000_000)], ids=["bare", "picture"])
def test_an_mp3_without_a_xing_header_is_read_to_its_end(
    rate: int, options: dict[str, Any], front: bytes, tmp_path: Path
) -> None:
    plain, bare = tmp_path / "a.mp3", tmp_path / "b.mp3"
    data = speech(plain, 0, 20, rate, **options)
    bare.write_bytes(front + without_xing(data))
    expected, found = load(plain), load(bare)
    # Nobody says any more what the encoder put in front, so that stays: 1,105 samples.
    assert 0 <= len(found) - len(expected) - 1105 < 2 * 1152
    lag = slice(1105, 1105 + len(expected))
    torch.testing.assert_close(found[lag], expected, atol=1e-6, rtol=0)
    assert header_seconds(str(bare)) == pytest.approx(len(found) / rate, abs=0.5)
    segment = load(bare, 11.5, 2.0)
    start = round(11.5 * rate)
    torch.testing.assert_close(segment, found[start : start + 2 * rate], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "change", [lambda n: n // 2, lambda n: 0, lambda n: n - 5], ids=["half", "none", "five less"]
)
def test_a_xing_header_that_states_too_little_is_not_believed(
    change: Callable[[int], int], tmp_path: Path
) -> None:
    plain, lying = tmp_path / "a.mp3", tmp_path / "b.mp3"
    lying.write_bytes(with_frames(speech(plain, 0, 10, **VBR), change))
    torch.testing.assert_close(load(lying), load(plain), atol=1e-6, rtol=0)


def test_a_xing_header_that_states_too_much_is_a_reject(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(with_frames(speech(path, 0, 10, **VBR), lambda n: 2 * n))
    with pytest.raises(AudioError, match="frames where") as error:
        load(path)
    assert error.value.reason == "truncated"


@pytest.mark.parametrize("tail", [b"TAG".ljust(128, b"x"), b"\xff\xfb\x90 junk" * 3000, id3(9000)])
def test_what_stands_behind_an_mp3_changes_nothing(tail: bytes, tmp_path: Path) -> None:
    plain, longer = tmp_path / "a.mp3", tmp_path / "b.mp3"
    longer.write_bytes(speech(plain, 0, 5, **VBR) + tail)
    assert torch.equal(load(longer), load(plain))


@pytest.mark.parametrize("cut", [0.3, 0.5, 0.77])
def test_an_mp3_without_a_xing_header_that_is_cut_off_is_read_as_far_as_it_goes(
    cut: float, tmp_path: Path
) -> None:
    path = tmp_path / "a.mp3"
    data = without_xing(speech(path, 0, 10, 44100, **VBR))
    path.write_bytes(data)
    whole = load(path)
    path.write_bytes(data[: int(len(data) * cut)])
    part = load(path)
    assert 0.1 * len(whole) < len(part) < 0.95 * len(whole)
    torch.testing.assert_close(part, whole[: len(part)], atol=1e-6, rtol=0)


CHAINS: dict[str, tuple[str, dict[str, Any]]] = {
    "vbr mp3": ("mp3", VBR),
    "cbr mp3": ("mp3", CBR),
    "vorbis": ("ogg", {}),
    "opus": ("opus", {"format": "OGG", "subtype": "OPUS"}),
}


@pytest.mark.parametrize("kind", ["tagged mp3", *CHAINS])
def test_files_in_a_row_are_all_of_their_audio(kind: str, tmp_path: Path) -> None:
    ending, options = CHAINS[kind.replace("tagged", "vbr")]
    tag = id3(5000) if "tagged" in kind else b""
    parts = [tmp_path / f"{number}.{ending}" for number in range(3)]
    data = [
        tag + speech(path, *span, **options)
        for path, span in zip(parts, [(0, 4), (4, 5), (2, 3)], strict=True)
    ]
    path = tmp_path / f"all.{ending}"
    path.write_bytes(b"".join(data))
    expected = torch.cat([load(part) for part in parts])
    assert len(expected) == 12 * 16000
    assert header_seconds(str(path)) == 12.0
    torch.testing.assert_close(load(path), expected, atol=1e-6, rtol=0)
    for start, seconds in ((0.0, 1.0), (3.5, 1.0), (4.0, 5.0), (8.25, 2.0), (11.0, 1.0)):
        first, count = round(start * 16000), round(seconds * 16000)
        there = expected[first : first + count]
        error = (load(path, start, seconds) - there).square().sum()
        assert error <= (1e-3 if kind == "opus" else 1e-12) * there.square().sum()


@pytest.mark.parametrize("kind", CHAINS)
def test_files_in_a_row_that_are_unlike_are_a_reject(
    kind: str, write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    ending, options = CHAINS[kind]
    data = speech(tmp_path / f"a.{ending}", 0, 4, 16000, **options)
    data += speech(tmp_path / f"b.{ending}", 0, 4, 24000, **options)
    (tmp_path / f"c.{ending}").write_bytes(data)
    lines = ({"path": f"a.{ending}", "id": "good"}, {"path": f"c.{ending}"})
    store = make_store(write_manifest(*lines), tmp_path / "out")
    (reject,) = read_json_lines(store / "rejects.jsonl")
    assert reject["reason"] == "undecodable"
    assert "unlike formats" in reject["detail"]
    assert [utterance.key for utterance in FeatureStore.open(store).utterances()] == ["good"]

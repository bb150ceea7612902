"""MPEG audio in other shapes than a bare MP3: in a WAV, and of the layers I and II."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from gmmpipe.audio.opener import header_seconds
from gmmpipe.audio.waveform import Limit, Segment, load_waveform
from gmmpipe.errors import AudioError
from helpers.making import read_speech

WHOLE = Limit(1e6)


def load(path: Path, start: float | None = None, seconds: float | None = None) -> Tensor:
    rate = soundfile.info(path).samplerate
    return load_waveform(str(path), rate, WHOLE, Segment(start, seconds)).samples


def assert_segments_fit(path: Path, whole: Tensor, rate: int) -> None:
    for seconds in (0.0, 0.7, 3.21, 7.5):
        start = round(seconds * rate)
        segment = load(path, seconds, 1.0)
        torch.testing.assert_close(segment, whole[start : start + rate], atol=1e-6, rtol=0)


def mp3(path: Path, mode: str, seconds: float = 10, rate: int = 44100) -> bytes:
    """An MP3 of real speech; returns its bytes."""
    options: Any = {"bitrate_mode": mode, "compression_level": 0.6}
    soundfile.write(path, np.resize(read_speech()[0], int(seconds * rate)), rate, **options)
    return path.read_bytes()


def without_tag(data: bytes) -> bytes:
    """An MP3 without its first frame, which is a Xing header's."""
    return data[data.find(data[:2], max(data.find(b"Xing"), data.find(b"Info"))) :]


def in_wav(data: bytes, rate: int = 44100, stated: int | None = None) -> bytes:
    """A WAV around an MP3, with a chunk behind it."""
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, rate, 8000, 1152, 0, 12, 1, 2, 1152, 1, 1393)
    size = struct.pack("<I", len(data) if stated is None else stated)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"fact\4\0\0\0\0\0\0\0"
    body += b"data" + size + data + b"\0" * (len(data) % 2)
    body += b"LIST\x10\0\0\0INFOISFT\4\0\0\0abc\0"
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("tag", [True, False], ids=["tag", "none"])
@pytest.mark.parametrize("stated", [None, 0, 0xFFFF_FFFF], ids=["closed", "unclosed", "streamed"])
def test_an_mp3_in_a_wav_is_what_it_is_alone(
    mode: str, tag: bool, stated: int | None, tmp_path: Path
) -> None:
    bare, path = tmp_path / "a.mp3", tmp_path / "a.wav"
    data = mp3(bare, mode)
    bare.write_bytes(data if tag else without_tag(data))
    path.write_bytes(in_wav(bare.read_bytes(), stated=stated))
    expected, found = load(bare), load(path)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert header_seconds(str(path)) == len(found) / 44100
    assert_segments_fit(path, found, 44100)


def test_mp3s_in_a_row_in_a_wav_are_all_of_their_audio(tmp_path: Path) -> None:
    parts = [tmp_path / "a.mp3", tmp_path / "b.mp3"]
    data = [mp3(parts[0], "VARIABLE", 5), mp3(parts[1], "VARIABLE", 7)]
    path = tmp_path / "all.wav"
    path.write_bytes(in_wav(b"".join(data)))
    expected = torch.cat([load(part) for part in parts])
    torch.testing.assert_close(load(path), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_an_mp3_in_a_wav_that_is_cut_off_is_truncated(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    data = in_wav(without_tag(mp3(tmp_path / "a.mp3", mode)))
    path.write_bytes(data[: len(data) * 3 // 5])
    with pytest.raises(AudioError, match="bytes of audio where") as error:
        load(path)
    assert error.value.reason == "truncated"


def frame(layer: int, mono_kbps: int, random: np.random.Generator, padded: bool) -> bytes:
    """A frame of noise in the lowest subband, 24 kHz, of MPEG-2's layer I or II."""
    kbps = {1: (0, 32, 48, 56, 64, 80, 96, 112, 128), 2: (0, 8, 16, 24, 32, 40, 48, 56, 64)}[layer]
    third = kbps.index(mono_kbps) << 4 | 0x04 | padded << 1
    length = mono_kbps * 12000 // 24000 * 4 if layer == 1 else mono_kbps * 144000 // 24000
    length += padded * (4 if layer == 1 else 1)
    # 4 bits a sample in the one subband; a scale factor each, or three; no checksum.
    samples = "".join(f"{value:04b}" for value in random.integers(0, 15, 12 if layer == 1 else 36))
    if layer == 1:
        bits = "0011" + "0" * 4 * 31 + f"{12:06b}" + samples
    else:
        bits = "0101" + "0" * (4 * 3 + 3 * 7 + 2 * 19) + "00" + f"{12:06b}" * 3 + samples
    payload = int(bits.ljust(-len(bits) % 8 + len(bits), "0"), 2).to_bytes((len(bits) + 7) // 8)
    head = bytes([0xFF, 0xF7 if layer == 1 else 0xF5, third, 0xC0])
    return (head + payload).ljust(length, b"\0")


def layer_file(layer: int, seconds: float, rates: tuple[int, ...], padded: str = "none") -> bytes:
    """Frames of noise, of these bit rates in turn."""
    random = np.random.default_rng(layer)
    number = round(seconds * 24000 / {1: 384, 2: 1152}[layer])
    pads = {"none": lambda at: False, "first": lambda at: at == 0, "rest": lambda at: at > 0}
    return b"".join(
        frame(layer, rates[at % len(rates)], random, pads[padded](at)) for at in range(number)
    )


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("rates", [(64,), (48, 64, 56)], ids=str)
@pytest.mark.parametrize("padded", ["none", "first", "rest"])
def test_layers_one_and_two_are_read_to_their_end(
    layer: int, rates: tuple[int, ...], padded: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.mp3"
    tag = b"ID3\3\0\0\0\0\2\0".ljust(266, b"\xff")
    path.write_bytes(tag + layer_file(layer, 12, rates, padded) + b"TAG" * 40)
    assert soundfile.info(path).subtype == f"MPEG_LAYER_{'I' * layer}"
    whole = load(path)
    assert len(whole) == 12 * 24000
    assert whole[-2000:].std() > 1e-3  # sound, up to the end
    assert header_seconds(str(path)) == 12.0
    assert_segments_fit(path, whole, 24000)


@pytest.mark.parametrize("layer", [1, 2])
def test_layers_one_and_two_are_what_the_decoder_says(layer: int, tmp_path: Path) -> None:
    path = tmp_path / "a.mp2"
    path.write_bytes(layer_file(layer, 9, (64,)))
    expected = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    assert torch.equal(load(path), expected)


def test_a_file_whose_length_the_decoder_cannot_be_told_is_a_reject(tmp_path: Path) -> None:
    path = tmp_path / "a.mp2"
    path.write_bytes(layer_file(2, 1, (64,)) + layer_file(2, 9, (16,)))
    with pytest.raises(AudioError, match="bit rates") as error:
        load(path)
    assert error.value.reason == "undecodable"

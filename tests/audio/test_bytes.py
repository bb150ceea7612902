"""The bytes of a file, held in memory, give what the file gives."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from gmmpipe.audio.opener import header_seconds
from gmmpipe.audio.waveform import Limit, Segment, load_waveform
from gmmpipe.errors import AudioError
from helpers.making import read_speech, without_xing

FORMATS: dict[str, dict[str, Any]] = {
    "wav": {"format": "WAV", "subtype": "PCM_16"},
    "float wav": {"format": "WAV", "subtype": "FLOAT"},
    "flac": {"format": "FLAC"},
    "mp3": {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.6},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "aiff": {"format": "AIFF"},
    "w64": {"format": "W64"},
}


def without_length(flac: bytes) -> bytes:
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


def never_closed(wav: bytes) -> bytes:
    return wav[:4] + bytes(4) + wav[8:40] + bytes(4) + wav[44:]


SHAPES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "MP3 without a length": ("mp3", without_xing),
    "MP3s in a row": ("mp3", lambda data: data + without_xing(data)),
    "Ogg files in a row": ("vorbis", lambda data: data + data),
    "FLAC without a length": ("flac", without_length),
    "WAV that was never closed": ("wav", never_closed),
}
DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "no audio": ("wav", lambda data: b"text"),
    "nothing": ("wav", lambda data: b""),
    "WAV cut short": ("wav", lambda data: data[:-9000]),
    "FLAC cut short": ("flac", lambda data: data[:-9000]),
    "MP3 cut short": ("mp3", lambda data: data[: len(data) // 3]),
}


def speech(path: Path, kind: str) -> bytes:
    """Three seconds of real stereo speech in a file; returns its bytes."""
    left = np.resize(read_speech()[0], 3 * 48000)
    samples = np.stack([left, np.roll(left, 9000)], 1)
    soundfile.write(path, samples, 48000, **FORMATS[kind])
    return path.read_bytes()


def assert_same(path: Path) -> None:
    for segment in (None, Segment(0.7, 1.1), Segment(channel=1), Segment(None, 1.0)):
        for limit in (Limit(99), Limit(0.5, crop_seed="x"), Limit(0.6, "split", "", 1, 3)):
            from_file = load_waveform(str(path), 16000, limit, segment)
            from_bytes = load_waveform(path.read_bytes(), 16000, limit, segment)
            assert torch.equal(from_bytes.samples, from_file.samples)
            assert replace(from_bytes, samples=from_file.samples) == from_file
    assert header_seconds(path.read_bytes()) == header_seconds(str(path)) > 0


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format(kind: str, tmp_path: Path) -> None:
    speech(tmp_path / "a", kind)
    assert_same(tmp_path / "a")


@pytest.mark.parametrize("shape", SHAPES)
def test_all_of_the_audio_in_a_file_of_an_odd_shape(shape: str, tmp_path: Path) -> None:
    kind, change = SHAPES[shape]
    path = tmp_path / "a"
    path.write_bytes(change(speech(path, kind)))
    assert_same(path)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_the_same_reject(damage: str, tmp_path: Path) -> None:
    kind, change = DAMAGE[damage]
    path = tmp_path / "a"
    path.write_bytes(change(speech(path, kind)))
    said = []
    for recording in (str(path), path.read_bytes()):
        with pytest.raises(AudioError) as error:
            load_waveform(recording, 16000, Limit(99))
        said.append((error.value.reason, error.value.detail))
    assert said[0] == said[1]

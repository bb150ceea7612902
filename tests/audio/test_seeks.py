"""A segment is what the file decoded whole has there, also in formats with a memory."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from gmmpipe.audio.waveform import Limit, Segment, load_waveform
from helpers.making import read_speech

WHOLE = Limit(1e6)
DECODER_NOISE = 1e-6


def speech(seconds: float, channels: int = 1) -> np.ndarray:
    """Real speech, float64 [S, channels]; the channels are alike in part, as in most stereo."""
    samples = np.resize(read_speech()[0], int(seconds * 16000))
    return np.stack([samples, 0.5 * samples + 0.3 * np.roll(samples, 999)], 1)[:, :channels]


def load(path: Path, start: int, count: int | None, rate: int) -> Tensor:
    """Samples [start, start + count) as a line with an offset gives them."""
    seconds = None if count is None else count / rate
    return load_waveform(str(path), rate, WHOLE, Segment(start / rate, seconds)).samples


def segments(length: int, rate: int, number: int) -> list[tuple[int, int]]:
    """Random ones, and some next to both ends."""
    random = np.random.default_rng(0)
    starts = random.integers(0, length - rate, number).tolist()
    starts[:4] = [0, 1, rate // 10, length - rate]
    return [(start, int(random.integers(rate // 4, rate))) for start in starts]


def farthest(path: Path, rate: int, number: int = 100) -> float:
    """The largest difference of any segment from the whole file's samples there."""
    whole = load(path, 0, None, rate)
    assert len(whole) > 10 * rate
    cuts = segments(len(whole), rate, number)
    found = [
        (load(path, start, count, rate), whole[start : start + count]) for start, count in cuts
    ]
    assert all(segment.shape == expected.shape for segment, expected in found)
    return max(float((segment - expected).abs().max()) for segment, expected in found)


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("rate", [44100, 16000])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_segment_of_an_mp3_lacks_nothing_that_earlier_frames_hold(
    mode: str, rate: int, channels: int, tmp_path: Path
) -> None:
    # A frame may take its bits from frames before it: half a second of them is decoded first.
    path = tmp_path / "a.mp3"
    seconds = 30 if rate == 16000 else 60  # of 16 kHz
    options: Any = {"bitrate_mode": mode, "compression_level": 0.6}
    soundfile.write(path, speech(seconds, channels), rate, **options)
    assert farthest(path, rate) <= DECODER_NOISE


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.ogg", {"subtype": "VORBIS"}),
        ("a.flac", {}),
        ("a.wav", {"subtype": "IMA_ADPCM"}),
        ("a.wav", {"subtype": "MS_ADPCM"}),
        ("a.wav", {"subtype": "GSM610"}),
        ("a.wav", {"subtype": "G721_32"}),
        ("a.wav", {"subtype": "NMS_ADPCM_32"}),
        ("a.w64", {"subtype": "IMA_ADPCM"}),
        ("a.w64", {"subtype": "MS_ADPCM"}),
        ("a.w64", {"subtype": "GSM610"}),
        ("a.aiff", {"subtype": "IMA_ADPCM"}),
        ("a.aiff", {"subtype": "GSM610"}),
        ("a.aiff", {"subtype": "DWVW_16"}),
        ("a.au", {"subtype": "G723_40"}),
        ("a.caf", {"subtype": "ALAC_16"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get("subtype", ""),
)
def test_a_segment_of_any_other_format_with_a_memory_is_exact(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    soundfile.write(tmp_path / name, speech(12), 16000, **options)
    assert farthest(tmp_path / name, 16000, 30) == 0.0


@pytest.mark.parametrize("level", [0.0, 0.97])
def test_a_segment_of_opus_differs_by_less_than_the_codec_errs(
    level: float, tmp_path: Path
) -> None:
    # Its speech mode never forgets quite where it began, however early one seeks.
    path = tmp_path / "a.opus"
    options: Any = {"format": "OGG", "subtype": "OPUS", "compression_level": level}
    soundfile.write(path, speech(20), 16000, **options)
    whole = load(path, 0, None, 16000)
    for start, count in segments(len(whole), 16000, 30):
        segment, expected = load(path, start, count, 16000), whole[start : start + count]
        error = (segment - expected).square().mean()
        assert error <= 1e-3 * expected.square().mean()  # 30 dB, at the right place


@pytest.mark.parametrize("long_audio", ["crop", "split"])
def test_crops_and_windows_go_the_same_way_as_segments(
    long_audio: Literal["crop", "split"], tmp_path: Path
) -> None:
    path = tmp_path / "a.mp3"
    options: Any = {"bitrate_mode": "VARIABLE", "compression_level": 0.6}
    soundfile.write(path, speech(40), 44100, **options)
    whole = load(path, 0, None, 44100)
    for number in range(12):
        window = (number, 12) if long_audio == "split" else (0, 1)
        found = load_waveform(str(path), 44100, Limit(1.1, long_audio, str(number), *window))
        start = round(found.start_seconds * 44100)
        expected = whole[start : start + len(found.samples)]
        torch.testing.assert_close(found.samples, expected, atol=DECODER_NOISE, rtol=0)

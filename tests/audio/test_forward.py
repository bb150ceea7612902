"""Parts of a recording that is opened once are those of a recording opened for each part."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from gmmpipe.audio import forward
from gmmpipe.audio.open_recording import OpenRecording
from gmmpipe.audio.opener import open_audio
from gmmpipe.audio.segment import Limit, Segment
from gmmpipe.audio.waveform import load_waveform
from gmmpipe.errors import AudioError
from helpers.making import read_speech

RATE = 16000
WHOLE = Limit(1e6)
MP3_NOISE = 1e-6
"""An MP3 decoded from its beginning is that of half a second of lead up to roundings."""


def write_speech(path: Path, seconds: float, channels: int = 2, **options: Any) -> Path:
    samples = np.resize(read_speech()[0], int(seconds * RATE))
    both = np.stack([samples, 0.5 * samples + 0.3 * np.roll(samples, 999)], 1)[:, :channels]
    soundfile.write(path, both, RATE, **options)
    return path


def without_length(path: Path) -> Path:
    """A FLAC's header as that of one written to a pipe: it states no length."""
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    path.write_bytes(content)
    with open_audio(str(path)) as file:
        assert not file.can_seek
    return path


def segments(seconds: float) -> list[Segment]:
    """Segments in a row, apart, far apart, within one another, equal, and of one channel."""
    random = np.random.default_rng(0)
    found = [Segment(0.0, 1.0), Segment(1.0, 0.5), Segment(1.5, 3.0), Segment(2.0, 0.25)]
    found += [Segment(2.0, 0.25), Segment(2.0, 0.25, channel=0), Segment(4.0, 2.0, channel=1)]
    found += [Segment(float(s), 1.0) for s in random.uniform(6, seconds - 1.5, 30)]
    return [*found, Segment(seconds - 1.0, 1.0), Segment(seconds - 0.5)]


def in_order(path: Path, parts: list[Segment]) -> list[Tensor]:
    """What is loaded of a recording that is opened once."""
    opened = OpenRecording(str(path))
    found = sorted(((opened.part(WHOLE, part), part) for part in parts), key=start_of)
    tensors = []
    for (part, segment), after in zip(found, [*found[1:], (None, None)], strict=True):
        opened.keep_from(after[0])
        tensors.append(opened.load(part, RATE, WHOLE, segment).samples)
    opened.close()
    return tensors


def start_of(pair: tuple[Any, Segment]) -> int:
    return int(pair[0].span.start)


def one_by_one(path: Path, parts: list[Segment]) -> list[Tensor]:
    parts = sorted(parts, key=lambda part: round((part.offset_seconds or 0.0) * RATE))
    return [load_waveform(str(path), RATE, WHOLE, part).samples for part in parts]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.wav", {}),
        ("a.wav", {"subtype": "FLOAT"}),
        ("a.flac", {}),
        ("a.flac", {"subtype": "PCM_24"}),
        ("a.ogg", {"subtype": "VORBIS"}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.wav", {"subtype": "IMA_ADPCM"}),
        ("a.wav", {"subtype": "GSM610", "channels": 1}),
        ("a.aiff", {"subtype": "DWVW_16", "channels": 1}),
        ("a.caf", {"subtype": "ALAC_16"}),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get("subtype", ""),
)
@pytest.mark.parametrize("longest_skip", [0.0, 10.0])
def test_parts_in_order_have_the_bits_of_parts_one_by_one(
    name: str,
    options: dict[str, Any],
    longest_skip: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forward, "LONGEST_SKIP_SECONDS", longest_skip)
    path = write_speech(tmp_path / name, 60, **options)
    channels = options.get("channels", 2)
    parts = [part for part in segments(60) if (part.channel or 0) < channels]
    for found, expected in zip(in_order(path, parts), one_by_one(path, parts), strict=True):
        torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_a_flac_without_a_length_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = without_length(write_speech(tmp_path / "a.flac", 60))
    expected = one_by_one(path, segments(60))
    opened: list[object] = []
    monkeypatch.setattr(
        forward, "open_audio", lambda recording: opened.append(recording) or open_audio(recording)
    )
    for found, whole in zip(in_order(path, segments(60)), expected, strict=True):
        torch.testing.assert_close(found, whole, atol=0, rtol=0)
    assert opened == [str(path)]


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
def test_an_mp3_is_decoded_once_and_differs_by_roundings(mode: str, tmp_path: Path) -> None:
    path = write_speech(tmp_path / "a.mp3", 60, bitrate_mode=mode, compression_level=0.6)
    whole = load_waveform(str(path), RATE, WHOLE).samples
    parts = [part for part in segments(60) if part.channel is None]
    for found, expected in zip(in_order(path, parts), one_by_one(path, parts), strict=True):
        torch.testing.assert_close(found, expected, atol=MP3_NOISE, rtol=0)
    starts = sorted(round((part.offset_seconds or 0) * RATE) for part in parts)
    for start, found in zip(starts, in_order(path, parts), strict=True):
        torch.testing.assert_close(found, whole[start : start + len(found)], atol=0, rtol=0)


@pytest.mark.parametrize("name", ["a.mp3", "a.flac"])
def test_the_bits_do_not_depend_on_what_was_read_before(name: str, tmp_path: Path) -> None:
    path = write_speech(tmp_path / name, 60)
    if name == "a.flac":
        without_length(path)
    parts = [part for part in segments(60) if part.channel is None]
    late = [part for part in parts if (part.offset_seconds or 0) > 30]
    expected = in_order(path, parts)[-len(late) :]
    for found, whole in zip(in_order(path, late), expected, strict=True):
        torch.testing.assert_close(found, whole, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["a.mp3", "a.wav"])
def test_what_is_held_ends_where_decoding_goes_on(name: str, tmp_path: Path) -> None:
    path = write_speech(tmp_path / name, 60)
    whole = load_waveform(str(path), RATE, WHOLE).samples
    opened = OpenRecording(str(path))
    random = np.random.default_rng(1)
    starts = np.sort(random.uniform(0, 55, 80)).round(2).tolist()
    row = [Segment(start, float(random.uniform(0.1, 4))) for start in starts]
    for number, segment in enumerate(row):
        part = opened.part(WHOLE, segment)
        is_last_of_shard = number % 7 == 6 or number + 1 == len(row)
        opened.keep_from(None if is_last_of_shard else opened.part(WHOLE, row[number + 1]))
        found = opened.load(part, RATE, WHOLE, segment).samples
        expected = whole[part.span.start : part.span.start + len(found)]
        torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_only_what_the_next_part_shares_is_held(tmp_path: Path) -> None:
    path = write_speech(tmp_path / "a.mp3", 60)
    opened = OpenRecording(str(path))
    row = [Segment(float(start), 2.0) for start in range(58)]
    parts = [opened.part(WHOLE, segment) for segment in row]
    for number, (part, segment) in enumerate(zip(parts, row, strict=True)):
        opened.keep_from(parts[number + 1] if number + 1 < len(parts) else None)
        opened.load(part, RATE, WHOLE, segment)
        assert sum(map(len, opened._file._held)) <= 2 * RATE


def test_a_part_behind_damage_is_what_it_is_by_itself(tmp_path: Path) -> None:
    path = write_speech(tmp_path / "a.flac", 60)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20000] = bytes(20000)
    path.write_bytes(content)
    opened = OpenRecording(str(path))
    outcomes = []
    for start in range(0, 60, 2):
        segment = Segment(float(start), 2.0)
        part = opened.part(WHOLE, segment)
        results = []
        for load in (
            lambda part=part, segment=segment: opened.load(part, RATE, WHOLE, segment),
            lambda segment=segment: load_waveform(str(path), RATE, WHOLE, segment),
        ):
            try:
                results.append(load().samples)
            except AudioError as error:
                results.append((error.reason, error.detail))
        outcomes.append(isinstance(results[0], tuple))
        if outcomes[-1]:
            assert results[0] == results[1]
        else:
            torch.testing.assert_close(results[0], results[1], atol=0, rtol=0)
    assert any(outcomes)
    assert not outcomes[0]
    assert not outcomes[-1]

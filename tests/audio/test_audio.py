"""One file to one waveform: what torchaudio would give, or a slice of it."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from torch import Tensor

from gmmpipe import FeatureStore
from gmmpipe.audio.opener import header_seconds
from gmmpipe.audio.waveform import Limit, Segment, Waveform, load_waveform
from gmmpipe.errors import AudioError
from helpers.making import make_store, read_speech


def load(
    path: Path,
    offset: float | None = None,
    duration: float | None = None,
    max_seconds: float = 15.0,
    key: str = "k",
    seed: int = 0,
) -> Waveform:
    limit = Limit(max_seconds, crop_seed=f"crop/{seed}/{key}")
    return load_waveform(str(path), 16000, limit, Segment(offset, duration))


def read(path: Path) -> Tensor:
    """The file's samples as soundfile gives them, float32 [channels, S]."""
    return torch.from_numpy(soundfile.read(path, dtype="float32", always_2d=True)[0].T)


def stereo(seconds: float) -> np.ndarray:
    """Two different channels of real speech."""
    left = read_speech(2 * seconds)[0]
    return left.reshape(2, -1).T


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 22050, 24000, 44100, 48000, 96000, 192000])
@pytest.mark.parametrize("channels", [1, 2])
def test_resampling_is_torchaudios(rate: int, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, stereo(2.0)[:, :channels], rate)
    waveform = load(path)
    expected = torchaudio.functional.resample(read(path).mean(0), rate, 16000)
    assert waveform.resampler == "sinc"
    assert waveform.samples.shape == expected.shape
    assert (waveform.samples - expected).abs().max() <= 1e-6


def test_at_the_stores_own_rate_nothing_is_resampled(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", *read_speech(2.0))
    waveform = load(tmp_path / "a.flac")
    assert waveform.resampler == "none"
    assert torch.equal(waveform.samples, read(tmp_path / "a.flac")[0])


@pytest.mark.parametrize("rate", [44101, 15991])
def test_a_ratio_without_small_terms_goes_through_soxr_and_the_json_says_so(
    rate: int, write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    speech = read_speech()[0][: 2 * rate]
    soundfile.write(tmp_path / "odd.wav", speech, rate, subtype="FLOAT")
    soundfile.write(tmp_path / "even.wav", speech, 48000)
    waveform = load(tmp_path / "odd.wav")
    assert waveform.resampler == "soxr"
    assert len(waveform.samples) == 32000
    # Two seconds as one period: cutting its spectrum resamples it exactly, but for the ends.
    spectrum = np.fft.rfft(speech)
    spectrum = np.pad(spectrum, (0, max(0, 16001 - len(spectrum))))[:16001]
    ideal = np.fft.irfft(spectrum, 32000)[3200:-3200] * 16000 / rate
    error = waveform.samples.numpy()[3200:-3200] - ideal
    assert np.square(error).mean() < 1e-2 * np.square(ideal).mean()

    store = make_store(write_manifest({"path": "odd.wav"}, {"path": "even.wav"}), tmp_path / "out")
    said = {u.key: u.metadata.get("resampler") for u in FeatureStore.open(store).utterances()}
    assert said == {"0000000001-odd": "soxr", "0000000002-even": None}


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_channels_are_averaged_and_integers_read_as_floats_would_be(
    channels: int, tmp_path: Path
) -> None:
    samples = read_speech(3.0)[0].reshape(-1, 3)[:, :channels]
    for name, subtype in [("i.wav", "PCM_16"), ("f.wav", "FLOAT")]:
        soundfile.write(tmp_path / name, samples, 16000, subtype=subtype)
    as_floats = read(tmp_path / "i.wav")
    waveform = load(tmp_path / "i.wav").samples
    assert torch.equal(waveform, load_floats(tmp_path, as_floats))
    torch.testing.assert_close(waveform, as_floats.mean(0), atol=1e-7, rtol=0)


def load_floats(folder: Path, samples: Tensor) -> Tensor:
    """The same values from a float file, whose reading takes another path."""
    soundfile.write(folder / "same.wav", samples.T.numpy(), 16000, subtype="FLOAT")
    return load(folder / "same.wav").samples


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "DOUBLE", "ULAW", "ALAW"])
def test_every_common_encoding_is_read_as_soundfile_reads_it(subtype: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", *read_speech(1.0), subtype=subtype)
    assert torch.equal(load(tmp_path / "a.wav").samples, read(tmp_path / "a.wav")[0])


@pytest.mark.parametrize("extension", ["flac", "ogg", "mp3", "aiff", "au", "caf"])
def test_every_common_container_is_read_as_soundfile_reads_it(
    extension: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a.{extension}"
    soundfile.write(path, *read_speech(1.0))
    assert torch.equal(load(path).samples, read(path)[0])


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "gsm.wav"])
@pytest.mark.parametrize(("offset", "duration"), [(0.0, 0.5), (0.725, 1.0), (1.5, None)])
def test_a_segment_is_the_slice_of_the_file(
    name: str, offset: float, duration: float | None, tmp_path: Path
) -> None:
    subtype = "GSM610" if name == "gsm.wav" else None  # this one cannot seek
    soundfile.write(tmp_path / name, read_speech(2.0)[0], 8000, subtype=subtype)
    whole = read(tmp_path / name)[0]
    start = round(offset * 8000)
    stop = len(whole) if duration is None else start + round(duration * 8000)
    waveform = load(tmp_path / name, offset, duration)
    expected = torchaudio.functional.resample(whole[start:stop], 8000, 16000)
    torch.testing.assert_close(waveform.samples, expected, atol=1e-6, rtol=0)
    assert waveform.start_seconds == offset


def test_a_duration_without_an_offset_does_not_cut(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", *read_speech(3.0))
    assert len(load(tmp_path / "a.wav", None, 1.0).samples) == 48000


@pytest.mark.parametrize(("offset", "duration"), [(None, None), (1.0, 4.0)])
def test_a_crop_lies_inside_and_depends_on_seed_and_key_alone(
    offset: float | None, duration: float | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, *read_speech(6.0))
    whole = read(path)[0]
    first, last = (offset or 0.0), (offset or 0.0) + (duration or 6.0) - 1.5
    places = set()
    for seed in range(3):
        for key in ("k", "l", "m"):
            crop = load(path, offset, duration, 1.5, key, seed)
            start = round(crop.start_seconds * 16000)
            assert first <= crop.start_seconds <= last
            assert torch.equal(crop.samples, whole[start : start + 24000])
            assert (crop.kept_seconds, crop.cropped_seconds) == (1.5, (duration or 6.0) - 1.5)
            again = load(path, offset, duration, 1.5, key, seed)
            assert again.start_seconds == crop.start_seconds
            places.add(start)
    assert len(places) == 9
    soundfile.write(tmp_path / "b.wav", *read_speech(6.0))  # another name, the same key
    assert load(tmp_path / "b.wav", offset, duration, 1.5, "m", 2).start_seconds == start / 16000


def test_crops_are_spread_over_the_whole_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", *read_speech(4.0))
    starts = [
        load(tmp_path / "a.wav", max_seconds=1.0, key=f"k{n}").start_seconds for n in range(80)
    ]
    assert np.histogram(starts, bins=4, range=(0.0, 3.0))[0].min() > 5


def test_an_utterance_of_the_greatest_length_is_not_cropped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", *read_speech(2.0))
    exact = load(tmp_path / "a.wav", max_seconds=2.0)
    assert (len(exact.samples), exact.start_seconds, exact.cropped_seconds) == (32000, 0.0, 0.0)


@pytest.mark.parametrize("claim", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_F000, 0x8000_0000])
def test_a_wav_written_to_a_pipe_is_read_to_its_end(claim: int, tmp_path: Path) -> None:
    # Such writers cannot go back and fill in the length.
    path = tmp_path / "a.wav"
    soundfile.write(path, *read_speech(1.0))
    data = bytearray(path.read_bytes())
    assert data[36:40] == b"data"
    data[4:8] = struct.pack("<I", min(claim + 36, 0xFFFF_FFFF))
    data[40:44] = struct.pack("<I", claim)
    path.write_bytes(data)
    assert len(load(path).samples) == 16000


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_a_flac_written_to_a_pipe_is_read_like_any_other(subtype: str, tmp_path: Path) -> None:
    plain, piped = tmp_path / "a.flac", tmp_path / "b.flac"
    soundfile.write(plain, *read_speech(5.0), subtype=subtype)
    data = bytearray(plain.read_bytes())
    data[21] &= 0xF0  # its header's number of samples, 36 bits, which such writers leave at 0
    data[22:26] = bytes(4)
    piped.write_bytes(data)
    for offset, duration, max_seconds in ((None, None, 15.0), (None, None, 1.5), (3.25, 1.0, 15.0)):
        expected = load(plain, offset, duration, max_seconds)
        found = load(piped, offset, duration, max_seconds)
        assert torch.equal(found.samples, expected.samples)
        assert found.start_seconds == expected.start_seconds
        assert found.cropped_seconds == expected.cropped_seconds
    assert header_seconds(str(piped)) == 5.0
    with pytest.raises(AudioError, match="beyond the file's end"):
        load(piped, 5.5)
    piped.write_bytes(data[: len(data) // 2])
    with pytest.raises(AudioError):
        load(piped, 0.0, 5.0)


def test_the_offset_in_the_json_is_where_the_window_begins(
    write_manifest: Callable[..., Path], tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", *read_speech(5.0))
    lines = [
        {"path": "a.wav", "id": "s", "offset": 0.5, "duration": 4.0},
        {"path": "a.wav", "id": "w"},
    ]
    store = make_store(write_manifest(*lines), tmp_path / "out", max_seconds=2.0, seed=3)
    for utterance in FeatureStore.open(store).utterances():
        segment = (0.5, 4.0) if utterance.key == "s" else (None, None)
        crop = load(tmp_path / "a.wav", *segment, 2.0, utterance.key, 3)
        assert utterance.metadata["offset"] == crop.start_seconds
        assert utterance.metadata["num_samples"] == 32000
    totals = json.loads((store / "store.json").read_text())["totals"]
    assert (totals["seconds_kept"], totals["seconds_cropped"]) == (4.0, 2.0 + 3.0)

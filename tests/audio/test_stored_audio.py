"""--store_audio flac keeps the waveform, exactly where that can be, and changes no feature."""

from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import webdataset as wds
import zarr

from gmmpipe import FeatureStore, LogMel
from helpers.making import CORPUS, make_store, read_speech


def samples_of(store: Path) -> Iterator[dict]:
    """Each sample of the store, its JSON and array decoded, its FLAC as bytes."""
    shards = sorted(map(str, store.glob("shard-*.tar")))
    for sample in wds.WebDataset(shards, shardshuffle=False):
        metadata = wds.autodecode.basichandlers("json", sample["json"])
        frames = torch.from_numpy(np.load(BytesIO(sample["logmel.npy"])))
        yield {"json": metadata, "frames": frames, "flac": sample["flac"]}


def read_flac(data: bytes) -> tuple[np.ndarray, str]:
    samples, rate = soundfile.read(BytesIO(data), dtype="float32")
    assert rate == 16000
    return samples, soundfile.info(BytesIO(data)).subtype


def test_features_from_the_stored_audio_are_those_stored(audio_stores: dict[str, Path]) -> None:
    log_mel = LogMel(FeatureStore.open(audio_stores["tar"]).features)
    beyond = values = exact = 0
    for sample in samples_of(audio_stores["tar"]):
        samples, subtype = read_flac(sample["flac"])
        again = log_mel(torch.from_numpy(samples * np.float32(sample["json"]["audio_scale"])))
        stored = sample["frames"].float()
        difference = (again.half().float() - stored).abs()
        if subtype == "PCM_16":
            exact += 1
            assert float(difference.max()) == 0.0
            continue
        ulp = 2.0 ** (torch.floor(torch.log2(stored.abs().clamp_min(2.0**-14))) - 10)
        beyond += int((difference > ulp).sum())
        values += difference.numel()
        assert float(difference.max()) <= 0.02
    assert exact == 38  # the corpus' 16 kHz flac files
    assert beyond <= 1e-3 * values


def test_a_16_bit_mono_source_is_kept_to_the_bit(audio_stores: dict[str, Path]) -> None:
    compared = 0
    for sample in samples_of(audio_stores["tar"]):
        source, rate = soundfile.read(CORPUS / sample["json"]["wav_path"], dtype="int16")
        if rate == 16000:
            compared += 1
            assert np.array_equal(soundfile.read(BytesIO(sample["flac"]), dtype="int16")[0], source)
    assert compared == 38


def test_features_do_not_depend_on_it(audio_stores: dict[str, Path], tmp_path: Path) -> None:
    plain = FeatureStore.open(make_store(CORPUS, tmp_path / "plain", utterances_per_shard=40))
    with_audio = FeatureStore.open(audio_stores["tar"])
    count = plain.num_frames
    assert torch.equal(plain.read_frames(0, count), with_audio.read_frames(0, count))


def test_zarr_holds_the_same_audio(audio_stores: dict[str, Path]) -> None:
    files = []
    for shard in sorted(audio_stores["zarr"].glob("shard-*.zarr")):
        group = zarr.open(shard, mode="r")
        data, bounds = group["flac"][:].tobytes(), group["flac_offsets"][:].tolist()
        files += [data[begin:end] for begin, end in pairwise(bounds)]
    assert files == [sample["flac"] for sample in samples_of(audio_stores["tar"])]


@pytest.mark.parametrize(("peak", "scale"), [(0.3, 1.0), (0.999, 1.0), (1.0, 2.0), (2.5, 4.0)])
def test_loud_audio_is_scaled_by_a_power_of_two_rather_than_clipped(
    peak: float, scale: float, tmp_path: Path, write_manifest: Callable[..., Path]
) -> None:
    speech, rate = read_speech(2.0)
    loud = (speech / np.abs(speech).max() * peak).astype(np.float32)
    soundfile.write(tmp_path / "loud.wav", loud, rate, subtype="FLOAT")
    manifest = write_manifest({"path": "loud.wav"})
    (sample,) = samples_of(make_store(manifest, tmp_path / "store", store_audio="flac"))
    assert sample["json"]["audio_scale"] == scale
    stored, subtype = read_flac(sample["flac"])
    assert subtype == "PCM_24"
    assert np.abs(stored * scale - loud).max() <= scale * 2.0**-24

"""Utterances at random from either kind of shard: exact, or refused by name."""

import os
import re
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import webdataset as wds

from gmmpipe import FeatureStore
from gmmpipe.errors import StoreError
from gmmpipe.store.shard_reader import ShardReader
from helpers.damage import edit_document, flip
from helpers.making import make_store, read_speech


def readers_of(path: Path) -> list[ShardReader]:
    store = FeatureStore.open(path)
    return [ShardReader(shard) for shard in store.shards]


@pytest.mark.parametrize("kind", ["tar", "zarr"])
def test_frames_are_those_of_the_store_in_any_order(kind: str, audio_stores) -> None:
    expected = {utt.key: utt.features for utt in FeatureStore.open(audio_stores[kind]).utterances()}
    for reader in readers_of(audio_stores[kind]):
        for position in reversed(range(len(reader.index.keys))):
            frames = reader.read_frames(position)
            assert frames.dtype == torch.float32
            assert torch.equal(frames, expected.pop(reader.index.keys[position]))
    assert not expected


@pytest.mark.parametrize("kind", ["tar", "zarr"])
def test_waveforms_are_the_stored_samples_times_their_scale(kind: str, audio_stores) -> None:
    shards = str(audio_stores["tar"] / "shard-{000000..000001}.tar")
    samples = list(wds.WebDataset(shards, shardshuffle=False))
    readers = readers_of(audio_stores[kind])
    found = [
        (reader.index.keys[at], reader.read_waveform(at))
        for reader in readers
        for at in range(len(reader.index.keys))
    ]
    assert [key for key, _ in found] == [sample["__key__"] for sample in samples]
    for (_, waveform), sample in zip(found, samples, strict=True):
        scale = wds.autodecode.basichandlers("json", sample["json"])["audio_scale"]
        stored = soundfile.read(BytesIO(sample["flac"]), dtype="float64")[0] * scale
        assert waveform.dtype == torch.float32
        assert np.array_equal(waveform.double().numpy(), stored)


def test_loud_audio_comes_back_as_loud(tmp_path, write_manifest) -> None:
    speech, rate = read_speech(2.0)
    loud = (speech / np.abs(speech).max() * 2.5).astype(np.float32)
    soundfile.write(tmp_path / "loud.wav", loud, rate, subtype="FLOAT")
    manifest = write_manifest({"path": "loud.wav"})
    (reader,) = readers_of(make_store(manifest, tmp_path / "store", store_audio="flac"))
    assert np.abs(reader.read_waveform(0).numpy() - loud).max() <= 4 * 2.0**-24


def test_a_flipped_byte_anywhere_in_the_frames_is_found(audio_stores, tmp_path) -> None:
    path = Path(shutil.copytree(audio_stores["tar"], tmp_path / "copy"))
    reader = readers_of(path)[0]
    flip(path / "shard-000000.tar", int(reader.index.byte_offset[3]) + 1001)
    with pytest.raises(StoreError, match=rf"shard-000000\.tar.*{reader.index.keys[3]}"):
        reader.read_frames(3)
    reader.read_frames(2)


@pytest.mark.parametrize("kind", ["tar", "zarr"])
def test_a_flipped_byte_in_the_audio_is_found(kind: str, audio_stores, tmp_path) -> None:
    """At many places of the FLAC, of which no CRC is recorded: the same samples, or an error."""
    path = Path(shutil.copytree(audio_stores[kind], tmp_path / "copy"))
    reader = readers_of(path)[0]
    intact, key = reader.read_waveform(5), reader.index.keys[5]
    file = path / ("shard-000000.tar" if kind == "tar" else "shard-000000.zarr/flac/c/0")
    content = file.read_bytes()
    start = content.index(b"fLaC", int(reader.index.byte_offset[4]) if kind == "tar" else 0)
    if kind == "zarr":
        offsets = file.parents[2] / "flac_offsets" / "c" / "0"
        start = int(np.frombuffer(offsets.read_bytes(), dtype="<i8")[5])
    refused = 0
    for at in [*range(42), *range(42, 5000, 97)]:
        flip(file, start + at, 1 << at % 8)
        try:
            assert torch.equal(reader.read_waveform(5), intact)
        except StoreError as error:
            assert f"shard-000000.{kind}" in str(error)  # noqa: PT017
            assert key in str(error)  # noqa: PT017
            refused += 1
        flip(file, start + at, 1 << at % 8)
    assert refused >= 70


@pytest.mark.parametrize(
    ("text", "bit", "message"),
    [
        (rb'"audio_scale":1', 2, "3.0, not a power of two"),
        (rb'"audio_scale', 1, "audio_scale"),
        (rb'"num_samples":\d', 1, "samples, not"),
        (rb'"key":"0', 1, "is that of another"),
        (rb'"key"', 1, "Expecting"),
    ],
)
def test_json_that_is_not_that_of_its_audio_is_refused(text, bit, message, audio_stores, tmp_path):
    path = Path(shutil.copytree(audio_stores["tar"], tmp_path / "copy"))
    file = path / "shard-000000.tar"
    found = re.search(text, file.read_bytes())
    assert found is not None
    flip(file, found.end() - 1, bit)
    with pytest.raises(StoreError, match=r"shard-000000\.tar: the JSON of .*checksum differs"):
        readers_of(path)[0].read_waveform(0)
    # And in a store of an earlier version, which has no checksum of it.
    sidecar = path / "shard-000000.json"
    edit_document(sidecar, lambda document: document["index"].pop("json_crc32c"))
    edit_document(path / "store.json", lambda info: info["shards"][0].pop("sidecar_sha256"))
    with pytest.raises(StoreError, match=rf"shard-000000\.tar: the (audio|JSON) of .*{message}"):
        readers_of(path)[0].read_waveform(0)


@pytest.mark.parametrize("kind", ["tar", "zarr"])
def test_a_missing_or_truncated_shard_is_named(kind: str, audio_stores, tmp_path) -> None:
    path = Path(shutil.copytree(audio_stores[kind], tmp_path / "copy"))
    reader = readers_of(path)[0]
    for name in ("shard-000000.tar",) if kind == "tar" else ("flac/c/0", "json/c/0"):
        file = path / name if kind == "tar" else path / "shard-000000.zarr" / name
        os.truncate(file, 2000)
        with pytest.raises(StoreError, match=r"shard-000000.*damaged or truncated"):
            reader.read_waveform(39)
        file.unlink()
        with pytest.raises(StoreError, match=r"shard-000000.*cannot be read: No such file"):
            reader.read_waveform(39)


def test_a_store_without_audio_says_how_to_get_one(store: Path) -> None:
    with pytest.raises(StoreError, match=r"holds no audio; .*--store_audio flac"):
        readers_of(store)[0].read_waveform(0)

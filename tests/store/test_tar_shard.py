"""A finished store, byte by byte, as a stranger without gmmpipe would read it."""

import hashlib
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import soundfile
import torch
import torchaudio
import webdataset

from gmmpipe.audio.resample import resample
from gmmpipe.store.tar_writer import _tar_header
from helpers.making import CORPUS, make_store
from helpers.results import file_bytes


@pytest.fixture(scope="module")
def float32_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("float32")
    return make_store(CORPUS, folder / "store", dtype="float32", utterances_per_shard=30)


def documents(store: Path) -> tuple[dict[str, Any], list[tuple[Path, dict[str, Any]]]]:
    """store.json, and each shard with its sidecar."""
    shards = sorted(store.glob("shard-*.tar"))
    sidecars = [json.loads(path.with_suffix(".json").read_text()) for path in shards]
    return json.loads((store / "store.json").read_text()), list(zip(shards, sidecars, strict=True))


@pytest.mark.parametrize(
    ("name", "size"), [("a.json", 0), ("k.flac", 12345), (f"{'x' * 87}.logmel.npy", 8**11 - 1)]
)
def test_a_tar_header_is_tarfiles_own(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert _tar_header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard, "r:") as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def waveform_of(wav_path: str) -> torch.Tensor:
    """Resampled as the store does it: within 1e-6 of torchaudio's, which frames near 0 amplify."""
    samples, rate = soundfile.read(CORPUS / wav_path, dtype="float32")
    ours, _ = resample(torch.from_numpy(samples), rate, 16000)
    theirs = torchaudio.functional.resample(torch.from_numpy(samples), rate, 16000)
    assert float((ours - theirs).abs().max()) <= 1e-6
    return ours


def frames_of(waveform: torch.Tensor) -> np.ndarray:
    transform = torchaudio.transforms.MelSpectrogram(16000, 400, hop_length=320, n_mels=80)
    return torch.log(transform(waveform) + 1e-6).T[: len(waveform) // 320].numpy()


def samples_of(store: Path) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Every sample's JSON and array."""
    found = []
    for shard, sidecar in documents(store)[1]:
        content = members(shard)
        for key in sidecar["index"]["keys"]:
            array = np.load(io.BytesIO(content[f"{key}.logmel.npy"]), allow_pickle=False)
            found.append((json.loads(content[f"{key}.json"]), array))
    return found


def test_float32_frames_are_torchaudios(float32_store: Path) -> None:
    samples = samples_of(float32_store)
    assert len(samples) == 56
    for metadata, array in samples:
        waveform = waveform_of(metadata["wav_path"])
        assert array.dtype == np.dtype("<f4")
        assert metadata["num_samples"] == len(waveform)
        assert np.abs(array - frames_of(waveform)).max() <= 1e-5


def test_float16_frames_are_torchaudios_within_one_unit_in_the_last_place(store: Path) -> None:
    samples = samples_of(store)
    assert len(samples) == 56
    for metadata, array in samples:
        expected = frames_of(waveform_of(metadata["wav_path"]))
        assert array.dtype == np.dtype("<f2")
        ulp = np.spacing(np.abs(expected).astype(np.float16)).astype(np.float32)
        assert (np.abs(array.astype(np.float32) - expected) <= ulp + 1e-5).all()


def test_the_members_are_two_a_sample_sorted_plain_ustar_without_a_time(store: Path) -> None:
    for shard, sidecar in documents(store)[1]:
        keys = sidecar["index"]["keys"]
        assert keys == sorted(keys)
        with tarfile.open(shard, "r:") as archive:
            entries = archive.getmembers()
        names = [entry.name for entry in entries]
        assert names == [f"{key}.{part}" for key in keys for part in ("json", "logmel.npy")]
        raw = shard.read_bytes()
        for entry in entries:
            assert entry.isreg()
            assert not entry.pax_headers
            assert (entry.mtime, entry.uid, entry.gid) == (0, 0, 0)
            assert (entry.uname, entry.gname) == ("", "")
            assert raw[entry.offset + 257 : entry.offset + 265] == b"ustar\x0000"
        assert len(raw) % tarfile.RECORDSIZE == 0


def test_the_index_says_where_the_raw_arrays_lie_and_what_their_crc_is(store: Path) -> None:
    for shard, sidecar in documents(store)[1]:
        raw, content, index = shard.read_bytes(), members(shard), sidecar["index"]
        columns = [index[name] for name in ("keys", "num_frames", "byte_offset", "crc32c")]
        for key, num_frames, offset, crc in zip(*columns, strict=True):
            array = np.load(io.BytesIO(content[f"{key}.logmel.npy"]), allow_pickle=False)
            assert array.flags.c_contiguous
            assert array.shape == (num_frames, 80)
            assert raw[offset : offset + array.nbytes] == array.tobytes()
            assert google_crc32c.value(array.tobytes()) == crc


def test_the_sidecar_and_store_json_agree_with_the_files(store: Path) -> None:
    info, shards = documents(store)
    assert [row["name"] for row in info["shards"]] == [shard.name for shard, _ in shards]
    for row, (shard, sidecar) in zip(info["shards"], shards, strict=True):
        raw = shard.read_bytes()
        assert row == {
            "name": shard.name,
            "utterances": len(sidecar["index"]["keys"]),
            "frames": sum(sidecar["index"]["num_frames"]),
            "bytes": len(raw),
            "sha256": hashlib.sha256(raw).hexdigest(),
            "sidecar_sha256": hashlib.sha256(shard.with_suffix(".json").read_bytes()).hexdigest(),
        }
        assert {**row, **sidecar, "sidecar_sha256": row["sidecar_sha256"]} == {**sidecar, **row}
    samples = [metadata for metadata, _ in samples_of(store)]
    totals = info["totals"]
    assert totals["lines"] == totals["utterances"] == len(samples) == 56
    assert totals["rejects"] == 0
    assert totals["frames"] == sum(metadata["num_frames"] for metadata in samples)
    assert totals["bytes"] == sum(len(shard.read_bytes()) for shard, _ in shards)
    seconds = sum(soundfile.info(CORPUS / m["wav_path"]).duration for m in samples)
    assert totals["seconds_kept"] == totals["seconds_in"] == pytest.approx(seconds, abs=1e-4)


def test_the_fingerprint_is_that_of_the_features(store: Path, float32_store: Path) -> None:
    info = documents(store)[0]
    canonical = json.dumps(info["features"], sort_keys=True, separators=(",", ":"))
    assert info["fingerprint"] == hashlib.sha256(canonical.encode()).hexdigest()
    assert info["fingerprint"] == documents(float32_store)[0]["fingerprint"]  # dtype is no part
    assert (info["format_version"], info["kind"]) == (1, "features")


def test_each_json_holds_what_the_manifest_carried_and_where_it_stood(store: Path) -> None:
    lines = [json.loads(line) for line in (CORPUS / "manifest.jsonl").read_text().splitlines()]
    for metadata, array in samples_of(store):
        line = lines[metadata["line"] - 1]
        stem = re.sub("[^A-Za-z0-9_-]+", "_", Path(line["wav_path"]).stem)[:40]
        assert metadata == {
            **line,
            "key": f"{metadata['line']:010d}-{stem}",
            "id": None,
            "manifest": "manifest.jsonl",
            "line": metadata["line"],
            "num_frames": len(array),
            "num_samples": metadata["num_samples"],
            "sample_rate": 16000,
            "offset": 0.0,
        }


def test_every_json_file_is_canonical_and_ascii(store: Path) -> None:
    files = file_bytes(store)
    texts = [data for name, data in files.items() if name.endswith((".json", ".jsonl"))]
    texts += [
        data
        for shard, _ in documents(store)[1]
        for name, data in members(shard).items()
        if name.endswith(".json")
    ]
    for text in texts:
        for line in text.decode("ascii").splitlines():
            canonical = json.dumps(json.loads(line), sort_keys=True, separators=(",", ":"))
            assert line == canonical


def test_nothing_but_the_store_is_left_and_nothing_names_the_machine(store: Path) -> None:
    files = file_bytes(store)
    stems = [f"shard-{number:06d}" for number in range(4)]
    shards = {f"{stem}.{ending}" for stem in stems for ending in ("tar", "json")}
    assert set(files) == {"store.json", "rejects.jsonl"} | shards
    words = [str(store.parent), str(CORPUS.parent), ".tmp-", "/root", "/home", "num_workers"]
    for name, data in files.items():
        for word in words:
            assert word.encode() not in data, (name, word)


def test_webdataset_reads_the_shards_with_equal_values(store: Path) -> None:
    urls = [str(shard) for shard, _ in documents(store)[1]]
    read = webdataset.WebDataset(urls, shardshuffle=False).decode()
    count = 0
    for sample, (metadata, array) in zip(read, samples_of(store), strict=True):
        assert sample["__key__"] == metadata["key"]
        assert sample["json"] == metadata
        assert sample["logmel.npy"].dtype == np.float16
        np.testing.assert_array_equal(sample["logmel.npy"], array)
        count += 1
    assert count == 56

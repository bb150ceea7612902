"""FeatureStore: every frame in order, and never one that is not what was written."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from gmmpipe import FeatureConfig, FeatureStore
from gmmpipe.errors import StoreError
from helpers.damage import edit_document, flip
from helpers.making import CORPUS, make_store, read_speech


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short utterances in shards of two, the middle shard with rejects alone."""
    folder = tmp_path_factory.mktemp("small")
    lines = []
    for number, seconds in enumerate([0.1, 0.05, 0.0, 0.0, 0.02, 0.07]):
        soundfile.write(folder / f"{number}.wav", *read_speech(seconds or 0.001))
        lines.append(json.dumps({"path": f"{number}.wav"}) + "\n")
    (folder / "m.jsonl").write_text("".join(lines))
    return make_store(folder, folder / "out", shuffle=False, utterances_per_shard=2)


@pytest.fixture(scope="module")
def other_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo corpus in float32, in one shard."""
    return make_store(CORPUS, tmp_path_factory.mktemp("other") / "store", dtype="float32")


def all_frames(store: FeatureStore) -> torch.Tensor:
    return torch.cat([utterance.features for utterance in store.utterances()])


def row_of(store: Path, number: int, utterance: int) -> tuple[Path, int]:
    """A shard, and where the raw array of one of its utterances begins."""
    sidecar = json.loads((store / f"shard-{number:06d}.json").read_text())
    return store / f"shard-{number:06d}.tar", sidecar["index"]["byte_offset"][utterance]


def test_a_store_knows_its_size_and_its_frames(store: Path) -> None:
    opened = FeatureStore.open(store)
    totals = json.loads((store / "store.json").read_text())["totals"]
    assert (len(opened), opened.num_frames) == (totals["utterances"], totals["frames"])
    assert opened.dim == 80
    assert opened.dtype == torch.float16
    assert opened.features == FeatureConfig()
    assert opened.frames_per_shard.sum() == opened.num_frames


def test_utterances_come_in_shard_order_with_their_json(store: Path) -> None:
    keys = [
        key
        for path in sorted(store.glob("shard-*.json"))
        for key in json.loads(path.read_text())["index"]["keys"]
    ]
    utterances = list(FeatureStore.open(store).utterances())
    assert [utterance.key for utterance in utterances] == keys
    for utterance in utterances:
        assert utterance.metadata["key"] == utterance.key
        assert utterance.features.dtype == torch.float32
        assert utterance.features.shape == (utterance.metadata["num_frames"], 80)


def test_every_range_of_frames_is_that_of_the_utterances_joined(small_store: Path) -> None:
    opened = FeatureStore.open(small_store)
    assert opened.frames_per_shard.tolist() == [7, 0, 4]
    joined = all_frames(opened)
    for start in range(12):
        for stop in range(start, 12):
            assert torch.equal(opened.read_frames(start, stop), joined[start:stop])


def test_ranges_across_shards_of_real_size_are_exact(store: Path) -> None:
    opened = FeatureStore.open(str(store))
    joined = all_frames(opened)
    for boundary in np.cumsum(opened.frames_per_shard)[:-1].tolist():
        for start, stop in [(boundary - 1, boundary + 1), (boundary, boundary + 500)]:
            assert torch.equal(opened.read_frames(start, stop), joined[start:stop])
    assert torch.equal(opened.read_frames(0, opened.num_frames), joined)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (0, 12), (12, 12)])
def test_a_range_outside_the_store_is_an_index_error(
    start: int, stop: int, small_store: Path
) -> None:
    with pytest.raises(IndexError, match=f"{start} to {stop} of a store of 11"):
        FeatureStore.open(small_store).read_frames(start, stop)


def test_several_stores_are_numbered_through(
    store: Path, small_store: Path, other_store: Path
) -> None:
    paths = [store, small_store, other_store]
    joined = FeatureStore.open(", ".join(map(str, paths)).replace(", ", ","))
    parts = [FeatureStore.open(path) for path in paths]
    assert len(joined) == sum(map(len, parts))
    assert joined.num_frames == sum(part.num_frames for part in parts)
    assert joined.dtype == torch.float32  # holds float16 too
    assert len(set(joined.digests)) == 3
    expected = torch.cat([part.read_frames(0, part.num_frames) for part in parts])
    assert torch.equal(joined.read_frames(0, joined.num_frames), expected)
    keys = [utterance.key for part in parts for utterance in part.utterances()]
    assert [utterance.key for utterance in joined.utterances()] == keys


def test_stores_of_other_features_are_refused_together(store: Path, tmp_path: Path) -> None:
    other = make_store(CORPUS, tmp_path / "other", features=FeatureConfig(n_mels=40))
    with pytest.raises(StoreError, match=r"other: its features \(fingerprint .* are not those of"):
        FeatureStore.open(f"{store},{other}")


def test_what_is_no_finished_store_is_refused_with_a_remedy(
    store_copy: Path, tmp_path: Path
) -> None:
    (store_copy / "store.json").unlink()
    with pytest.raises(StoreError, match=r"not a finished .* run the same gmmpipe featurize"):
        FeatureStore.open(store_copy)
    with pytest.raises(StoreError, match="nowhere: no such feature store"):
        FeatureStore.open(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="no feature store given"):
        FeatureStore.open(" , ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"format_version":1', b'"format_version":2', "not of format version 1"),
        (b'"kind":"features"', b'"kind":"labels"', "a store of labels, not of features"),
        (b'"n_mels":80', b'"n_mels":79', "fingerprint is not that of the features"),
        (b'"shards"', b'"shreds"', "not a feature store"),
        (b"}\n", b"", "cannot be read"),
    ],
)
def test_a_store_json_that_is_not_ours_is_refused(
    old: bytes, new: bytes, message: str, store_copy: Path
) -> None:
    path = store_copy / "store.json"
    text = path.read_bytes()
    assert old in text
    path.write_bytes(text.replace(old, new))
    with pytest.raises(
        StoreError, match=r"store.json: (damaged: its checksum|cannot be read|not of)"
    ):
        FeatureStore.open(store_copy)
    if new:  # as one who means it would have it
        edit_document(path, lambda document: None)
    with pytest.raises(StoreError, match=f"store.json: .*{message}"):
        FeatureStore.open(store_copy)


def flip_a_byte(store: Path) -> None:
    path, offset = row_of(store, 2, 5)
    flip(path, offset + 777)


def flip_the_last_byte(store: Path) -> None:
    sidecar = json.loads((store / "shard-000002.json").read_text())
    path, offset = row_of(store, 2, -1)
    flip(path, offset + sidecar["index"]["num_frames"][-1] * 160 - 1)


def truncate(store: Path) -> None:
    path, offset = row_of(store, 2, -1)
    os.truncate(path, offset + 100)


def empty(store: Path) -> None:
    os.truncate(store / "shard-000002.tar", 0)


def remove(store: Path) -> None:
    (store / "shard-000002.tar").unlink()


def swap(store: Path, *endings: str) -> None:
    for ending in endings:
        a, b = (store / f"shard-00000{number}.{ending}" for number in (2, 3))
        a.rename(store / "aside")
        b.rename(a)
        (store / "aside").rename(b)


def swap_within(store: Path) -> None:
    """The raw arrays of two utterances change places: each is whole, but not where it belongs."""
    sidecar = json.loads((store / "shard-000002.json").read_text())["index"]
    count = min(sidecar["num_frames"][:2]) * 160
    path = store / "shard-000002.tar"
    data = bytearray(path.read_bytes())
    a, b = sidecar["byte_offset"][:2]
    data[a : a + count], data[b : b + count] = data[b : b + count], data[a : a + count]
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "flipped byte": flip_a_byte,
    "flipped last byte": flip_the_last_byte,
    "truncated shard": truncate,
    "empty shard": empty,
    "missing shard": remove,
    "shards exchanged": lambda store: swap(store, "tar"),
    "shards exchanged with their sidecars": lambda store: swap(store, "tar", "json"),
    "sidecars exchanged": lambda store: swap(store, "json"),
    "arrays exchanged": swap_within,
    "missing sidecar": lambda store: (store / "shard-000002.json").unlink(),
    "half a sidecar": lambda store: os.truncate(store / "shard-000002.json", 300),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_never_read_in_silence_and_names_the_shard(damage: str, store_copy: Path) -> None:
    DAMAGES[damage](store_copy)
    opened = FeatureStore.open(store_copy)
    first = opened.frames_per_shard[:2].sum()
    assert opened.read_frames(0, first).isfinite().all()  # what is whole can still be read
    with pytest.raises(StoreError, match="shard-000002"):
        opened.read_frames(0, opened.num_frames)
    with pytest.raises(StoreError, match="shard-000002"):
        list(opened.utterances())


def test_one_frame_of_a_damaged_utterance_is_enough_to_find_the_damage(store_copy: Path) -> None:
    path, offset = row_of(store_copy, 0, 0)
    flip(path, offset)  # in its first frame
    opened = FeatureStore.open(store_copy)
    count = json.loads((store_copy / "shard-000000.json").read_text())["index"]["num_frames"][0]
    with pytest.raises(StoreError, match=r"shard-000000\.tar: utterance .* is corrupt"):
        opened.read_frames(count - 1, count)  # its last
    assert len(opened.read_frames(count, count + 1)) == 1


def test_samples_that_the_index_does_not_know_are_found(store_copy: Path) -> None:
    # A flipped byte in a tar header or in a name harms no frame, but a sample's JSON would go.
    path = store_copy / "shard-000001.tar"
    data = path.read_bytes()
    at = data.index(b".json\0", 20_000)
    flip(path, at - 1)
    with pytest.raises(StoreError, match=r"shard-000001\.tar"):
        list(FeatureStore.open(store_copy).utterances())


def test_a_store_made_anew_in_its_place_is_read_anew(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    for number, hop in enumerate((320, 160)):
        shutil.rmtree(folder, ignore_errors=True)
        make_store(CORPUS, folder, features=FeatureConfig(hop_length=hop))
        opened = FeatureStore.open(folder)
        assert len(opened.read_frames(0, opened.num_frames)) == opened.num_frames
        assert (opened.num_frames > 12_000) == bool(number)

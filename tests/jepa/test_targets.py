"""Targets: the mixture's posteriors, whole or the top k, computed here or from a label store."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from runs import SIZES, assert_same, load, rows_of

from gmmpipe import FeatureConfig, FeatureStore, GradientGMM, LabelStore
from gmmpipe.apply.label import LabelOptions, label
from gmmpipe.errors import CheckpointError, StoreError
from gmmpipe.jepa import JEPABatches
from helpers.damage import edit_document, flip
from helpers.making import alone, make_store, read_speech


def test_targets_are_the_posteriors_of_the_frames(store: Path, gmm_path: Path) -> None:
    gmm = GradientGMM.load(gmm_path)
    frames = {utt.key: utt.features for utt in FeatureStore.open(store).utterances()}
    for temperature in (1.0, 4.0):
        batches = load(JEPABatches(store, gmm_path, **SIZES, temperature=temperature))
        for key, length, batch, row in rows_of(batches):
            targets = batch.targets
            assert targets is not None
            assert targets.shape == (*batch.mask.shape, gmm.K)
            posteriors = gmm.soft_assign(frames[key], temperature)
            assert torch.equal(targets[row, :length], posteriors)
            assert not targets[row, length:].any()


def test_top_k_are_the_largest_posteriors(store: Path, gmm_path: Path) -> None:
    full = load(JEPABatches(store, gmm_path, **SIZES))
    for whole, some in zip(full, load(JEPABatches(store, gmm_path, **SIZES, top_k=3)), strict=True):
        assert some.targets is None
        assert some.topk_ids is not None
        assert whole.targets is not None
        assert (some.topk_ids.dtype, some.topk_ids.shape) == (torch.int64, (*some.mask.shape, 3))
        assert torch.equal(whole.targets.gather(2, some.topk_ids), some.topk_probs)
        assert torch.equal(some.topk_probs, whole.targets.sort(2, descending=True).values[..., :3])


@pytest.fixture(scope="module")
def label_stores(store: Path, gmm_path: Path, tmp_path_factory) -> dict[int | None, Path]:
    """Label stores of `store` by their top k."""
    folder = tmp_path_factory.mktemp("labels")
    stores = {top_k: folder / f"top-{top_k}" for top_k in (None, 3)}
    for top_k, path in stores.items():
        label(LabelOptions(store, gmm_path, path, top_k), alone())
    return stores


def test_a_label_store_gives_its_top_k(store: Path, gmm_path: Path, label_stores) -> None:
    stored = load(JEPABatches(store, labels=label_stores[3], **SIZES), num_workers=2)
    made = load(JEPABatches(store, gmm_path, **SIZES, top_k=3))
    for one, other in zip(stored, made, strict=True):
        assert one.keys == other.keys
        assert one.topk_ids is not None
        assert one.topk_probs is not None
        assert (one.topk_ids.dtype, one.topk_probs.dtype) == (torch.int64, torch.float32)
        assert torch.equal(one.topk_probs, other.topk_probs.half().float())
        distinct = other.topk_probs > 1e-6  # below, several components may share a probability
        assert torch.equal(one.topk_ids[distinct], other.topk_ids[distinct])
        assert not one.topk_probs[one.padding_mask].any()
        assert not one.topk_ids[one.padding_mask].any()


def test_a_label_store_without_top_k_gives_its_labels(store, gmm_path, label_stores) -> None:
    gmm = GradientGMM.load(gmm_path)
    for _, length, batch, row in rows_of(load(JEPABatches(store, labels=label_stores[None]))):
        assert batch.topk_ids is not None
        labels = gmm.assign(batch.features[row, :, :length].t())
        assert torch.equal(batch.topk_ids[row, :length, 0], labels)
        assert torch.equal(batch.topk_probs[row, :, 0], (~batch.padding_mask[row]).float())


def test_labels_of_several_stores_follow_them(store, store_copy, label_stores, gmm_path) -> None:
    joined, labels = f"{store},{store_copy}", f"{label_stores[3]},{label_stores[3]}"
    sizes = {"batch_size": 16, "window": 48}
    stored = load(JEPABatches(joined, labels=labels, **sizes))
    made = load(JEPABatches(joined, gmm_path, top_k=3, **sizes))
    for one, other in zip(stored, made, strict=True):
        assert torch.equal(one.topk_probs, other.topk_probs.half().float())


def test_labels_that_do_not_belong_to_the_store_are_refused(
    store: Path, audio_stores: dict[str, Path], label_stores, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match="labels of other feature stores"):
        JEPABatches(audio_stores["tar"], labels=label_stores[3])
    with pytest.raises(StoreError, match="several models, or made with other options"):
        JEPABatches(f"{store},{store}", labels=f"{label_stores[3]},{label_stores[None]}")
    with pytest.raises(StoreError, match="a store of features, not of labels"):
        JEPABatches(store, labels=store)
    path = Path(shutil.copytree(label_stores[3], tmp_path / "copy"))
    sidecar = path / "shard-000002.json"

    def rename_the_last(document: dict[str, Any]) -> None:
        document["index"]["keys"][-1] += "x"

    edit_document(sidecar, rename_the_last)
    edit_document(path / "store.json", lambda document: document["shards"][2].pop("sidecar_sha256"))
    with pytest.raises(StoreError, match=r"shard-000002\.tar: its utterances are not those"):
        load(JEPABatches(store, labels=path))


def test_a_flipped_byte_in_a_label_store_is_named(store, label_stores, tmp_path) -> None:
    path = Path(shutil.copytree(label_stores[3], tmp_path / "copy"))
    shard = LabelStore.open(path).shards[0]
    index = shard.sidecar().further["topk_probs"]
    flip(shard.path, int(index.byte_offset[1]) + 5)
    with pytest.raises(StoreError, match=rf"shard-000000\.tar.*{index.keys[1]}.*corrupt"):
        load(JEPABatches(store, labels=path))


def test_a_mixture_may_be_a_module_too(store: Path, gmm_path: Path) -> None:
    module = GradientGMM.load(gmm_path)
    batches = load(JEPABatches(FeatureStore.open(store), module, **SIZES), num_workers=2)
    assert_same(batches, load(JEPABatches(store, gmm_path, **SIZES)))


def test_a_mixture_of_other_features_is_refused(
    gmm_path: Path, tmp_path: Path, write_manifest
) -> None:
    soundfile.write(tmp_path / "a.wav", *read_speech(2.0))
    manifest = write_manifest({"path": "a.wav"})
    other = make_store(manifest, tmp_path / "other", features=FeatureConfig(n_fft=512))
    with pytest.raises(CheckpointError, match=r"gmm\.pt: .*features"):
        JEPABatches(other, gmm_path)
    with pytest.raises(CheckpointError, match=r"the mixture: .*features"):
        JEPABatches(other, GradientGMM.load(gmm_path))

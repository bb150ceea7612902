"""`LabelStore`: labels at random, checked, and only ever those of the right feature store."""

import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch

from gmmpipe import FeatureStore, GradientGMM, LabelStore
from gmmpipe.apply.label import LabelOptions, label
from gmmpipe.errors import StoreError
from helpers.damage import flip
from helpers.making import CORPUS, alone, make_store
from helpers.results import file_bytes


@pytest.fixture(scope="module")
def labelled(store: Path, fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The label store of the demo store, top 4; not to be changed."""
    folder = tmp_path_factory.mktemp("labelled") / "labels"
    options = LabelOptions(store=store, gmm_path=fitted, output_dir=folder, top_k=4)
    label(options, alone())
    return folder


@pytest.fixture
def labelled_copy(labelled: Path, tmp_path: Path) -> Path:
    """A label store that a test may damage."""
    return Path(shutil.copytree(labelled, tmp_path / "labelled_copy"))


def test_any_utterance_of_any_shard_has_its_labels(store, fitted, labelled) -> None:
    labels, opened = LabelStore.open(labelled), FeatureStore.open(store)
    labels.check_source(opened)
    assert (len(labels), labels.num_frames) == (len(opened), opened.num_frames)
    gmm = GradientGMM.load(fitted)
    positions = [(n, at) for n, s in enumerate(opened.shards) for at in range(s.row.utterances)]
    for (shard, position), utterance in reversed(
        list(zip(positions, opened.utterances(), strict=True))
    ):
        found = labels.read_utterance(shard, position)
        posteriors = gmm.soft_assign(utterance.features)
        assert torch.equal(found.labels, gmm.assign(utterance.features))
        assert torch.equal(found.topk_probs, posteriors.topk(4).values.half().float())
        assert (found.labels.dtype, found.topk_ids.dtype) == (torch.int64, torch.int64)


def test_any_range_of_frames_has_its_labels(store, fitted, labelled) -> None:
    labels, shard = LabelStore.open(labelled), FeatureStore.open(store).shards[1]
    frames = torch.empty(900, 80)
    shard.read_frames(123, 1023, frames)
    found = labels.read(1, 123, 1023)
    assert torch.equal(found.labels, GradientGMM.load(fitted).assign(frames))
    assert found.topk_ids.shape == found.topk_probs.shape == (900, 4)
    assert labels.read(1, 5, 5).labels.shape == (0,)
    with pytest.raises(IndexError, match="frames 0 to"):
        labels.read(1, 0, shard.row.frames + 1)


def test_without_top_k_there_are_labels_alone(store, fitted, tmp_path) -> None:
    options = LabelOptions(store=store, gmm_path=fitted, output_dir=tmp_path / "l")
    assert label(options, alone()).left_out_mass is None
    found = LabelStore.open(tmp_path / "l").read_utterance(2, 3)
    assert found.topk_ids is None
    assert found.topk_probs is None


def test_it_goes_to_loader_workers(labelled) -> None:
    there = pickle.loads(pickle.dumps(LabelStore.open(labelled)))
    assert len(there.read_utterance(0, 0).labels) > 0


def test_a_swapped_sidecar_is_found(labelled_copy) -> None:
    shutil.copy(labelled_copy / "shard-000001.json", labelled_copy / "shard-000002.json")
    with pytest.raises(StoreError, match=r"shard-000002\.json: .*that of shard-000001\.tar"):
        LabelStore.open(labelled_copy).read_utterance(2, 0)


def test_the_labels_of_another_store_are_refused(labelled, tmp_path) -> None:
    other = FeatureStore.open(make_store(CORPUS, tmp_path / "other", utterances_per_shard=20))
    with pytest.raises(StoreError, match=f"{labelled}: the labels of another feature store"):
        LabelStore.open(labelled).check_source(other)


def test_what_reads_the_other_kind_of_store_says_so(store, store_copy, labelled_copy) -> None:
    with pytest.raises(StoreError, match=r"labelled_copy.*: a store of labels, not of features"):
        FeatureStore.open(labelled_copy)
    with pytest.raises(StoreError, match="a store of features, not of labels"):
        LabelStore.open(store)
    with pytest.raises(StoreError, match="no such label store"):
        LabelStore.open(store / "nowhere")
    (labelled_copy / "store.json").rename(labelled_copy / "plan.json")
    with pytest.raises(StoreError, match="a store of labels, not of features"):
        FeatureStore.open(labelled_copy)
    with pytest.raises(StoreError, match=r"not a finished label store .*gmmpipe label"):
        LabelStore.open(labelled_copy)
    (store_copy / "store.json").unlink()
    with pytest.raises(StoreError, match="a store of features, not of labels"):
        LabelStore.open(store_copy)


def test_verify_passes_a_good_label_store_and_repairs_a_bad_one(
    store, fitted, labelled, labelled_copy, invoke
) -> None:
    path = labelled_copy / "shard-000001.tar"
    flip(path, 600)  # in a header of .npy, which has no CRC
    (labelled_copy / "shard-000003.tar").unlink()
    found = invoke("verify", labelled_copy, "--repair", status=1)
    assert "2 of 4 shards are bad: shard-000001.tar, shard-000003.tar" in found.stderr
    assert "shard-000003.tar: missing" in found.stderr
    assert not (labelled_copy / "store.json").exists()
    options = LabelOptions(store=store, gmm_path=fitted, output_dir=labelled_copy, top_k=4)
    label(options, alone())
    assert file_bytes(labelled_copy) == file_bytes(labelled)
    assert re.search("all 4 shards are good", invoke("verify", labelled_copy).stderr)

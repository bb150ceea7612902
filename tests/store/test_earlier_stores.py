"""Stores of an earlier version, which have no checksums of documents, are as good as ever."""

import shutil
from pathlib import Path

import pytest
import torch
from sealing import EARLIER, MANIFEST, TINY, make_tiny

from gmmpipe import FeatureConfig, FeatureStore, LabelStore
from gmmpipe.apply.label import LabelOptions, label
from gmmpipe.featurization.job import featurize
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.jepa import JEPABatches
from gmmpipe.run.world import World
from gmmpipe.store.verify import strangers, verify
from helpers.making import CORPUS
from helpers.results import file_bytes


@pytest.mark.parametrize("kind", ["tar", "zarr"])
def test_they_open_and_verify(kind: str, tmp_path: Path) -> None:
    earlier, now = FeatureStore.open(EARLIER / kind), FeatureStore.open(make_tiny("tar", tmp_path))
    assert [fault for _, fault in verify(earlier)] == [""] * len(earlier.shards)
    assert strangers(earlier) == []
    found = {utt.key: utt for utt in earlier.utterances()}
    for utterance in now.utterances():
        there = found.pop(utterance.key)
        assert there.metadata["wav_path"] == utterance.metadata["wav_path"]
        if kind == "tar":  # the other has fewer mel bins
            assert torch.equal(there.features, utterance.features)
    assert not found


def test_shards_have_the_bytes_that_they_always_had(tmp_path: Path) -> None:
    made = file_bytes(make_tiny("tar", tmp_path))
    earlier = file_bytes(EARLIER / "tar")
    assert made.keys() == earlier.keys()
    for name in made:
        assert (made[name] == earlier[name]) == (not name.endswith(".json")), name


def test_their_labels_are_read_verified_and_taken_for_finished(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EARLIER / "labels", tmp_path / "labels"))
    labels = LabelStore.open(folder)
    labels.check_source(FeatureStore.open(EARLIER / "tar"))
    assert [fault for _, fault in verify(labels)] == ["", ""]
    (batch,) = JEPABatches(EARLIER / "tar", labels=folder)
    assert batch.topk_ids.shape[2] == 2
    options = LabelOptions(EARLIER / "tar", EARLIER / "gmm.pt", folder, top_k=2)
    label(options, World(0, 1, torch.device("cpu")))
    assert file_bytes(folder) == file_bytes(EARLIER / "labels")
    (folder / "store.json").rename(folder / "plan.json")  # unfinished, and one shard missing
    (folder / "shard-000001.json").unlink()
    label(options, World(0, 1, torch.device("cpu")))
    assert [fault for _, fault in verify(LabelStore.open(folder))] == ["", ""]


def test_an_unfinished_one_is_finished(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EARLIER / "unfinished", tmp_path / "store"))
    options = FeaturizeOptions(
        data_dir=str(MANIFEST),
        output_dir=folder,
        base_path=CORPUS,
        features=FeatureConfig(n_mels=20),
        utterances_per_shard=TINY["tar"]["utterances_per_shard"],
        max_reject_fraction=1.0,
        num_workers=1,
    )
    assert featurize(options) is not None
    assert (
        file_bytes(folder)["shard-000001.json"]
        == file_bytes(EARLIER / "unfinished")["shard-000001.json"]
    )
    store = FeatureStore.open(folder)
    assert [fault for _, fault in verify(store)] == ["", ""]
    assert store.read_frames(0, store.num_frames).isfinite().all()

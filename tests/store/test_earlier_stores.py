"""Stores of earlier versions are as good as ever, and stores of the same bytes are made now."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sealing import EARLIER, MANIFEST, TINY, make_tiny

from gmmpipe import FeatureConfig, FeatureStore, LabelStore
from gmmpipe.apply.label import label
from gmmpipe.apply.options import LabelOptions
from gmmpipe.featurization.job import featurize
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.jepa import JEPABatches
from gmmpipe.store.finalize import finalize
from gmmpipe.store.shard import Shard, shards_of
from gmmpipe.store.shard_kinds import shard_file
from gmmpipe.store.shard_reader import ShardReader
from gmmpipe.store.store_info import read_store_info
from gmmpipe.store.verify import open_store, strangers, verify
from helpers.making import CORPUS, alone, fit_here
from helpers.results import file_bytes

CHECKED = EARLIER / "with_checksums"
"""By a later version than the others; see the README beside them."""
ALONE = alone()


def no_faults(folder: Path) -> bool:
    return not any(fault for _, fault in verify(open_store(folder)))


@pytest.mark.parametrize("kind", ["tar", "zarr"])
@pytest.mark.parametrize("version", [EARLIER, CHECKED], ids=lambda path: path.name)
def test_they_open_and_verify(version: Path, kind: str, tmp_path: Path) -> None:
    earlier, now = FeatureStore.open(version / kind), FeatureStore.open(make_tiny("tar", tmp_path))
    assert no_faults(version / kind)
    assert strangers(earlier) == []
    found = {utt.key: utt for utt in earlier.utterances()}
    for utterance in now.utterances():
        there = found.pop(utterance.key)
        assert there.metadata["wav_path"] == utterance.metadata["wav_path"]
        if kind == "tar":  # the other has fewer mel bins
            assert there.metadata == utterance.metadata
            torch.testing.assert_close(there.features, utterance.features, rtol=1e-3, atol=1e-3)
    assert not found


def without_digests(document: Any) -> Any:
    """A document without what hangs on the last bit of a frame."""
    if isinstance(document, dict):
        names = ("sha256", "crc32c", "checksum", "sidecar_sha256")
        return {n: without_digests(v) for n, v in document.items() if n not in names}
    return [without_digests(v) for v in document] if isinstance(document, list) else document


def test_a_store_made_now_has_the_documents_that_it_always_had(tmp_path: Path) -> None:
    made, earlier = file_bytes(make_tiny("tar", tmp_path)), file_bytes(CHECKED / "tar")
    assert made.keys() == earlier.keys()
    assert made["rejects.jsonl"] == earlier["rejects.jsonl"]
    for name in made:
        if name.endswith(".json"):
            now, then = json.loads(made[name]), json.loads(earlier[name])
            assert without_digests(now) == without_digests(then)
        assert len(made[name]) == len(earlier[name])


def write_again(shard: Shard, folder: Path) -> None:
    """Make a shard and its sidecar from what a reader gets of them."""
    sidecar, reader = shard.sidecar(), ShardReader(shard)
    made = shard.identity
    metadata = dict(shard.read_metadata()) if made.has_json else {}
    file = shard_file(folder / shard.path.name)
    with file.open_writer(made.columns, has_json=made.has_json) as writer:
        for position, key in enumerate(sidecar.index.keys):
            begin, end = sidecar.index.frame_offset[position : position + 2].tolist()
            arrays = {name: a.numpy() for name, a in reader.read_arrays(begin, end).items()}
            audio = None
            if shard.has_audio:
                _, audio = shard.file.read_audio(sidecar.index, position, shard.column)
            writer.add(key, arrays, metadata.get(key), audio)
        again = writer.finish(made.kind)
    found = {name: getattr(sidecar, name) for name in ("tally", "rejects", "left_out")}
    replace(again, **found).write(file.path.with_suffix(".json"))


@pytest.mark.parametrize("kind", ["tar", "zarr", "labels"])
def test_the_same_frames_are_the_same_bytes(kind: str, tmp_path: Path) -> None:
    """Whatever the processor's rounding: the frames are those of the earlier store."""
    info = read_store_info(CHECKED / kind / "store.json")
    for shard in shards_of(CHECKED / kind, info):
        write_again(shard, tmp_path)
    finalize(tmp_path, info.identity, len(info.shards))
    assert file_bytes(tmp_path) == file_bytes(CHECKED / kind)


@pytest.mark.parametrize("version", [EARLIER, CHECKED], ids=lambda path: path.name)
def test_their_labels_are_read_verified_and_taken_for_finished(
    version: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(version / "labels", tmp_path / "labels"))
    labels = LabelStore.open(folder)
    labels.check_source(FeatureStore.open(version / "tar"))
    assert no_faults(folder)
    (batch,) = JEPABatches(version / "tar", labels=folder)
    assert batch.topk_ids.shape[2] == 2
    options = LabelOptions(version / "tar", EARLIER / "gmm.pt", folder, top_k=2)
    label(options, ALONE)
    assert file_bytes(folder) == file_bytes(version / "labels")
    (folder / "store.json").rename(folder / "plan.json")  # unfinished, and one shard missing
    (folder / "shard-000001.json").unlink()
    label(options, ALONE)
    assert no_faults(folder)


def test_unfinished_labels_are_finished(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(CHECKED / "unfinished_labels", tmp_path / "labels"))
    label(LabelOptions(CHECKED / "tar", EARLIER / "gmm.pt", folder, top_k=2), ALONE)
    made, whole = file_bytes(folder), file_bytes(CHECKED / "labels")
    assert made.keys() == whole.keys()
    assert made["shard-000001.json"] == whole["shard-000001.json"]
    # Its shards are all without metadata, as those that were there.
    assert "json_crc32c" not in json.loads(made["shard-000000.json"])["index"]
    assert "features" not in json.loads(made["store.json"])
    there, here = LabelStore.open(CHECKED / "labels"), LabelStore.open(folder)
    for position in range(2):
        expected, found = (store.read_utterance(0, position) for store in (there, here))
        assert torch.equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.topk_probs, expected.topk_probs, atol=1e-3)


@pytest.mark.parametrize("version", [EARLIER, CHECKED], ids=lambda path: path.name)
def test_an_unfinished_one_is_finished(version: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(version / "unfinished", tmp_path / "store"))
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
    sidecar = "shard-000001.json"
    assert file_bytes(folder)[sidecar] == file_bytes(version / "unfinished")[sidecar]
    assert no_faults(folder)
    store = FeatureStore.open(folder)
    assert store.read_frames(0, store.num_frames).isfinite().all()


def test_a_finished_one_is_nothing_to_do_and_can_be_fitted(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(CHECKED / "tar", tmp_path / "store"))
    featurize(
        FeaturizeOptions(
            str(MANIFEST), folder, base_path=CORPUS, max_reject_fraction=1.0, **TINY["tar"]
        )
    )
    assert file_bytes(folder) == file_bytes(CHECKED / "tar")
    fit_here(folder, tmp_path / "fit", K=2, target_frames=54)
    assert (tmp_path / "fit" / "gmm.pt").exists()

"""A zarr store has the same utterances as a tar store, and is checked as strictly."""

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from gmmpipe import FeatureStore
from helpers.making import CORPUS, make_store
from helpers.processes import run_gmmpipe
from helpers.results import file_bytes


@pytest.fixture(scope="module")
def zarr_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zarr") / "store"
    return make_store(CORPUS, folder, utterances_per_shard=16, format="zarr")


def test_values_keys_and_metadata_equal_the_tar_stores(store: Path, zarr_store: Path) -> None:
    tar, ours = FeatureStore.open(store), FeatureStore.open(zarr_store)
    assert (len(ours), ours.num_frames) == (len(tar), tar.num_frames)
    for mine, theirs in zip(ours.utterances(), tar.utterances(), strict=True):
        assert (mine.key, mine.metadata) == (theirs.key, theirs.metadata)
        assert torch.equal(mine.features, theirs.features)
    assert torch.equal(ours.read_frames(100, 8000), tar.read_frames(100, 8000))


def test_plain_zarr_opens_a_shard(zarr_store: Path) -> None:
    group = zarr.open(zarr_store / "shard-000001.zarr", mode="r")
    frames, offsets = group["logmel"], group["offsets"][:]
    assert frames.metadata.zarr_format == 3
    assert (frames.chunks, frames.dtype) == ((8192, 80), np.float16)
    assert (offsets.dtype, len(offsets)) == (np.int64, 17)
    assert offsets[-1] == frames.shape[0]
    assert len(list((zarr_store / "shard-000001.zarr" / "logmel").rglob("c/*/*"))) == 1


def test_bytes_do_not_depend_on_the_workers(zarr_store: Path, tmp_path: Path) -> None:
    run_gmmpipe(
        *("featurize", "--data_dir", CORPUS, "--output_dir", tmp_path / "two"),
        *("--utterances_per_shard", 16, "--format", "zarr", "--num_workers", 2),
    )
    assert file_bytes(tmp_path / "two") == file_bytes(zarr_store)


def test_fit_from_zarr_equals_fit_from_tar(store: Path, zarr_store: Path, tmp_path: Path) -> None:
    options = ("--K", 8, "--target_frames", "8k", "--n_sgd_steps", 10, "--sgd_batch_size", 512)
    models = []
    for name, data in (("tar", store), ("zarr", zarr_store)):
        run_gmmpipe("fit", "--data_dir", data, "--output_dir", tmp_path / name, *options)
        models.append(torch.load(tmp_path / name / "gmm.pt", weights_only=True))
    assert torch.equal(models[0]["means"], models[1]["means"])

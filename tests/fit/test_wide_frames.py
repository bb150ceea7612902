"""Frames as wide as an encoder's layer: a mixture of known clusters is found again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from gmmpipe import FeatureStore, FeatureStoreWriter, GradientGMM
from helpers.making import fit_here

NUM_CLUSTERS, DIM, NUM_FRAMES = 64, 768, 9600


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """A store of frames of 64 clusters in 768 dimensions of unlike scales, and their clusters.

    Means of two clusters lie 0.7 standard deviations apart in a dimension: that is less than a
    dimension tells, and enough in 768.
    """
    draw = torch.Generator().manual_seed(1)
    means = 0.5 * torch.randn(NUM_CLUSTERS, DIM, generator=draw)
    scales = torch.exp(0.3 * torch.randn(DIM, generator=draw))
    clusters = torch.randint(NUM_CLUSTERS, (NUM_FRAMES,), generator=draw)
    frames = (means[clusters] + torch.randn(NUM_FRAMES, DIM, generator=draw)) * scales + 2.0
    folder = tmp_path_factory.mktemp("wide") / "store"
    with FeatureStoreWriter(folder, dim=DIM, frame_rate=50.0, description={"layer": 6}) as writer:
        for start in range(0, NUM_FRAMES, 400):
            writer.add(f"utt-{start:05d}", frames[start : start + 400].numpy(), metadata={})
    return folder, clusters


@pytest.mark.parametrize(
    "options",
    [{"var_floor": "1%"}, {"var_floor": "1%", "optimizer": "em"}, {"model": "kmeans"}],
    ids=["adam", "em", "kmeans"],
)
def test_known_clusters_of_many_dimensions_are_found(options: dict[str, Any], wide, tmp_path):
    store, clusters = wide
    sizes = {"K": NUM_CLUSTERS, "target_frames": NUM_FRAMES, "batch_update_size": NUM_FRAMES}
    fit_here(store, tmp_path, **{**sizes, "n_sgd_steps": 10, "sgd_batch_size": 2048, **options})
    frames = FeatureStore.open(store).read_frames(0, NUM_FRAMES)
    labels = GradientGMM.load(tmp_path / "gmm.pt").assign(frames)
    assert adjusted_rand_score(clusters.numpy(), labels.numpy()) > 0.97

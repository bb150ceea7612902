"""Centres that k-means++ put twice into a cluster of many dimensions move to where none is."""

import pytest
import torch
from torch import Tensor

from gmmpipe.mixture.split_merge import (
    choose_swaps,
    cluster_means,
    merge_losses,
    nearest_centers,
    split_and_merge,
    split_gains,
)


def clusters(num_clusters: int = 8, dim: int = 300, each: int = 60) -> tuple[Tensor, Tensor]:
    """Frames of well separated clusters, centred, and the cluster of each."""
    draw = torch.Generator().manual_seed(0)
    means = 0.7 * torch.randn(num_clusters, dim, generator=draw)
    labels = torch.arange(num_clusters).repeat(each)
    return means[labels] + torch.randn(len(labels), dim, generator=draw), labels


def inertia(frames: Tensor, centers: Tensor) -> float:
    return float(torch.cdist(frames, centers).amin(1).double().square().sum())


@pytest.mark.parametrize("num_served", [1, 4])
def test_every_cluster_gets_a_centre_wherever_they_began(num_served) -> None:
    """All begin in one cluster; or half of the clusters have two, and half have none."""
    frames, labels = clusters()
    first = [frames[labels == cluster][: 8 // num_served] for cluster in range(num_served)]
    nearest = nearest_centers(frames, split_and_merge(frames, torch.cat(first), seed=0))
    for cluster in range(8):
        assert len(nearest[labels == cluster].unique()) == 1
    assert len(nearest.unique()) == 8


def test_gains_and_losses_are_those_of_the_inertia() -> None:
    frames, labels = clusters(4)
    merged = torch.where(labels == 3, 2, labels)  # three clusters, of which the last holds two
    means, counts = cluster_means(frames, merged, torch.zeros(3, 300))
    within = (frames - means[merged]).square().sum()
    gains, halves = split_gains(frames, merged, means, (0, 0))
    assert int(gains.argmax()) == 2
    four = torch.cat([means[:2], halves[:, 2]])
    after = (frames - four[labels]).square().sum()
    after = min(after, (frames - four[[0, 1, 3, 2]][labels]).square().sum())
    assert float(within - after) == pytest.approx(float(gains[2]), rel=1e-3)

    losses, partners = merge_losses(four, torch.full((4,), 60.0))
    pair = [2, int(partners[2])]
    middle = four[pair].mean(0)
    expected = 60 * (four[pair] - middle).square().sum()
    assert float(losses[2]) == pytest.approx(float(expected), rel=1e-3)
    assert counts.tolist() == [60, 60, 120]


def test_no_swap_loses_and_no_cluster_takes_part_twice() -> None:
    gains = torch.tensor([9.0, 8.0, 0.0, 0.0, 0.0, 7.0])
    losses = torch.tensor([9.5, 9.5, 1.0, 1.0, 7.5, 9.5])
    partners = torch.tensor([1, 0, 3, 2, 2, 0])
    assert choose_swaps(gains, losses, partners) == [(0, 3, 2)]


def test_inertia_never_rises() -> None:
    frames, _ = clusters(30)
    centers = frames[:20].clone()
    after = split_and_merge(frames, centers, seed=0)
    assert inertia(frames, after) < inertia(frames, centers)


def test_one_centre_and_equal_frames_are_left_alone() -> None:
    frames, _ = clusters(2)
    alone = split_and_merge(frames, frames[:1], seed=0)
    torch.testing.assert_close(alone, frames.mean(0, keepdim=True), rtol=0, atol=1e-5)
    same = frames[:1].expand(50, -1)
    found = split_and_merge(same, same[:3], seed=0)
    torch.testing.assert_close(found, same[:3], rtol=0, atol=1e-5)

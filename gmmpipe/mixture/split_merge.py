"""Centres of k-means that moved from clusters with two of them to clusters that share one.

In many dimensions k-means++ hardly tells a cluster that has a centre from one that has none: frames
of one cluster lie √2 times their spread apart, which may be nearly as far as frames of two. So some
clusters get two centres, others share one, and Lloyd's passes mend neither. Here pairs of centres
are merged and others split in two, as long as that lowers the inertia (as in the split and merge of
ISODATA, Ball and Hall 1965).
"""

import torch
from torch import Tensor

from gmmpipe.mixture.hard_statistics import nearest_centers
from gmmpipe.mixture.mixture import block_frames
from gmmpipe.randomness import uniforms

MAX_ROUNDS = 10
POWER_ITERATIONS = 6


def split_and_merge(frames: Tensor, centers: Tensor, seed: int) -> Tensor:
    """Centres of a lower inertia: rounds of a Lloyd pass, then of merges that pay for splits.

    Args:
        frames: float32 [S, D], centred near 0.
        centers: [K, D].
        seed: of the directions in which a search for splits begins.

    Returns:
        [K, D].
    """
    for number in range(MAX_ROUNDS):
        labels = nearest_centers(frames, centers)
        centers, counts = cluster_means(frames, labels, centers)
        gains, halves = split_gains(frames, labels, centers, (seed, number))
        losses, partners = merge_losses(centers, counts)
        swaps = choose_swaps(gains, losses, partners)
        if not swaps:
            break
        for split, kept, freed in swaps:
            pair = torch.tensor([kept, freed], device=centers.device)
            weights = counts[pair] / counts[pair].sum().clamp_min(1.0)
            centers[kept] = weights @ centers[pair]
            centers[freed], centers[split] = halves[0, split], halves[1, split]
    return centers


def cluster_means(frames: Tensor, labels: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """The clusters' means [K, D] and counts [K]; a cluster without frames keeps its centre."""
    counts = centers.new_zeros(len(centers)).index_add_(0, labels, torch.ones_like(frames[:, 0]))
    sums = torch.zeros_like(centers).index_add_(0, labels, frames)
    means = sums / counts.clamp_min(1.0)[:, None]
    return torch.where((counts > 0)[:, None], means, centers), counts


def split_gains(
    frames: Tensor, labels: Tensor, means: Tensor, purpose: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """How much a cut of each cluster through its mean lowers the inertia.

    The cut is across the direction of the largest variance, found by power iteration.

    Args:
        frames, labels, means: the clusters, [S, D], [S] and [K, D].
        purpose: names the random directions that the iteration begins with.

    Returns:
        The gains [K], and the means of both halves [2, K, D].
    """
    num_centers, dim = means.shape
    draws = torch.from_numpy(uniforms(num_centers * dim, "split", *purpose)) - 0.5
    directions = draws.view(num_centers, dim).to(means)
    for _ in range(POWER_ITERATIONS):
        directions = torch.nn.functional.normalize(directions)
        sums = torch.zeros_like(means)
        for block, of in _blocks(frames, labels):
            centred = block - means[of]
            sums.index_add_(0, of, centred * (centred * directions[of]).sum(1, keepdim=True))
        directions = sums
    counts = means.new_zeros(2 * num_centers)
    sums = means.new_zeros(2 * num_centers, dim)
    for block, of in _blocks(frames, labels):
        centred = block - means[of]
        half = of + num_centers * ((centred * directions[of]).sum(1) > 0)
        counts.index_add_(0, half, torch.ones_like(block[:, 0]))
        sums.index_add_(0, half, centred)
    low, high = counts.view(2, -1)
    offsets = (sums / counts.clamp_min(1.0)[:, None]).view(2, num_centers, dim)
    gains = low * high / (low + high).clamp_min(1.0) * (offsets[0] - offsets[1]).square().sum(1)
    return gains, means + offsets


def merge_losses(means: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """How much the cheapest merge of each cluster raises the inertia (Ward 1963), and with which.

    Args:
        means, counts: of the clusters, [K, D] and [K].

    Returns:
        The losses [K], infinite where there is no other cluster, and the partners, int64 [K].
    """
    losses, partners = [], []
    every = torch.arange(len(means), device=means.device)
    for own in torch.split(every, 1024):
        weights = counts[own, None] * counts / (counts[own, None] + counts).clamp_min(1.0)
        loss = weights * torch.cdist(means[own], means).square()
        loss[torch.arange(len(own)), own] = float("inf")
        least = loss.min(1)
        losses.append(least.values)
        partners.append(least.indices)
    return torch.cat(losses), torch.cat(partners)


def choose_swaps(gains: Tensor, losses: Tensor, partners: Tensor) -> list[tuple[int, int, int]]:
    """Which clusters to split, and which pairs to merge for that: (split, kept, freed).

    The best splits are paired with the cheapest merges, as long as they gain more than those lose,
    and no cluster takes part twice.
    """
    gain, loss, partner = gains.tolist(), losses.tolist(), partners.tolist()
    merges = iter(torch.argsort(losses, stable=True).tolist())
    used: set[int] = set()
    swaps = []
    for split in torch.argsort(gains, descending=True, stable=True).tolist():
        if split in used:
            continue
        freed = next((n for n in merges if not {n, partner[n]} & {*used, split}), None)
        if freed is None or gain[split] <= loss[freed]:
            break
        used |= {split, freed, partner[freed]}
        swaps.append((split, partner[freed], freed))
    return swaps


def _blocks(frames: Tensor, labels: Tensor) -> zip:  # type: ignore[type-arg]
    size = block_frames(frames.device)
    return zip(torch.split(frames, size), torch.split(labels, size), strict=True)

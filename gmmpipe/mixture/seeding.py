"""Where a fit starts: k-means++, Lloyd passes, then EM passes over one sample of frames."""

import numpy as np
import torch
from torch import Tensor

from gmmpipe.mixture.density import StatisticsKernel, block_frames
from gmmpipe.mixture.optimizers import m_step
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.randomness import permutation, uniforms

PLUS_PLUS_FRAMES = 65_536
LLOYD_PASSES = 4
EM_PASSES = 24


@torch.no_grad()
def seed_mixture(sample: Tensor, num_components: int, var_floor: float, seed: int) -> Parameters:
    """Parameters from a sample of the data: k-means++ on a part of it, then Lloyd and EM passes.

    The same sample, seed, device and thread count give the same bits.

    Args:
        sample: float32 [S, D], S >= K.
        num_components: K.
        var_floor: lower bound of a variance.
        seed: of the k-means++ draws.

    Returns:
        float32 parameters on the sample's device.
    """
    assert len(sample) >= num_components, "fewer frames than components"
    center = sample.mean(0, dtype=torch.float64).float()
    centred = sample - center
    # A random part: neighbouring frames are of one utterance, and would be of few.
    part = permutation(len(sample), "k-means++ part", seed)[: max(PLUS_PLUS_FRAMES, num_components)]
    chosen = torch.from_numpy(part).to(sample.device)
    centers = k_means_plus_plus(centred.index_select(0, chosen), num_components, seed)
    for _ in range(LLOYD_PASSES):
        centers, variances, counts = lloyd_pass(centred, centers)
    weights = (counts / counts.sum()).clamp_min(1.0 / (2 * len(sample)))
    parameters = Parameters.of(
        means=centers + center,
        log_vars=variances.clamp_min(var_floor).log(),
        log_weights=torch.log_softmax(weights.log(), 0),
    )
    kernel = StatisticsKernel(num_components, center)
    for _ in range(EM_PASSES):
        statistics = kernel(sample, parameters.means, parameters.log_vars, parameters.log_weights)
        m_step(statistics, parameters, center, var_floor)
    return parameters


def k_means_plus_plus(frames: Tensor, num_centers: int, seed: int) -> Tensor:
    """Centres drawn by D² sampling (Arthur and Vassilvitskii 2007), keeping running minima.

    Args:
        frames: [S, D], centred near 0.
        num_centers: how many to draw; frames repeat only where there are fewer distinct ones.
        seed: of the draws.

    Returns:
        [num_centers, D], rows of `frames`.
    """
    draws = uniforms(num_centers, "k-means++", seed)
    norms = frames.square().sum(1)
    nearest = torch.full_like(norms, float("inf"))
    distances = torch.empty_like(norms)
    chosen = np.empty(num_centers, dtype=np.int64)
    choice = int(draws[0] * len(frames))
    for number in range(num_centers):
        if number:
            cumulative = torch.cumsum(nearest, 0, dtype=torch.float64)
            total = float(cumulative[-1])
            if total > 0:
                target = torch.tensor(
                    draws[number] * total, dtype=torch.float64, device=frames.device
                )
                found = int(torch.searchsorted(cumulative, target, right=True))
                choice = min(found, len(frames) - 1)
            else:  # every frame is a centre already
                choice = int(draws[number] * len(frames))
        chosen[number] = choice
        latest = frames[choice]
        # |x - c|² = |x|² - 2 x·c + |c|², which rounding may leave just below 0.
        torch.addmv(norms + norms[choice], frames, latest, alpha=-2.0, out=distances)
        torch.minimum(nearest, distances.clamp_min_(0.0), out=nearest)
        nearest[choice] = 0.0
    return frames[torch.from_numpy(chosen).to(frames.device)]


def lloyd_pass(frames: Tensor, centers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One pass of Lloyd's algorithm (1982); an empty cluster moves to the worst-served frame.

    Args:
        frames: [S, D], centred near 0.
        centers: [K, D].

    Returns:
        The clusters' means [K, D], variances [K, D] and frame counts [K].
    """
    num_centers = len(centers)
    half_norms = centers.square().sum(1).mul_(0.5)
    counts = torch.zeros(num_centers, device=frames.device)
    first = torch.zeros_like(centers)
    second = torch.zeros_like(centers)
    affinity = torch.empty(len(frames), device=frames.device)
    for start in range(0, len(frames), block_frames(frames.device)):
        block = frames[start : start + block_frames(frames.device)]
        best, assigned = torch.addmm(half_norms, block, centers.t(), beta=-1.0).max(1)
        affinity[start : start + len(block)] = best
        counts.index_add_(0, assigned, torch.ones_like(best))
        first.index_add_(0, assigned, block)
        second.index_add_(0, assigned, block.square())
    divisor = counts.clamp_min(1.0)[:, None]
    means = first / divisor
    variances = (second / divisor - means.square()).clamp_min_(0.0)
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        squared_distance = frames.square().sum(1) - 2.0 * affinity
        worst = torch.topk(squared_distance, len(empty)).indices
        means[empty] = frames[worst]
        variances[empty] = variances[counts > 0].mean(0)
    return means, variances, counts

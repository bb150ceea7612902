"""The mixture that a fit starts from: k-means++, and passes over one sample."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmmpipe.mixture.em import StepwiseEM
from gmmpipe.mixture.floors import VarFloor, at_least
from gmmpipe.mixture.lloyd import MiniBatchLloyd, unit_parameters
from gmmpipe.mixture.mixture import Mixture, block_frames
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.mixture.split_merge import split_and_merge
from gmmpipe.randomness import permutation, uniforms

INITS = ("kmeans", "kmeans++", "random")
PLUS_PLUS_FRAMES = 32_768
LLOYD_PASSES = 2
FRAMES_PER_COMPONENT = 32
"""Frames for each component that k-means++ draws from, at least."""

MIN_SPLIT_DIM = 256
"""From so many dimensions on, k-means++ misses clusters: more than log-mels have, or MFCCs."""

MIN_STEP_FRAMES = 1_024
"""Frames of a step of a pass, at least, however few components there are."""


@dataclass(frozen=True)
class Passes:
    """Passes over the sample, at a rate that falls along a cosine.

    Args:
        count: how many.
        rates: the weight of a step's statistics, at the first step and at the last.
        frames_per_component: frames that a step takes, for each component.
    """

    count: int
    rates: tuple[float, float]
    frames_per_component: int


EM_PASSES = Passes(count=10, rates=(0.7, 0.02), frames_per_component=32)
CENTER_PASSES = Passes(count=3, rates=(0.5, 0.02), frames_per_component=8)


@torch.no_grad()
def seed_mixture(
    sample: Tensor, num_components: int, var_floor: VarFloor, seed: int, init: str = "kmeans"
) -> Parameters:
    """Parameters from a sample of the data.

    ``kmeans`` is k-means++ on a part of the sample, then Lloyd and stepwise EM passes over all of
    it. ``kmeans++`` is that without the passes, and ``random`` takes random frames as centres; both
    give every component the sample's variances and an equal weight.

    The same sample, seed, device and thread count give the same bits.

    Args:
        sample: float32 [S, D], S >= K.
        num_components: K.
        var_floor: lower bound of the variances.
        seed: of the draws.
        init: one of `INITS`.

    Returns:
        float32 parameters on the sample's device.
    """
    center = sample.mean(0, dtype=torch.float64).float()
    centred = sample - center
    centers = _first_centers(centred, num_components, seed, init)
    if init != "kmeans":
        variances = sample.var(0, correction=0).expand_as(centers)
        return _parameters(centers + center, variances, sample.new_ones(num_components), var_floor)
    for _ in range(LLOYD_PASSES):
        centers, variances, counts = lloyd_pass(centred, centers)
    weights = (counts / counts.sum()).clamp_min(1.0 / (2 * len(sample)))
    parameters = _parameters(centers + center, variances, weights, var_floor)
    _climb(sample, center, parameters, StepwiseEM, EM_PASSES, var_floor, seed)
    return parameters


@torch.no_grad()
def seed_centers(
    sample: Tensor, num_components: int, var_floor: VarFloor, seed: int, init: str = "kmeans"
) -> Parameters:
    """Parameters of unit variances and equal weights from a sample of the data: k-means' start.

    ``kmeans`` is k-means++ on a part of the sample, then passes of mini-batch Lloyd over all of it;
    the others are the centres alone. Arguments and result are those of `seed_mixture`.
    """
    center = sample.mean(0, dtype=torch.float64).float()
    centers = _first_centers(sample - center, num_components, seed, init)
    parameters = unit_parameters(centers + center)
    if init == "kmeans":
        _climb(sample, center, parameters, MiniBatchLloyd, CENTER_PASSES, var_floor, seed)
    return parameters


def _first_centers(centred: Tensor, num_components: int, seed: int, init: str) -> Tensor:
    """Frames of a sample [S, D], centred near 0, as the first centres [K, D]."""
    assert len(centred) >= num_components, "fewer frames than components"
    if init == "random":
        numbers = permutation(len(centred), "random centres", seed)[:num_components]
        return centred[torch.from_numpy(numbers).to(centred.device)]
    # The part is random because neighbouring frames are of one utterance.
    part = permutation(len(centred), "k-means++ part", seed)
    enough = max(PLUS_PLUS_FRAMES, FRAMES_PER_COMPONENT * num_components)
    chosen = torch.from_numpy(part[:enough])
    frames = centred.index_select(0, chosen.to(centred.device))
    centers = k_means_plus_plus(frames, num_components, seed)
    if init == "kmeans" and frames.shape[1] >= MIN_SPLIT_DIM:
        centers = split_and_merge(frames, centers, seed)
    return centers


def _climb(
    sample: Tensor,
    center: Tensor,
    parameters: Parameters,
    method: type[StepwiseEM],
    passes: Passes,
    var_floor: VarFloor,
    seed: int,
) -> None:
    """Passes of stepwise EM, or of mini-batch Lloyd, over `sample`, in place.

    The rates are large at first, so that components move between basins of the likelihood; whole
    passes stay in the basin that they begin in.
    """
    num_components = len(parameters.means)
    step_frames = max(MIN_STEP_FRAMES, passes.frames_per_component * num_components)
    steps_per_pass = max(1, len(sample) // step_frames)
    kernel = method.make_kernel(num_components, center)
    optimizer = method(torch.zeros_like(kernel.statistics.sums), var_floor)
    last, (high, low) = passes.count * steps_per_pass - 1, passes.rates
    step = 0
    for number in range(passes.count):
        shuffled = torch.from_numpy(permutation(len(sample), "seeding pass", seed, number))
        for chosen in shuffled.to(sample.device).tensor_split(steps_per_pass):
            statistics = kernel(sample.index_select(0, chosen), parameters.mixture)
            rate = low + (high - low) * 0.5 * (1 + math.cos(math.pi * step / max(1, last)))
            # The running statistics begin with those of the first step.
            optimizer.step(statistics, parameters, rate if step else 1.0)
            step += 1


def _parameters(
    means: Tensor, variances: Tensor, weights: Tensor, var_floor: VarFloor
) -> Parameters:
    """Parameters of these means and variances [K, D], and weights [K] that need not sum to 1."""
    log_vars = at_least(variances, var_floor).log()
    return Parameters.of(Mixture(means, log_vars, torch.log_softmax(weights.log(), 0)))


def k_means_plus_plus(frames: Tensor, num_centers: int, seed: int) -> Tensor:
    """Centres drawn by D² sampling (Arthur and Vassilvitskii 2007), the greedy variant.

    Each centre is the best of 2 + ln K candidates: the one that leaves the least sum of squared
    distances. Each frame's distance to its nearest centre is kept as a running minimum.

    Args:
        frames: [S, D], centred near 0.
        num_centers: how many to draw; frames repeat only where there are fewer distinct ones.
        seed: of the draws.

    Returns:
        [num_centers, D], rows of `frames`.
    """
    trials = 2 + int(math.log(num_centers))
    draws = uniforms(num_centers * trials, "k-means++", seed).reshape(num_centers, trials)
    norms = frames.square().sum(1)
    nearest = torch.full_like(norms, float("inf"))
    chosen = torch.empty(num_centers, dtype=torch.int64, device=frames.device)
    for number in range(num_centers):
        cumulative = torch.cumsum(nearest, 0, dtype=torch.float64)
        total = float(cumulative[-1])
        if number and total > 0:
            targets = torch.from_numpy(draws[number] * total).to(frames.device)
            found = torch.searchsorted(cumulative, targets, right=True)
            candidates = found.clamp_max_(len(frames) - 1)
        else:  # the first centre; or every frame is a centre already
            candidates = torch.tensor([int(draws[number, 0] * len(frames))], device=frames.device)
        # |x - c|² = |x|² - 2 x·c + |c|², which rounding may leave just below 0.
        distances = torch.addmm(norms, frames[candidates], frames.t(), alpha=-2.0)
        distances.add_(norms[candidates, None]).clamp_min_(0.0)
        torch.minimum(distances, nearest, out=distances)
        best = distances.sum(1, dtype=torch.float64).argmin()
        nearest = distances[best].clone()
        chosen[number] = candidates[best]
        nearest[chosen[number]] = 0.0
    return frames[chosen]


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

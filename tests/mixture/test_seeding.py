"""Where a fit starts: k-means++, Lloyd and EM passes."""

import math

import pytest
import torch
from torch import Tensor

from gmmpipe.mixture.measures import UpdateSums
from gmmpipe.mixture.seeding import k_means_plus_plus, lloyd_pass, seed_mixture

SILENCE = math.log(1e-6)


@pytest.fixture(scope="module")
def centred(frames: Tensor) -> Tensor:
    """Distinct frames, shuffled, about their mean."""
    distinct = torch.unique(frames, dim=0)
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(0))
    return (distinct - distinct.mean(0))[order]


def potential(frames: Tensor, centers: Tensor) -> float:
    """Mean squared distance to the nearest centre, in float64."""
    return float(torch.cdist(frames.double(), centers.double()).min(1).values.square().mean())


def rows(tensor: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in tensor.tolist()}


@pytest.mark.parametrize("seed", [0, 1])
def test_k_means_plus_plus_draws_distinct_frames(seed, centred) -> None:
    centers = k_means_plus_plus(centred, 200, seed)
    assert len(rows(centers)) == 200
    assert rows(centers) <= rows(centred)


def test_k_means_plus_plus_draws_other_centres_for_another_seed(centred) -> None:
    first, second = (rows(k_means_plus_plus(centred, 20, seed)) for seed in (0, 1))
    assert len(first & second) < 10


def test_k_means_plus_plus_serves_frames_better_than_a_random_draw(centred) -> None:
    """Each far group of frames gets a centre, which 8 random frames would hardly hit."""
    groups = torch.cat([centred] + [centred[:50] + 200.0 * n for n in range(1, 8)])
    centers = k_means_plus_plus(groups, 8, seed=0)
    assert len({round(float(center.mean()) / 200.0) for center in centers}) == 8


def test_k_means_plus_plus_finds_every_one_of_few_distinct_frames(centred) -> None:
    few = centred[:5].repeat(100, 1)
    centers = k_means_plus_plus(few, 12, seed=0)
    assert centers.shape == (12, 80)
    assert rows(centers) == rows(centred[:5])


def test_k_means_plus_plus_of_silence_alone_is_silence() -> None:
    silence = torch.full((3000, 80), SILENCE)
    assert rows(k_means_plus_plus(silence, 7, seed=0)) == rows(silence[:1])


def test_each_lloyd_pass_lowers_the_potential(centred) -> None:
    centers = k_means_plus_plus(centred, 64, seed=0)
    potentials = [potential(centred, centers)]
    for _ in range(5):
        centers, _, _ = lloyd_pass(centred, centers)
        potentials.append(potential(centred, centers))
    assert potentials == sorted(potentials, reverse=True)
    assert potentials[-1] < 0.8 * potentials[0]


def test_a_lloyd_pass_gives_the_moments_of_each_cluster(centred) -> None:
    before = k_means_plus_plus(centred, 20, seed=0)
    means, variances, counts = lloyd_pass(centred, before)
    assigned = torch.cdist(centred.double(), before.double()).argmin(1)
    assert counts.tolist() == torch.bincount(assigned, minlength=20).tolist()
    for number in range(20):
        cluster = centred[assigned == number].double()
        assert torch.allclose(means[number].double(), cluster.mean(0), atol=1e-4)
        assert torch.allclose(variances[number].double(), cluster.var(0, correction=0), atol=3e-3)


def test_a_lloyd_pass_moves_empty_clusters_to_the_worst_served_frames(centred) -> None:
    centers = k_means_plus_plus(centred, 20, seed=0)
    centers[[3, 7]] = 1e3
    means, variances, counts = lloyd_pass(centred, centers)
    assert counts.nonzero()[:, 0].tolist() == [n for n in range(20) if n not in (3, 7)]
    distance = torch.cdist(centred.double(), centers.double()).min(1).values
    assert rows(means[[3, 7]]) == rows(centred[distance.topk(2).indices])
    assert (variances[[3, 7]] > 0).all()
    assert (lloyd_pass(centred, means)[2] > 0).all()


def test_the_same_seed_gives_the_same_bits(frames) -> None:
    first, second = (seed_mixture(frames.clone(), 32, 0.1, seed=5) for _ in range(2))
    assert torch.equal(first.flat, second.flat)
    assert not torch.equal(first.flat, seed_mixture(frames, 32, 0.1, seed=6).flat)


@pytest.mark.parametrize("init", ["kmeans++", "random"])
def test_without_passes_the_means_are_frames_and_all_else_is_even(init, frames) -> None:
    seeded = seed_mixture(frames, 32, 0.1, seed=5, init=init)
    distance = torch.cdist(seeded.means.double(), frames.double()).min(1)
    assert distance.values.max() < 1e-4
    assert len(distance.indices.unique()) == 32
    spread = frames.double().var(0, correction=0).clamp_min(0.1)
    torch.testing.assert_close(
        seeded.log_vars.exp().double(), spread.expand(32, 80), rtol=1e-4, atol=0
    )
    torch.testing.assert_close(seeded.mixture.log_weights.exp(), torch.full((32,), 1 / 32))
    again, other = (seed_mixture(frames, 32, 0.1, seed=seed, init=init) for seed in (5, 6))
    assert torch.equal(seeded.flat, again.flat)
    assert not torch.equal(seeded.flat, other.flat)


def test_each_way_to_start_serves_frames_better_than_the_next(centred) -> None:
    potentials = [
        potential(centred, seed_mixture(centred, 64, 0.1, seed=0, init=init).means)
        for init in ("kmeans", "kmeans++", "random")
    ]
    assert potentials == sorted(potentials)


def test_no_seeded_component_is_dead_on_speech(frames) -> None:
    seeded = seed_mixture(frames, 64, 0.1, seed=0)
    counts = UpdateSums.over(frames, seeded.mixture).usage.counts
    assert counts.min() >= 1
    assert seeded.mixture.log_weights.exp().sum() == pytest.approx(1.0, abs=1e-5)
    assert seeded.log_vars.min() >= math.log(0.1) - 1e-6


@pytest.mark.parametrize("dim", [1, 39, 768, 2048])
def test_clusters_are_found_in_any_number_of_dimensions(dim) -> None:
    """Twelve clusters at least 15 standard deviations apart, each about 50 frames."""
    draw = torch.Generator().manual_seed(dim)
    order = torch.stack([torch.randperm(12, generator=draw) for _ in range(dim)], 1)
    places = 20.0 * order / math.sqrt(dim)
    chosen = torch.arange(600) % 12
    x = places[chosen] + torch.randn(600, dim, generator=draw) + 100
    seeded = seed_mixture(x, 12, 0.1, seed=0)
    assert torch.cdist(seeded.means, places + 100).min(0).values.max() < 0.6 * math.sqrt(dim)
    assert seeded.mixture.log_weights.exp().min() > 0.05
    assert seeded.log_vars.exp().mean() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("distinct", [1, 3])
def test_fewer_distinct_frames_than_components_still_give_a_proper_density(
    distinct, frames
) -> None:
    few = torch.cat([torch.full((1, 80), SILENCE), frames[:2]])[:distinct].repeat(300, 1)
    seeded = seed_mixture(few, 8, 0.1, seed=0)
    assert torch.isfinite(seeded.flat).all()
    measures = UpdateSums.over(few, seeded.mixture).measures()
    # All of it sits at the floor: ln N(0; 0, 0.1) per dimension, less ln of the weight it shares.
    best = 40 * math.log(2 * math.pi * 0.1)
    assert measures["nll"] == pytest.approx(best + math.log(distinct), abs=0.05)


def test_as_many_components_as_frames_is_allowed(frames) -> None:
    seeded = seed_mixture(frames[:12], 12, 0.1, seed=0)
    assert torch.isfinite(seeded.flat).all()

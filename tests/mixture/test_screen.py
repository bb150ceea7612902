"""Bounds of log joints in bfloat16 against the same map in float64, and what they drop."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from rounding import kernel_error
from torch import Tensor

from gmmpipe.mixture import screened_pairs
from gmmpipe.mixture.likely_pairs import GROUP_SIZE, LikelyGroups, margin
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.mixture.screen import Screen
from gmmpipe.mixture.screened_pairs import ScreenedPairsKernel, joints_of_groups

K = 256


def speech_model(frames: Tensor, num_components: int = K, share: float = 1 / 16) -> Mixture:
    """Means at frames, each with a share of the variances of all speech."""
    log_vars = (frames.var(0) * share).log().repeat(num_components, 1)
    numbers = torch.arange(num_components) * len(frames) // num_components
    weights = torch.log_softmax(torch.linspace(-1, 1, num_components), 0)
    return Mixture(frames[numbers].clone(), log_vars, weights)


def made_up(dim: int, num_components: int, num_frames: int = 600) -> tuple[Tensor, Mixture]:
    """A mixture at scales from 0.1 to 30, and frames of it; from 39 dimensions on, it is sparse."""
    spread = 40 if dim > 100 else 8
    draw = torch.Generator().manual_seed(dim)
    scales = torch.logspace(-1, 1.5, dim)
    means = scales * torch.randn(num_components, dim, generator=draw) * spread / math.sqrt(dim)
    log_vars = 2 * scales.log() + 0.1 * torch.randn(num_components, dim, generator=draw)
    made = Mixture(means, log_vars, torch.full((num_components,), -math.log(num_components)))
    chosen = torch.randint(num_components, (num_frames,), generator=draw)
    noise = torch.randn(num_frames, dim, generator=draw) * (0.5 * log_vars[chosen]).exp()
    return means[chosen] + noise, made


def exact_and_bounds(
    expanded: Tensor, matrix: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The largest log joint of each group in float64, and its bounds; [n, number of groups]."""
    screen = Screen(matrix, bias)
    out = torch.empty(len(expanded), len(matrix), dtype=torch.bfloat16)
    lower, upper = screen.bounds(expanded, out)
    dim = expanded.shape[1] // 2
    centred = expanded[:, :dim].double()
    wide = torch.cat([centred, centred.square()], 1)
    joints = wide @ matrix.double().t() + bias.double()
    return joints[:, screen.members].amax(2), lower.double(), upper.double()


def expand(centred: Tensor) -> Tensor:
    return torch.cat([centred, centred.square()], 1)


def widest(exact: Tensor, lower: Tensor, upper: Tensor) -> float:
    """The error of log joints as a share of what the bounds allow; 1 is all of it."""
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    return float(((exact - middle).abs() / half).max())


@pytest.mark.parametrize("share", [1.0, 1 / 16, 1e-3])
def test_log_joints_of_speech_are_within_their_bounds(share, frames) -> None:
    center = frames.mean(0)
    matrix, bias = speech_model(frames, share=share).affine_map(center)
    assert widest(*exact_and_bounds(expand(frames - center), matrix, bias)) < 1


@pytest.mark.parametrize("dim", [1, 2, 39, 768])
def test_log_joints_of_any_number_of_dimensions_are_within_their_bounds(dim) -> None:
    x, model = made_up(dim, K)
    matrix, bias = model.affine_map(x.mean(0))
    assert widest(*exact_and_bounds(expand(x - x.mean(0)), matrix, bias)) < 1


@pytest.mark.parametrize("times", [1, 80])
@pytest.mark.parametrize("variance", [1.0, 0.1])
def test_errors_that_all_add_up_are_within_their_bounds_and_use_them(times, variance) -> None:
    """Where all dimensions are alike, all roundings of a frame go the same way."""
    x, model = made_up(1, K)
    means, log_vars = model.means.repeat(1, times), model.log_vars.repeat(1, times)
    model = replace(model, means=means, log_vars=log_vars + math.log(variance))
    matrix, bias = model.affine_map(x.mean(0).repeat(times))
    centred = (x - x.mean(0)).repeat(1, times)
    assert 0.5 < widest(*exact_and_bounds(expand(centred), matrix, bias)) < 1


def test_what_is_dropped_of_speech_is_nothing_in_float32(frames) -> None:
    """And it is all but a few groups of a frame."""
    model, center = speech_model(frames), frames.mean(0)
    matrix, bias = model.affine_map(center)
    screen = Screen(matrix, bias)
    near = screen.near(expand(frames - center), torch.empty(len(frames), K, dtype=torch.bfloat16))
    joints = torch.cat([part.clone() for _, _, part in model.log_joints(frames)])[:, screen.members]
    best = joints.amax((1, 2), keepdim=True)
    assert (joints - best)[~near].max() < -margin(K)
    posteriors = torch.softmax(joints.flatten(1), 1).view(joints.shape)
    assert 0 < (posteriors.sum(2) * ~near).sum(1).max() < 2**-24
    assert near.any(1).all()
    assert near.float().mean() < 0.5


@pytest.mark.parametrize(
    ("dim", "num_components"),
    [(1, 256), (1, 1024), (39, 256), (39, 1000), (80, 1000), (80, 1024), (768, 256), (768, 1000)],
)
def test_sums_are_exact_to_float32(dim, num_components, monkeypatch) -> None:
    x, model = made_up(dim, num_components)
    screened = []

    def counted(*arguments: Any) -> LikelyGroups:
        screened.append(arguments)
        return joints_of_groups(*arguments)

    monkeypatch.setattr(screened_pairs, "joints_of_groups", counted)
    kernel = ScreenedPairsKernel(num_components, x.mean(0))
    assert kernel_error(x, model, x.mean(0), kernel) < 1
    assert bool(screened) == (dim > 1)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_sums_of_speech_and_silence_at_the_floor_are_exact_to_float32(offset, frames) -> None:
    silence = torch.full((1500, 80), math.log(1e-6))
    mixed = (
        torch.cat([frames, silence])[
            torch.randperm(len(frames) + 1500, generator=torch.Generator().manual_seed(0))
        ]
        + offset
    )
    model = speech_model(mixed, 300)
    model.means[:3] = silence[0] + offset
    model = replace(model, log_vars=torch.full_like(model.log_vars, math.log(0.1)))
    center = mixed.mean(0)
    assert kernel_error(mixed, model, center, ScreenedPairsKernel(300, center)) < 1


def test_groups_that_are_filled_up_or_without_weight_are_dropped(frames) -> None:
    """Whatever is beside them: a group has those of one sort."""
    model = speech_model(frames)
    model.log_weights[::2] = -math.inf
    matrix, bias = model.affine_map(frames.mean(0))
    screen = Screen(matrix, bias)
    out = torch.empty(len(frames), K, dtype=torch.bfloat16)
    near = screen.near(expand(frames - frames.mean(0)), out)
    without = model.log_weights[screen.members].isinf().all(1)
    assert int(without.sum()) == K // 2 // GROUP_SIZE
    assert not near[:, without].any()
    assert near[:, ~without].any(1).all()


def test_a_map_without_a_bound_drops_nothing(frames) -> None:
    """More dimensions than float32 can add up to 8 bits."""
    dim = 200_000
    center = torch.zeros(dim)
    model = Mixture(torch.randn(32, dim), torch.zeros(32, dim), torch.full((32,), -math.log(32)))
    screen = Screen(*model.affine_map(center))
    near = screen.near(expand(model.means[:2]), torch.empty(2, 32, dtype=torch.bfloat16))
    assert near.all()

"""The statistics kernel and the exact log joints, against the Gaussian formula in float64."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gmmpipe.mixture.density import BLOCK_FRAMES, StatisticsKernel, exact_log_joints
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.mixture.seeding import seed_mixture

K = 24
FLOOR = 0.1
SILENCE = math.log(1e-6)
Model = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def model(frames: Tensor) -> Model:
    return as_model(seed_mixture(frames, K, FLOOR, seed=0))


def as_model(parameters: Parameters) -> Model:
    return parameters.means, parameters.log_vars, parameters.log_weights


def at_floor(model: Model) -> Model:
    return model[0], torch.full_like(model[1], math.log(FLOOR)), model[2]


def silence(count: int) -> Tensor:
    return torch.full((count, 80), SILENCE)


def gaussian_log_joints(frames: Tensor, model: Model) -> Tensor:
    """ln w_k N(x; mean_k, var_k) as the textbook has it, float64 [N, K]."""
    x, means, log_vars, log_weights = (value.double() for value in (frames, *model))
    columns = []
    for mean, variance, log_weight in zip(means, log_vars.exp(), log_weights, strict=True):
        exponent = ((x - mean).square() / variance).sum(1)
        columns.append(log_weight - 0.5 * (exponent + (2 * math.pi * variance).log().sum()))
    return torch.stack(columns, 1)


def relative_errors(frames: Tensor, model: Model, center: Tensor) -> list[float]:
    """Largest error of counts, first and second moments, relative to their largest entry."""
    got = StatisticsKernel(len(model[0]), center)(frames, *model)
    posteriors = torch.softmax(gaussian_log_joints(frames, model), 1)
    centred = frames.double() - center.double()
    dim = len(center)
    pairs = [
        (got.counts, posteriors.sum(0)),
        (got.moments[:, :dim], posteriors.t() @ centred),
        (got.moments[:, dim:], posteriors.t() @ centred.square()),
    ]
    return [float((here.double() - there).abs().max() / there.abs().max()) for here, there in pairs]


def test_statistics_of_speech_are_exact_to_a_few_float32_roundings(frames, model) -> None:
    assert len(frames) % BLOCK_FRAMES, "the last block should be a part of one"
    assert max(relative_errors(frames, model, frames.mean(0))) < 4e-6


def test_statistics_with_all_variances_at_the_floor_keep_five_digits(frames, model) -> None:
    assert max(relative_errors(frames, at_floor(model), frames.mean(0))) < 1e-5


def test_statistics_of_frames_far_from_zero_are_as_exact(frames, model) -> None:
    far, moved = frames + 100, (model[0] + 100, *model[1:])
    assert max(relative_errors(far, moved, far.mean(0))) < 4e-6


@pytest.mark.parametrize("count", [1, BLOCK_FRAMES - 1, BLOCK_FRAMES, BLOCK_FRAMES + 1])
def test_statistics_do_not_depend_on_where_blocks_end(count, frames, model) -> None:
    assert max(relative_errors(frames[:count], model, frames.mean(0))) < 4e-6


def test_statistics_of_float16_frames_are_those_of_the_same_values_in_float32(
    frames, model
) -> None:
    kernel = StatisticsKernel(K, frames.mean(0))
    half = kernel(frames.half(), *model).flat.clone()
    assert torch.equal(half, kernel(frames, *model).flat)


def test_statistics_of_digital_silence_beside_speech(frames) -> None:
    mixed = torch.cat([frames, silence(3000)])
    fitted = as_model(seed_mixture(mixed, K, FLOOR, seed=0))
    assert fitted[1].min() == pytest.approx(math.log(FLOOR)), "silence alone has no variance"
    assert max(relative_errors(mixed, fitted, mixed.mean(0))) < 1e-5


@pytest.mark.parametrize(
    ("centre_on", "bound"),
    # Far from the centre, variances at the floor make the map's terms cancel: what fitting bears.
    [("silence", 4e-5), ("speech", 4e-2)],
)
def test_statistics_of_near_identical_components_on_digital_silence(
    centre_on, bound, frames, model
) -> None:
    near = silence(K) + 0.05 * torch.randn(K, 80, generator=torch.Generator().manual_seed(0))
    center = {"silence": silence(1)[0], "speech": frames.mean(0)}[centre_on]
    crowded = (near, at_floor(model)[1], model[2])
    assert max(relative_errors(silence(3000), crowded, center)) < bound


def test_no_frames_give_no_statistics_even_after_others(frames, model) -> None:
    kernel = StatisticsKernel(K, frames.mean(0), extra=2)
    kernel(frames, *model).extra.fill_(7.0)
    empty = kernel(frames[:0], *model)
    assert torch.equal(empty.flat, torch.zeros(K * 161 + 2))


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_statistics_of_parts_add_up_to_those_of_the_whole(size, frames, model) -> None:
    kernel = StatisticsKernel(K, frames.mean(0))
    whole = kernel(frames, *model).flat.clone()
    parts = torch.zeros_like(whole)
    for part in torch.tensor_split(frames, size):
        parts += kernel(part, *model).flat
    assert (parts - whole).abs().max() < 1e-5 * whole.abs().max()


def all_joints(frames: Tensor, model: Model) -> Tensor:
    blocks = [(rows, joints.clone()) for rows, _, joints in exact_log_joints(frames, *model)]
    out = torch.full((len(frames), len(model[0])), torch.nan, dtype=torch.float64)
    for rows, joints in blocks:
        out[rows] = joints
    return out


@pytest.mark.parametrize("offset", [0, 100])
@pytest.mark.parametrize("data", ["speech", "silence"])
def test_exact_log_joints_are_the_formula_to_nine_digits(data, offset, frames, model) -> None:
    x = {"speech": frames, "silence": silence(2100)}[data] + offset
    moved = (model[0] + offset, *at_floor(model)[1:])
    expected = gaussian_log_joints(x, moved)
    assert torch.allclose(all_joints(x, moved), expected, rtol=1e-11, atol=1e-9)


def test_exact_log_joints_are_those_of_scikit_learn(frames, model) -> None:
    reference = GradientGMM(*model).to_sklearn()
    theirs = reference._estimate_weighted_log_prob(frames.double().numpy())
    assert np.abs(all_joints(frames, model).numpy() - theirs).max() < 1e-4  # float32 log weights

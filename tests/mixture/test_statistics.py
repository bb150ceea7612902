"""The statistics kernel and the exact log joints, against the Gaussian formula in float64.

Mixtures are made, not seeded: a seeding chooses frames, and rounding, which is the processor's, can
tip its choice. The errors of float32 statistics are held to what its arithmetic allows for the very
frames and mixture at hand (`rounding`), not to a number that some mixtures happen to keep.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rounding import error_of_bound, expected_and_bound, gaussian_log_joints, kernel_error
from torch import Tensor

from gmmpipe.mixture import statistics
from gmmpipe.mixture.fused_statistics import FusedStatisticsKernel, split_bias
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.mixture.hard_statistics import HardStatisticsKernel
from gmmpipe.mixture.kernels import CPU_KERNELS, KERNELS, statistics_kernel
from gmmpipe.mixture.mixture import BLOCK_FRAMES, Mixture
from gmmpipe.mixture.statistics import StatisticsKernel

K, D = 24, 80
FLOOR = 0.1
SILENCE = math.log(1e-6)


def make_model(frames: Tensor, seed: int, spread: str) -> Mixture:
    """Means at random frames; variances of all speech, of a small cluster of it, or the floor."""
    numbers = torch.randperm(len(frames), generator=torch.Generator().manual_seed(seed))[:K]
    variances = frames.var(0).expand(K, D) * {"wide": 1.0, "narrow": 1 / 16, "floor": 0.0}[spread]
    log_weights = torch.log_softmax(torch.linspace(-1, 1, K), 0)
    return Mixture(frames[numbers].clone(), variances.clamp(min=FLOOR).log(), log_weights)


def moved(model: Mixture, offset: float) -> Mixture:
    return replace(model, means=model.means + offset)


@pytest.fixture(scope="module")
def model(frames: Tensor) -> Mixture:
    return make_model(frames, 0, "narrow")


@pytest.fixture(params=range(5))
def seed(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(params=["wide", "narrow", "floor"])
def spread(request: pytest.FixtureRequest) -> str:
    return request.param


def at_floor(model: Mixture) -> Mixture:
    return replace(model, log_vars=torch.full_like(model.log_vars, math.log(FLOOR)))


def silence(count: int) -> Tensor:
    return torch.full((count, D), SILENCE)


def test_statistics_of_speech_are_exact_to_float32(seed, spread, frames) -> None:
    assert len(frames) % BLOCK_FRAMES, "the last block should be a part of one"
    assert kernel_error(frames, make_model(frames, seed, spread), frames.mean(0)) < 1


def test_statistics_of_frames_far_from_zero_are_as_exact(seed, spread, frames) -> None:
    made, far = make_model(frames, seed, spread), frames + 100
    assert kernel_error(far, moved(made, 100), far.mean(0)) < 1


def test_products_of_ten_bits_would_be_noticed(seed, spread, frames, monkeypatch) -> None:
    """As TF32 has them, the coarsest that a GPU calls float32: 13 bits of 23 are cut off."""
    made, center = make_model(frames, seed, spread), frames.mean(0)
    expand = statistics.expand

    def coarse(*arguments: Tensor) -> Tensor:
        expanded = expand(*arguments)
        expanded.view(torch.int32).bitwise_and_(-(1 << 13))
        return expanded

    monkeypatch.setattr(statistics, "expand", coarse)
    assert kernel_error(frames, made, center) > 1


def test_frames_that_are_not_centred_would_be_noticed(seed, spread, frames) -> None:
    far, model = frames + 300, moved(make_model(frames, seed, spread), 300)
    expected, bound = expected_and_bound(far, model, far.mean(0))
    counts = StatisticsKernel(K, torch.zeros(D))(far, model).counts
    assert ((counts.double() - expected[:, -1]).abs() / bound[:, -1]).max() > 1


@pytest.mark.parametrize("kind", CPU_KERNELS)
@pytest.mark.parametrize("dim", [1, 39, 80, 768, 2048])
def test_statistics_are_exact_for_any_number_of_dimensions(dim, kind) -> None:
    """Frames of a made-up mixture, at scales from 0.1 to 30; but at D = 1 few pairs are likely."""
    draw = torch.Generator().manual_seed(dim)
    num_components, scales = 96, torch.logspace(-1, 1.5, dim)
    means = scales * torch.randn(num_components, dim, generator=draw) * 8 / math.sqrt(dim)
    log_vars = 2 * scales.log() + 0.1 * torch.randn(num_components, dim, generator=draw)
    made = Mixture(means, log_vars, torch.full((num_components,), -math.log(num_components)))
    chosen = torch.randint(num_components, (520,), generator=draw)
    noise = torch.randn(520, dim, generator=draw) * (0.5 * log_vars[chosen]).exp()
    x = means[chosen] + noise
    kernel = statistics_kernel(num_components, x.mean(0), kind=kind)
    assert kernel_error(x, made, x.mean(0), kernel) < 1
    expected = gaussian_log_joints(x, made)
    assert torch.allclose(all_joints(x, made), expected, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize(
    ("device", "num_components", "has_bfloat16", "kind"),
    [
        ("cpu", 255, True, "all_pairs"),
        ("cpu", 256, False, "likely_pairs"),
        ("cpu", 256, True, "screened_pairs"),
        ("meta", 1024, True, "fused_pairs"),
    ],
)
def test_what_suits_a_device_and_a_number_of_components_is_chosen(
    device, num_components, has_bfloat16, kind, monkeypatch
) -> None:
    capabilities = {"avx512_bf16": has_bfloat16}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert type(statistics_kernel(num_components, torch.zeros(3, device=device))) is KERNELS[kind]


@pytest.mark.parametrize("kernel", [FusedStatisticsKernel, HardStatisticsKernel])
@pytest.mark.parametrize("span", [300, 16384])
def test_frames_of_no_weight_add_nothing(kernel, span, frames, model, monkeypatch) -> None:
    """Whatever they are, and wherever they stand; the kernel can be used without weights then."""
    monkeypatch.setattr(statistics, "SPAN_FRAMES", span)
    some, center = frames[:900], frames.mean(0)
    sums = kernel(K, center, block=256) if kernel is FusedStatisticsKernel else kernel(K, center)
    expected = sums(some, model).flat.clone()
    weights = (torch.arange(1200) % 4 != 3).float()
    padded = torch.full((1200, D), 1000.0)
    padded[weights > 0] = some
    sums.load(padded, weights)
    found = sums.sum_loaded(model).flat.clone()
    assert sums.statistics.counts.sum() == pytest.approx(900, rel=1e-6)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.02)
    assert torch.equal(sums(some, model).flat, expected)


def test_a_weight_of_zero_has_no_part_in_frames_of_no_weight_either(frames, model) -> None:
    """Minus infinity times nothing would be NaN, and would spoil every sum."""
    log_weights = model.log_weights.clone()
    log_weights[3] = -math.inf
    kernel = FusedStatisticsKernel(K, frames.mean(0))
    kernel.load(frames[:1000], (torch.arange(1000) % 3 > 0).float())
    found = kernel.sum_loaded(replace(model, log_weights=log_weights))
    assert found.flat.isfinite().all()
    assert found.counts[3] == 0
    assert found.counts.sum() == pytest.approx(666, rel=1e-6)


def test_a_bias_in_two_parts_outlasts_products_of_ten_bits() -> None:
    bias = torch.tensor([-1234.5678, -0.001, 777.77, 0.0])
    parts = split_bias(bias)
    assert torch.equal(parts.sum(1), bias)
    coarse = parts.view(torch.int32).bitwise_and(-(1 << 13)).view(torch.float32).sum(1)
    assert ((coarse - bias).abs() <= 1e-5 * bias.abs()).all()
    alone = bias.view(torch.int32).bitwise_and(-(1 << 13)).view(torch.float32)
    assert (alone - bias).abs().max() > 0.1


@pytest.mark.parametrize("count", [1, BLOCK_FRAMES - 1, BLOCK_FRAMES, BLOCK_FRAMES + 1])
def test_statistics_do_not_depend_on_where_blocks_end(count, frames, model) -> None:
    assert kernel_error(frames[:count], model, frames.mean(0)) < 1


def test_statistics_of_float16_frames_are_those_of_the_same_values_in_float32(
    frames, model
) -> None:
    kernel = StatisticsKernel(K, frames.mean(0))
    half = kernel(frames.half(), model).flat.clone()
    assert torch.equal(half, kernel(frames, model).flat)


def test_statistics_of_digital_silence_beside_speech(seed, spread, frames) -> None:
    """Silence alone has no variance, so the component that sits on it is at the floor."""
    mixed = torch.cat([frames, silence(3000)])
    model = make_model(frames, seed, spread)
    model.means[0], model.log_vars[0] = SILENCE, math.log(FLOOR)
    assert kernel_error(mixed, model, mixed.mean(0)) < 1


@pytest.mark.parametrize("centre_on", ["silence", "speech"])
def test_statistics_of_near_identical_components_on_digital_silence(
    centre_on, seed, frames, model
) -> None:
    """Far from the centre, variances at the floor make the map's terms cancel: fitting bears it."""
    generator = torch.Generator().manual_seed(seed)
    near = silence(K) + 0.05 * torch.randn(K, D, generator=generator)
    center = {"silence": silence(1)[0], "speech": frames.mean(0)}[centre_on]
    assert kernel_error(silence(3000), replace(at_floor(model), means=near), center) < 1


def test_no_frames_give_no_statistics_even_after_others(frames, model) -> None:
    kernel = StatisticsKernel(K, frames.mean(0), extra=2)
    kernel(frames, model).extra.fill_(7.0)
    empty = kernel(frames[:0], model)
    assert torch.equal(empty.flat, torch.zeros(K * 161 + 2))


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_statistics_of_parts_add_up_to_those_of_the_whole(size, frames, model) -> None:
    """A frame that is left out or counted twice is beyond the bound by far."""
    kernel = StatisticsKernel(K, frames.mean(0))
    parts = torch.zeros(K, 2 * D + 1)
    for part in torch.tensor_split(frames, size):
        parts += kernel(part, model).sums
    assert error_of_bound(parts, frames, model, frames.mean(0)) < 1
    parts += kernel(frames[:1], model).sums
    assert error_of_bound(parts, frames, model, frames.mean(0)) > 10


def all_joints(frames: Tensor, model: Mixture) -> Tensor:
    blocks = [(rows, joints.clone()) for rows, _, joints in model.log_joints(frames)]
    out = torch.full((len(frames), model.num_components), torch.nan, dtype=torch.float64)
    for rows, joints in blocks:
        out[rows] = joints
    return out


@pytest.mark.parametrize("offset", [0, 100])
@pytest.mark.parametrize("data", ["speech", "silence"])
def test_exact_log_joints_are_the_formula_to_nine_digits(data, offset, frames, model) -> None:
    x = {"speech": frames, "silence": silence(2100)}[data] + offset
    shifted = moved(at_floor(model), offset)
    expected = gaussian_log_joints(x, shifted)
    assert torch.allclose(all_joints(x, shifted), expected, rtol=1e-11, atol=1e-9)


def test_exact_log_joints_are_those_of_scikit_learn(frames, model) -> None:
    reference = GradientGMM.of(model).to_sklearn()
    theirs = reference._estimate_weighted_log_prob(frames.double().numpy())
    assert np.abs(all_joints(frames, model).numpy() - theirs).max() < 1e-4  # float32 log weights

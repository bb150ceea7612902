"""Steps on sufficient statistics: the gradient, Adam, the M-step of EM, and stepwise EM."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from gmmpipe.mixture.adam import Adam, nll_gradient
from gmmpipe.mixture.em import StepwiseEM, m_step
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.mixture.optimizer import StepConstants
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.mixture.statistics import Statistics, StatisticsKernel

K, D = 16, 80
FLOOR = 0.1
LR = 1e-2
CONSTANTS = StepConstants(torch.zeros(D), 500, LR, FLOOR)


@pytest.fixture(scope="module")
def sample(frames: Tensor) -> Tensor:
    return frames[::3]


@pytest.fixture(scope="module")
def parameters(sample: Tensor) -> Parameters:
    """Far from the optimum, and with logits that are not normalised.

    Made from the sample by sums alone: a seeding chooses frames, and rounding, which is the
    processor's, can tip its choice. Variances are those of the whole sample, so that every
    component shares some 28 frames or more, and none has band-limited speech to itself: some mel
    bins of that are constants, whose variance scikit-learn's M-step finds to be below 0. Such bins
    and silence are in tests/mixture/test_statistics.py.
    """
    means = torch.stack([group.mean(0) for group in sample.tensor_split(K)])
    log_vars = sample.var(0, correction=0).log().expand(K, D)
    moved = Parameters.of(Mixture(means, log_vars, torch.zeros(K)))
    moved.flat.add_(0.3 * torch.randn(len(moved.flat), generator=torch.Generator().manual_seed(4)))
    moved.logits.add_(5.0)
    return moved


def log_joints(frames: Tensor, means: Tensor, log_vars: Tensor, logits: Tensor) -> Tensor:
    difference = frames[:, None] - means
    exponent = (difference.square() * torch.exp(-log_vars) + log_vars).sum(2)
    return torch.log_softmax(logits, 0) - 0.5 * (exponent + D * math.log(2 * math.pi))


def mean_nll(frames: Tensor, parameters: Parameters) -> float:
    model = (parameters.means.double(), parameters.log_vars.double(), parameters.logits.double())
    joints = [log_joints(block.double(), *model) for block in frames.split(512)]
    return -float(torch.logsumexp(torch.cat(joints), 1).mean())


def statistics_of(frames: Tensor, parameters: Parameters, center: Tensor) -> Statistics:
    return StatisticsKernel(len(parameters.means), center)(frames, parameters.mixture)


def autograd_gradient(frames: Tensor, parameters: Parameters) -> Parameters:
    flat = parameters.flat.double().requires_grad_()
    view = Parameters.view(flat, K, D)
    for block in frames.double().split(512):
        joints = log_joints(block, view.means, view.log_vars, view.logits)
        (-torch.logsumexp(joints, 1).sum() / len(frames)).backward()
    return Parameters.view(flat.grad, K, D)


def test_the_formula_of_the_gradient_is_that_of_autograd(sample, parameters) -> None:
    """With statistics in float64, so that nothing but the formula is at stake."""
    wide = Parameters.view(parameters.flat.double(), K, D)
    center = sample.double().mean(0)
    joints = [
        log_joints(x, wide.means, wide.log_vars, wide.logits) for x in sample.double().split(512)
    ]
    posteriors = torch.softmax(torch.cat(joints), 1)
    centred = sample.double() - center
    expanded = torch.cat([centred, centred.square(), torch.ones(len(centred), 1)], 1)
    statistics = Statistics(center, torch.empty(0), posteriors.t() @ expanded, torch.empty(0))
    gradient = Parameters.view(torch.zeros_like(wide.flat), K, D)
    nll_gradient(statistics, wide, len(sample), out=gradient)
    expected = autograd_gradient(sample, parameters)
    torch.testing.assert_close(gradient.flat, expected.flat, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("part", "bound"),
    # Where a second moment about the mean is taken from one about the centre, digits cancel.
    [("means", 2e-5), ("log_vars", 3e-4), ("logits", 1e-5)],
)
def test_the_gradient_in_float32_is_that_of_autograd_in_float64(
    part, bound, sample, parameters
) -> None:
    center = sample.mean(0)
    gradient = parameters.clone()
    statistics = statistics_of(sample, parameters, center)
    nll_gradient(statistics, parameters, len(sample), out=gradient)
    here, there = getattr(gradient, part), getattr(autograd_gradient(sample, parameters), part)
    assert (here - there).abs().max() < bound * there.abs().max()


def test_em_never_lowers_the_likelihood(sample, parameters) -> None:
    fitted, center = parameters.clone(), sample.mean(0)
    fitted.log_vars.clamp_(min=math.log(FLOOR))
    losses = [mean_nll(sample, fitted)]
    for _ in range(6):
        m_step(statistics_of(sample, fitted, center), fitted, FLOOR)
        losses.append(mean_nll(sample, fitted))
    assert all(after < before + 1e-6 for before, after in pairwise(losses))
    assert losses[-1] < losses[0] - 1.0, "from a disturbed start there is much to gain"


def test_an_m_step_is_that_of_scikit_learn(sample, parameters) -> None:
    here, center = parameters.clone(), sample.mean(0)
    model = GradientGMM.of(here.mixture).to_sklearn()
    m_step(statistics_of(sample, here, center), here, var_floor=1e-6)
    model.reg_covar = 0.0
    _, log_posteriors = GaussianMixture._e_step(model, sample.double().numpy())
    model._m_step(sample.double().numpy(), log_posteriors)
    assert np.allclose(here.mixture.log_weights.exp().numpy(), model.weights_, atol=1e-6)
    assert np.allclose(here.means.numpy(), model.means_, atol=2e-5)
    assert np.allclose(here.log_vars.exp().numpy(), model.covariances_, rtol=1e-5, atol=3e-4)


def test_an_m_step_keeps_variances_at_or_above_the_floor(sample, parameters) -> None:
    here, center = parameters.clone(), sample.mean(0)
    m_step(statistics_of(sample, here, center), here, var_floor=2.0)
    assert here.log_vars.min() == pytest.approx(math.log(2.0), abs=1e-6)


def test_a_component_without_responsibility_keeps_its_place(sample, parameters) -> None:
    here, center = parameters.clone(), sample.mean(0)
    here.means[3] = 1e4
    before = here.clone()
    statistics = statistics_of(sample, here, center)
    assert statistics.counts[3] == 0
    m_step(statistics, here, FLOOR)
    assert torch.equal(here.means[3], before.means[3])
    assert torch.equal(here.log_vars[3], before.log_vars[3])
    assert not torch.equal(here.means[2], before.means[2])
    assert torch.isfinite(here.flat).all()
    assert here.mixture.log_weights[3] < -10


def gradients(count: int, size: int = 500) -> list[Tensor]:
    """Of sizes from 1e-6 to 1e2, as the gradients of unlike parameters are."""
    generator = torch.Generator().manual_seed(3)
    size_of_each = torch.logspace(-6, 2, size)
    return [size_of_each * torch.randn(size, generator=generator) for _ in range(count)]


def descend(adam: Adam, values: Tensor, gradient: Tensor, lr: float) -> None:
    """A step of Adam, counted."""
    adam.descend(values, gradient, *adam.corrected(lr))
    adam.count_steps()


def test_adam_is_torch_optims_adam_over_200_steps() -> None:
    start = torch.randn(500, generator=torch.Generator().manual_seed(4))
    ours, theirs = start.clone(), start.clone().requires_grad_()
    adam = Adam(torch.ones(500), CONSTANTS)
    reference = torch.optim.Adam([theirs], lr=1.0)
    for step, gradient in enumerate(gradients(200)):
        lr = 1e-2 * (1 + math.cos(step / 50))
        descend(adam, ours, gradient, lr)
        theirs.grad = gradient.clone()
        reference.param_groups[0]["lr"] = lr
        reference.step()
    assert (ours - start).abs().min() > 1e-4, "every coordinate should have moved"
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=2e-6)


def test_adams_scale_is_a_learning_rate_of_each_coordinate() -> None:
    one, three = torch.zeros(500), torch.zeros(500)
    adams = Adam(torch.ones(500), CONSTANTS), Adam(torch.full((500,), 3.0), CONSTANTS)
    for gradient in gradients(5):
        for adam, values in zip(adams, (one, three), strict=True):
            descend(adam, values, gradient, 1e-2)
    torch.testing.assert_close(three, 3 * one)


def test_adam_goes_on_exactly_from_its_state() -> None:
    whole, parts = torch.zeros(500), torch.zeros(500)
    adam, first = (Adam(torch.linspace(1, 2, 500), CONSTANTS) for _ in range(2))
    steps = gradients(20)
    for gradient in steps:
        descend(adam, whole, gradient, 1e-2)
    for gradient in steps[:10]:
        descend(first, parts, gradient, 1e-2)
    second = Adam.from_state(first.state_dict(), CONSTANTS)
    for gradient in steps[10:]:
        descend(second, parts, gradient, 1e-2)
    assert torch.equal(whole, parts)


@pytest.mark.parametrize("count", [2**24, 2**31 - 1, 2**31, 2**53])
def test_adam_counts_its_steps_beyond_what_narrow_numbers_hold(count) -> None:
    adam = Adam(torch.ones(3), CONSTANTS)
    adam = Adam.from_state({**adam.state_dict(), "count": count}, CONSTANTS)
    values = torch.zeros(3)
    descend(adam, values, torch.ones(3), 1.0)
    assert adam.state_dict()["count"] == count + 1
    assert isinstance(adam.state_dict()["count"], int)
    # Bias corrections are gone by then: (1 - 0.9) / sqrt(1 - 0.999).
    assert values.tolist() == pytest.approx([-0.1 / math.sqrt(0.001)] * 3, rel=1e-4)


def test_a_step_of_adam_follows_the_gradient_and_stops_at_the_floor(sample, parameters) -> None:
    here, center = parameters.clone(), sample.mean(0)
    statistics = statistics_of(sample, here, center)
    gradient = here.clone()
    nll_gradient(statistics, here, len(sample), out=gradient)
    adam = Adam(torch.ones_like(here.flat), replace(CONSTANTS, frames=len(sample)))
    adam.step(statistics, here, *adam.corrected(0.1))
    # Adam's first step is lr times the sign of the gradient.
    expected = parameters.flat - 0.1 * gradient.flat.sign()
    low = Parameters.view(expected, K, D)
    low.log_vars.clamp_(min=math.log(FLOOR))
    large = gradient.flat.abs() > 1e-4
    assert large.double().mean() > 0.5
    torch.testing.assert_close(here.flat[large], low.flat[large], rtol=0, atol=1e-4)
    assert here.log_vars.min() >= math.log(FLOOR) - 1e-6


@pytest.mark.parametrize("steps", [2, 3, 50, 2000])
def test_adams_rate_falls_from_lr_to_a_hundredth_over_an_update(steps) -> None:
    adam = Adam(torch.ones(3), CONSTANTS)
    rates = [adam.rate_at(7, step / (steps - 1)) for step in range(steps)]
    assert rates[0] == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-4)
    assert rates == sorted(rates, reverse=True)
    middle = (rates[len(rates) // 2] + rates[(len(rates) - 1) // 2]) / 2
    assert middle == pytest.approx(0.505e-2), "a cosine is as far above its middle as below"


def test_the_weight_of_a_step_of_em_falls_over_all_updates() -> None:
    """As t^-power with a power between 1/2 and 1, where stepwise EM converges."""
    em = StepwiseEM(torch.zeros(K, 161), FLOOR)
    rates = [em.rate_at(step, step % 50 / 49) for step in range(500)]
    assert 0 < rates[-1] < rates[0] < 1
    assert rates == sorted(set(rates), reverse=True)
    far = [em.rate_at(50 * 10**n, 0.0) for n in (6, 9, 12)]
    powers = [math.log10(one / two) / 3 for one, two in pairwise(far)]
    assert powers == pytest.approx([powers[0]] * 2, rel=1e-3)
    assert 0.5 < powers[0] <= 1


def stepwise(frames: Tensor, parameters: Parameters, center: Tensor) -> StepwiseEM:
    return StepwiseEM(statistics_of(frames, parameters, center).sums, FLOOR)


def test_stepwise_em_on_all_frames_at_a_rate_of_one_is_em(sample, parameters) -> None:
    ours, theirs, center = parameters.clone(), parameters.clone(), sample.mean(0)
    em = stepwise(sample[:500], parameters, center)
    for _ in range(3):
        em.step(statistics_of(sample, ours, center), ours, 1.0)
        m_step(statistics_of(sample, theirs, center), theirs, FLOOR)
    torch.testing.assert_close(ours.flat, theirs.flat, rtol=1e-4, atol=1e-4)


def test_stepwise_em_describes_all_frames_better_having_seen_a_part_at_a_time(
    sample, parameters
) -> None:
    fitted, center = parameters.clone(), sample.mean(0)
    fitted.log_vars.clamp_(min=math.log(FLOOR))
    em = stepwise(sample, fitted, center)
    before = mean_nll(sample, fitted)
    for first in range(8):
        part = sample[first::8]
        em.step(statistics_of(part, fitted, center), fitted, 0.3)
    assert mean_nll(sample, fitted) < before - 1.0, "from a disturbed start there is much to gain"


def test_stepwise_em_takes_the_m_step_of_the_faded_sums(sample, parameters) -> None:
    """Each step's statistics count for its rate, and fade by what the later ones leave."""
    center, rates = sample.mean(0), [0.5, 0.25, 0.125]
    parts = sample[:1500].split(500)
    here, expected = parameters.clone(), parameters.clone()
    em = stepwise(parts[0], parameters, center)
    sums = statistics_of(parts[0], parameters, center).sums.double()
    for part, rate in zip(parts, rates, strict=True):
        statistics = statistics_of(part, here, center)
        sums = (1 - rate) * sums + rate * statistics.sums.double()
        em.step(statistics, here, rate)
    m_step(Statistics(center, torch.empty(0), sums, torch.empty(0)), expected, FLOOR)
    torch.testing.assert_close(here.flat, expected.flat, rtol=1e-6, atol=1e-6)


def test_stepwise_em_goes_on_exactly_from_its_state(sample, parameters) -> None:
    center = sample.mean(0)
    whole, parts = parameters.clone(), parameters.clone()
    em, first = (stepwise(sample, parameters, center) for _ in range(2))
    for number, part in enumerate(sample[:2000].split(200)):
        em.step(statistics_of(part, whole, center), whole, 0.1)
        if number == 5:
            first = StepwiseEM.from_state(first.state_dict(), CONSTANTS)
        first.step(statistics_of(part, parts, center), parts, 0.1)
    assert torch.equal(whole.flat, parts.flat)


def test_a_component_that_loses_all_its_frames_keeps_its_place_in_stepwise_em(
    sample, parameters
) -> None:
    """For thousands of steps: what it had fades to nothing, and nothing becomes NaN."""
    here, center = parameters.clone(), sample.mean(0)
    em = stepwise(sample, here, center)
    part = sample[:200]
    for _ in range(3):
        here.means[3] = 1e4  # out of reach of every frame
        em.step(statistics_of(part, here, center), here, 0.5)
    place, spread = here.means[3].clone(), here.log_vars[3].clone()
    statistics = statistics_of(part, here, center)
    statistics.sums[3] = 0.0
    for _ in range(5000):
        em.step(statistics, here, 0.5)
    assert torch.isfinite(here.flat).all()
    torch.testing.assert_close(here.means[3], place)
    torch.testing.assert_close(here.log_vars[3], spread)
    assert here.mixture.log_weights[3] < -10
    assert here.mixture.log_weights.exp().sum() == pytest.approx(1.0, abs=1e-5)


def test_stepwise_em_is_exact_close_to_the_floor(sample) -> None:
    """Variances of 1e-3 about means 10 from the centre: of their squares, 5 digits cancel."""
    generator = torch.Generator().manual_seed(5)
    groups = [sample[n * 50] + 0.03 * torch.randn(300, D, generator=generator) for n in (1, 9, 20)]
    frames, center = torch.cat(groups), sample.mean(0)
    floor = math.log(1e-4)
    means = torch.stack([group.mean(0) for group in groups])
    here = Parameters.of(Mixture(means, torch.full((3, D), -7.0), torch.zeros(3)))
    em = StepwiseEM(StatisticsKernel(3, center)(frames, here.mixture).sums, math.exp(floor))
    for _ in range(300):
        statistics = StatisticsKernel(3, center)(frames, here.mixture)
        em.step(statistics, here, 0.05)
    expected = torch.stack([group.double().var(0, correction=0) for group in groups])
    assert (here.log_vars.exp() / expected - 1).abs().max() < 0.1
    assert here.log_vars.min() >= floor

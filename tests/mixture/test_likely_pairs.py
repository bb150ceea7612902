"""Statistics of the likely pairs alone, against those of all pairs in float64.

Sums of at most 256 terms and then of some 30 such sums err by 2e-5 at the very worst, and by 1e-6
as a rule; one sum of 16,384 equal terms, by 1e-4.
"""

import math
from dataclasses import replace

import pytest
import torch
from rounding import kernel_error
from torch import Tensor
from torch.nn.functional import pad

from gmmpipe.mixture import likely_pairs
from gmmpipe.mixture.kernels import MIN_LIKELY_COMPONENTS
from gmmpipe.mixture.likely_pairs import (
    GROUP_SIZE,
    LikelyGroups,
    LikelyPairsKernel,
    add_likely_groups,
    find_likely_groups,
    margin,
)
from gmmpipe.mixture.mixture import BLOCK_FRAMES, Mixture
from gmmpipe.mixture.screened_pairs import ScreenedPairsKernel
from gmmpipe.mixture.statistics import Statistics

K = 300
PADDED = 304
assert K >= MIN_LIKELY_COMPONENTS
assert K < PADDED, "some components are there to fill a group up"
assert PADDED % GROUP_SIZE == 0


@pytest.fixture(scope="module")
def model(frames: Tensor) -> Mixture:
    """Means at every 28th frame, each with the variances of a small cluster of speech."""
    log_vars = (frames.var(0) / 16).log()
    return Mixture(frames[::28][:K].clone(), log_vars.repeat(K, 1), torch.full((K,), -math.log(K)))


@pytest.fixture(params=[LikelyPairsKernel, ScreenedPairsKernel])
def kind(request: pytest.FixtureRequest) -> type[LikelyPairsKernel]:
    return request.param


def log_joints(frames: Tensor, model: Mixture) -> Tensor:
    """Float32 [n, PADDED]."""
    joints = [joints.float() for _, _, joints in model.log_joints(frames)]
    return pad(torch.cat(joints), (0, PADDED - K), value=-math.inf)


def expand(frames: Tensor, center: Tensor) -> Tensor:
    centred = frames - center
    return torch.cat([centred, centred.square()], 1)


def errors(moments: Tensor, counts: Tensor, joints: Tensor, expanded: Tensor) -> list[float]:
    """Against all pairs of the same log joints in float64, relative to the largest entries."""
    posteriors = torch.softmax(joints[:, :K].double(), 1)
    pairs = [(counts, posteriors.sum(0))]
    expected = posteriors.t() @ expanded.double()
    pairs += list(zip(moments.split(80, 1), expected.split(80, 1), strict=True))
    return [float((here.double() - there).abs().max() / there.abs().max()) for here, there in pairs]


def largest_error_of_likely(joints: Tensor, expanded: Tensor) -> float:
    found = [find_likely_groups(part, 900 * n) for n, part in enumerate(joints.split(900))]
    assert None not in found, "there are few likely pairs here"
    statistics = Statistics.zeros(K, torch.zeros(80))
    members = torch.arange(PADDED).view(GROUP_SIZE, -1).t()
    add_likely_groups([part for part in found if part], members, expanded, statistics)
    return max(errors(statistics.moments, statistics.counts, joints, expanded))


@pytest.mark.parametrize("count", [1, 7, 901, 8561])
def test_sums_of_speech_are_those_of_all_pairs(count, frames, model) -> None:
    x = frames[:count]
    assert largest_error_of_likely(log_joints(x, model), expand(x, frames.mean(0))) < 1e-5


def test_long_sums_of_frames_that_are_all_alike_keep_their_digits(frames) -> None:
    """Digital silence: each addition to one sum of them all would round the same way."""
    silence = torch.full((20_000, 80), math.log(1e-6))
    joints = torch.full((len(silence), PADDED), -100.0)
    joints[:, 17] = 0.0
    assert largest_error_of_likely(joints, expand(silence, frames.mean(0))) < 1e-5


def test_what_is_left_out_of_a_frame_is_nothing_in_float32(frames, model) -> None:
    joints = log_joints(frames, model)
    posteriors = torch.softmax(joints.double(), 1)
    posteriors[joints > joints.amax(1, keepdim=True) - margin(K)] = 0.0
    assert 0 < posteriors.sum(1).max() < 2**-24


def test_each_likely_group_is_named_with_all_its_components(frames, model) -> None:
    joints = log_joints(frames[:50], model)
    found = find_likely_groups(joints, first_frame=1000)
    assert found is not None
    gaps = joints - joints.amax(1, keepdim=True)
    members = torch.arange(GROUP_SIZE) * (PADDED // GROUP_SIZE) + found.groups[:, None]
    assert torch.equal(found.gaps, gaps[found.frames - 1000].gather(1, members))
    near = -margin(PADDED)
    assert int((found.gaps > near).sum()) == int((gaps > near).sum()) > 50


@pytest.mark.parametrize("count", [1, BLOCK_FRAMES + 1, 8561])
def test_the_kernel_is_exact_to_roundings_of_log_joints(count, frames, model, kind) -> None:
    kernel = kind(K, frames.mean(0))
    assert kernel_error(frames[:count], model, frames.mean(0), kernel) < 1


def test_frames_of_which_many_components_are_likely_lose_none(frames, model, kind) -> None:
    flat = replace(model, log_vars=model.log_vars + 5.0)
    assert find_likely_groups(log_joints(frames, flat), 0) is None
    assert kernel_error(frames, flat, frames.mean(0), kind(K, frames.mean(0))) < 1


def test_blocks_of_either_sort_add_up(frames, model, kind) -> None:
    """Half of the components lie on one frame: many are likely there, and few elsewhere."""
    crowd = frames.mean(0).expand(K // 2, 80)
    mixed = replace(model, means=torch.cat([model.means[: K // 2], crowd]))
    x = torch.cat([frames[:BLOCK_FRAMES], crowd.repeat(4, 1)])
    first, *others = log_joints(x, mixed).split(BLOCK_FRAMES)
    assert find_likely_groups(first, 0)
    assert not any(find_likely_groups(other, 0) for other in others)
    assert kernel_error(x, mixed, frames.mean(0), kind(K, frames.mean(0))) < 1


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each search has found few likely groups, in turn."""
    ended = []

    def find(joints: Tensor, first_frame: int) -> LikelyGroups | None:
        found = find_likely_groups(joints, first_frame)
        ended.append(found is not None)
        return found

    monkeypatch.setattr(likely_pairs, "find_likely_groups", find)
    return ended


def test_each_block_with_few_likely_pairs_is_searched(frames, model, searches) -> None:
    LikelyPairsKernel(K, frames.mean(0))(frames, model)
    assert searches == [True] * math.ceil(len(frames) / BLOCK_FRAMES)


def test_few_blocks_are_searched_in_vain_whatever_was_summed_before(
    frames, model, searches
) -> None:
    """Of 17 blocks the first one, and one after each 1, 3 and 7 that are left out."""
    flat = replace(model, log_vars=model.log_vars + 5.0)
    kernel = LikelyPairsKernel(K, frames.mean(0))
    first = kernel(frames, flat).flat.clone()
    assert searches == [False] * 4
    assert torch.equal(kernel(frames, flat).flat, first)
    assert searches == [False] * 8


def test_blocks_of_either_sort_in_turn_add_up(frames, model, searches) -> None:
    crowd = frames.mean(0).expand(K // 2, 80)
    mixed = replace(model, means=torch.cat([model.means[: K // 2], crowd]))
    dense, one, two = crowd.repeat(4, 1)[:BLOCK_FRAMES], *frames.split(BLOCK_FRAMES)[:2]
    x = torch.cat([dense, one, two, one, dense, one, dense, dense, one, two, one])
    kernel = LikelyPairsKernel(K, frames.mean(0))
    assert kernel_error(x, mixed, frames.mean(0), kernel) < 1
    assert searches == [False, True, True, False, False, True]


def test_no_frames_give_nothing_even_after_others(frames, model, kind) -> None:
    kernel = kind(K, frames.mean(0))
    kernel(frames[:10], model)
    assert not kernel(frames[:0], model).flat.any()


def test_the_same_frames_give_the_same_bits(frames, model, kind) -> None:
    first, second = (kind(K, frames.mean(0))(frames, model).flat for _ in range(2))
    assert torch.equal(first, second)


def test_components_without_weight_get_nothing(frames, model, kind) -> None:
    log_weights = model.log_weights.clone()
    log_weights[::2] = -math.inf
    weighted = replace(model, log_weights=log_weights)
    counts = kind(K, frames.mean(0))(frames, weighted).counts
    assert counts[::2].abs().max() == 0.0
    assert float(counts.sum()) == pytest.approx(len(frames), rel=1e-6)


@pytest.mark.parametrize("variance", [1e-3, 1e-7, 3e-8, 1e-12])
def test_a_frame_counts_where_float32_has_no_digits_for_the_margin(variance, kind) -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(K, 80, generator=generator)
    frames = torch.randn(600, 80, generator=generator) + 3  # some 1e9 nats from every mean
    log_vars = torch.full((K, 80), math.log(variance))
    model = Mixture(means, log_vars, torch.full((K,), -math.log(K)))
    counts = kind(K, frames.mean(0))(frames, model).counts
    assert float(counts.sum()) == pytest.approx(600, rel=1e-5)


def test_nan_does_not_go_unnoticed(frames, model, kind) -> None:
    spoilt = frames[:1000].clone()
    spoilt[500, 7] = math.nan
    statistics = kind(K, frames.mean(0))(spoilt, model)
    assert statistics.counts.isnan().any()


def test_many_groups_are_summed_a_part_at_a_time(frames, model, kind) -> None:
    center = frames.mean(0)
    kernel = kind(K, center, max_groups=1000)
    assert kernel_error(frames, model, center, kernel) < 1

"""Log joints in float32 with the likely ones in float64: what is returned is float64's."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from gmmpipe import FeatureStore, GradientGMM
from gmmpipe.apply.label_shard import label_frames
from gmmpipe.features.mfcc_spec import MfccSpec
from gmmpipe.mixture import returned_joints
from gmmpipe.mixture.em import em_step
from gmmpipe.mixture.fast_joints import NUM_LIKELY, TOLERANCE, _FastJoints, fast_joints
from gmmpipe.mixture.floors import variance_floor
from gmmpipe.mixture.measures import EvaluationSums, UpdateSums
from gmmpipe.mixture.mixture import BLOCK_FRAMES, Mixture
from gmmpipe.mixture.returned_joints import joint_blocks, takes_float32
from gmmpipe.mixture.seeding import seed_mixture
from gmmpipe.store.schema import LabelIdentity
from helpers.making import CORPUS, make_store

TIE = 1e-4
"""Nats: where the two largest log joints are as near, either component is right."""


@dataclass(frozen=True)
class Compared:
    """The fast log joints of frames beside float64's.

    Args:
        score, posterior: the largest error of ln p(x), and of a posterior.
        wrong_labels: frames whose most likely component is another, beyond ties.
        num_exact: frames that were computed in float64 altogether.
    """

    score: float
    posterior: float
    wrong_labels: int
    num_exact: int


def compare(
    mixture: Mixture, frames: Tensor, temperature: float = 1.0, m: int = NUM_LIKELY
) -> Compared:
    score = posterior = 0.0
    wrong = num_exact = 0
    fast = fast_joints(mixture, frames, temperature)
    for block, (rows, wide, exact) in zip(fast, mixture.log_joints(frames), strict=True):
        assert (block.rows, block.joints.dtype) == (rows, torch.float32)
        assert torch.equal(block.frames, wide)
        score = max(score, float((block.scores() - torch.logsumexp(exact, 1)).abs().max()))
        soft = torch.softmax(block.joints.double() / temperature, 1)
        posterior = max(
            posterior, float((soft - torch.softmax(exact / temperature, 1)).abs().max())
        )
        ours = exact.gather(1, block.joints.argmax(1, keepdim=True))
        wrong += int((exact.amax(1, keepdim=True) - ours > TIE).sum())
        num_exact += block.num_exact
    return Compared(score, posterior, wrong, num_exact)


def is_as_promised(found: Compared) -> bool:
    return found.score < 1e-4 and found.posterior < 1e-4 and not found.wrong_labels


@pytest.fixture(scope="module")
def mfcc(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    folder = tmp_path_factory.mktemp("mfcc") / "store"
    store = FeatureStore.open(make_store(CORPUS, folder, features=MfccSpec(n_mels=23)))
    return store.read_frames(0, store.num_frames)


@pytest.fixture(scope="module")
def wide(frames: Tensor) -> Tensor:
    """Ten frames in a row as one of 768 dimensions: [4000, 768]."""
    return torch.cat([frames.roll(-shift, 0) for shift in range(10)], 1)[:4000, :768]


@pytest.fixture(scope="module")
def model(frames: Tensor) -> Mixture:
    return seed_mixture(frames, 256, 0.1, seed=0).mixture


@pytest.mark.parametrize("num_components", [64, 256, 1024])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_on_speech_hardly_a_frame_needs_float64(num_components, temperature, frames) -> None:
    mixture = seed_mixture(frames, num_components, 0.1, seed=0).mixture
    found = compare(mixture, frames, temperature)
    assert is_as_promised(found)
    assert found.num_exact < len(frames) * (0.001 if temperature == 1.0 else 0.1)


@pytest.mark.parametrize("floor", [0.1, "1%"])
def test_so_it_is_for_mfcc(floor, mfcc) -> None:
    mixture = seed_mixture(mfcc, 1024, variance_floor(mfcc, floor), seed=0).mixture
    found = compare(mixture, mfcc)
    assert is_as_promised(found)
    assert found.num_exact < 0.1 * len(mfcc)


def test_so_it_is_in_768_dimensions(wide) -> None:
    found = compare(seed_mixture(wide, 256, 0.1, seed=0).mixture, wide)
    assert is_as_promised(found)
    assert found.num_exact < 0.1 * len(wide)


def with_tight_components(model: Mixture) -> Mixture:
    return replace(model, log_vars=torch.full_like(model.log_vars, math.log(1e-4)))


def with_far_means(model: Mixture) -> Mixture:
    means = model.means.clone()
    means[::7] += 1e6
    return replace(model, means=means)


def with_means_beyond_float32(model: Mixture) -> Mixture:
    means = model.means.clone()
    means[3] = 1e25
    return replace(model, means=means)


def with_weights_of_zero(model: Mixture) -> Mixture:
    weights = model.log_weights.exp()
    weights[20:] = 0.0
    return replace(model, log_weights=(weights / weights.sum()).log())


def with_equal_components(model: Mixture) -> Mixture:
    return Mixture(*(part[torch.arange(256) // 2] for part in vars(model).values()))


def with_all_alike(model: Mixture) -> Mixture:
    draw = torch.Generator().manual_seed(0)
    means = model.means[:1] + 1e-3 * torch.randn(256, 80, generator=draw)
    return Mixture(means, torch.zeros(256, 80), torch.full((256,), -math.log(256)))


def with_two_clouds_apart(model: Mixture) -> Mixture:
    """Far from the mean of the means on either side: the terms cancel to nothing in float32."""
    means = model.means.clone()
    means[128:] += 3e4
    return with_tight_components(replace(model, means=means))


HOSTILE: dict[str, tuple[Callable[[Mixture], Mixture], bool | None]] = {
    "tight": (with_tight_components, None),
    "far means": (with_far_means, None),
    "beyond float32": (with_means_beyond_float32, True),
    "weights of 0": (with_weights_of_zero, None),
    "equal components": (with_equal_components, False),
    "all alike": (with_all_alike, True),
    "two clouds": (with_two_clouds_apart, True),
}
"""A change of a mixture, and whether all frames need float64 then, or nearly none (None: some)."""


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_mixture_costs_time_and_no_digits(hostile, model, frames) -> None:
    change, needs_float64 = HOSTILE[hostile]
    x = frames[:3000]
    found = compare(change(model), x)
    assert is_as_promised(found)
    if needs_float64 is not None:
        assert found.num_exact == len(x) if needs_float64 else found.num_exact < 0.01 * len(x)


@pytest.mark.parametrize("count", [2, 7, 17, 18])
def test_a_mixture_may_have_hardly_more_components_than_are_likely(count, model, frames) -> None:
    few = Mixture(*(part[:count] for part in vars(model).values()))
    few = replace(few, log_weights=torch.log_softmax(few.log_weights, 0))
    assert is_as_promised(compare(few, frames[:1000]))


@pytest.mark.parametrize("place", [math.nan, math.inf, -math.inf, 1e30, 1e12])
def test_frames_that_are_none_are_what_float64_makes_of_them(place, model, frames) -> None:
    x = frames[: BLOCK_FRAMES + 10].clone()
    x[5, 3] = x[-1] = place
    fast = next(fast_joints(model, x))
    exact = next(joints for _, _, joints in model.log_joints(x[:BLOCK_FRAMES]))
    torch.testing.assert_close(
        fast.scores(), torch.logsumexp(exact, 1), rtol=1e-6, atol=1e-4, equal_nan=True
    )
    assert fast.num_exact >= 1
    others = torch.arange(BLOCK_FRAMES) != 5
    assert torch.equal(fast.joints.argmax(1)[others], exact.argmax(1)[others])


@pytest.mark.parametrize(
    "hostile", ["none", *(name for name in HOSTILE if name != "beyond float32")]
)
def test_every_log_joint_lies_within_its_bounds(hostile, model, frames) -> None:
    """And the bounds are not so wide that any number would."""
    mixture = HOSTILE[hostile][0](model) if hostile in HOSTILE else model
    fast, x = _FastJoints(mixture, 1.0, NUM_LIKELY), frames[:2000].double()
    assert fast._is_in_range
    product = torch.addmm(fast._bias, fast._expand(x), fast._matrix.t()).double()
    # Of the difference, which does not cancel; 1e-15 of a sum is float64's own rounding.
    exact = fast._recomputed(x, torch.arange(256).expand(2000, 256))
    used = exact > -math.inf
    product, exact, own = product[used], exact[used], 1e-13 * exact[used].abs() + 1e-9
    sizes = (fast._raised_by.double() * torch.ones(2000, 1))[used]
    slope = 3 * fast._gamma
    assert bool((exact <= product / (1 + slope) + own).all())
    lower = (product - sizes * (2 + 2 * fast._gamma)) / (1 - slope)
    assert bool((exact >= lower - own).all())
    errors = (exact - (product - sizes)).abs()
    assert bool((errors <= 1.1 * (sizes + slope * product.abs()) + own).all())
    if hostile == "none":
        assert float((product / (1 + slope) - lower).median()) < 1.0


def test_a_product_of_fewer_bits_would_leave_the_bounds(model, frames) -> None:
    fast, x = _FastJoints(model, 1.0, NUM_LIKELY), frames[:2000].double()
    coarse = [part.bfloat16().float() for part in (fast._expand(x), fast._matrix)]
    product = torch.addmm(fast._bias, coarse[0], coarse[1].t()).double()
    exact = fast._recomputed(x, torch.arange(256).expand(2000, 256))
    assert bool((exact > product / (1 + 3 * fast._gamma)).any())


@pytest.mark.parametrize("difference", [2e-4, 2e-6])
def test_labels_tell_joints_apart_that_float32_does_not(difference, model, frames) -> None:
    """Pairs of components of almost equal weight, which differ by less than float32 errs."""
    apart = with_equal_components(model)
    log_weights = apart.log_weights.clone()
    log_weights[1::2] += difference
    mixture, x = replace(apart, log_weights=log_weights), frames[:2000]
    labels = torch.cat([block.joints.argmax(1) for block in fast_joints(mixture, x)])
    assert bool((labels % 2 == 1).all())
    assert torch.equal(labels, torch.cat([j.argmax(1) for _, _, j in mixture.log_joints(x)]))


@contextmanager
def medium_precision() -> Iterator[None]:
    """On a GPU that is TF32, and on some CPUs bfloat16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


SURROUNDINGS = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "medium matmul precision": medium_precision,
    "gradients": torch.enable_grad,
    "inference": torch.inference_mode,
}


@pytest.mark.parametrize("surrounding", SURROUNDINGS)
def test_nothing_around_changes_a_bit(surrounding, model, frames) -> None:
    def joints() -> Tensor:
        return next(fast_joints(model, frames[:300].half())).joints.clone()

    expected = joints()
    with SURROUNDINGS[surrounding]():
        assert torch.equal(joints(), expected)


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Chooses float32 from then on, as a GPU with slow float64 does."""
    return lambda: monkeypatch.setattr(returned_joints, "takes_float32", lambda *_: True)


def test_a_cpu_takes_float64() -> None:
    assert not takes_float32(torch.device("cpu"), 1 << 16)
    assert not takes_float32(torch.device("cuda"), 64)


def test_the_methods_of_a_model_return_the_same(forced, model, frames) -> None:
    gmm, batch = GradientGMM.of(model), frames[:3000].reshape(3, 1000, 80).transpose(1, 2)
    calls: list[Callable[[], Tensor]] = [
        *(lambda x=x: gmm.score_samples(x) for x in (frames, batch)),
        *(lambda x=x, t=t: gmm.soft_assign(x, t) for x in (frames, batch) for t in (1.0, 3.0)),
        *(lambda x=x: gmm.assign(x) for x in (frames, batch)),
    ]
    expected = [call() for call in calls]
    forced()
    for call, there in zip(calls, expected, strict=True):
        assert call().dtype == there.dtype
        torch.testing.assert_close(call(), there, rtol=2e-7, atol=1e-4)
    assert gmm.assign(frames[:0]).shape == (0,)


def test_metrics_are_the_same(forced, model, frames) -> None:
    expected = UpdateSums.over(frames, model).measures()
    forced()
    found = UpdateSums.over(frames, model).measures()
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-4)
    assert found["alive"] == expected["alive"]


def test_an_evaluation_and_its_step_of_em_are_the_same(forced, model, frames) -> None:
    def evaluated() -> tuple[dict[str, float], float, Tensor]:
        sums = EvaluationSums.zeros(256, 80, torch.device("cpu"))
        labels = sums.add(frames, model)
        stepped = em_step(sums.statistics, model, 0.1)
        after = sum(float(block.scores().sum()) for block in joint_blocks(stepped, frames))
        return sums.measures(), after / len(frames), labels

    expected = evaluated()
    forced()
    found = evaluated()
    assert found[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-4)
    gaps = [measures["nll"] + after for measures, after, _ in (expected, found)]
    assert gaps[0] > 1e-3
    assert gaps[1] == pytest.approx(gaps[0], abs=1e-5)
    assert torch.equal(found[2], expected[2])


def test_labels_and_their_posteriors_are_the_same(forced, model, frames) -> None:
    made = LabelIdentity("0" * 64, "0" * 64, 256, 4, 2.0)
    gmm = GradientGMM.of(model)
    expected, left_out = label_frames(gmm, frames, made)
    forced()
    found, left_out_too = label_frames(gmm, frames, made)
    for name in ("labels", "topk_ids"):
        assert (found[name] == expected[name]).all()
    assert abs(found["topk_probs"] - expected["topk_probs"]).max() < 6e-4  # float16
    assert left_out > 0.01
    assert left_out_too == pytest.approx(left_out, rel=1e-3)


def test_the_tolerance_leaves_room_below_what_is_promised() -> None:
    assert TOLERANCE * math.log((1 << 16) / TOLERANCE) < 1e-3
    assert 2 * TOLERANCE < 1e-4

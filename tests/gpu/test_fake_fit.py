"""A fit on fake CUDA: nothing mixes devices, and an ordinary step waits for nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gmmpipe import FeatureStore
from gmmpipe.features.log_mel_spec import LogMelSpec
from gmmpipe.fitting.checkpoint import FitState
from gmmpipe.fitting.dead_centers import move_dead_centers
from gmmpipe.fitting.held_out import HeldOut
from gmmpipe.fitting.schedule import LOSS_EVERY_STEPS
from gmmpipe.fitting.trainer import _Fitting
from gmmpipe.fitting.update_metrics import measure_inertia, measure_update, mostly_at_floor
from gmmpipe.mixture.adam import Adam
from gmmpipe.mixture.seeding import INITS, MIN_SPLIT_DIM, seed_centers, seed_mixture
from gmmpipe.mixture.split_merge import split_and_merge
from gmmpipe.run.stop import StopRequest
from gmmpipe.run.world import World
from pipelines.benchmark.fake_cuda import CUDA, Counts, counted, fake_cuda
from pipelines.benchmark.fake_fit import FITS, WORLD, FakeFit, fake_ranks
from pipelines.benchmark.fake_streams import fake_streams


@pytest.fixture
def counts() -> Iterator[Counts]:
    with fake_cuda() as counts, fake_streams() as streams:
        yield counts
    assert not streams.races


def on_cuda(*tensors: torch.Tensor) -> bool:
    return all(tensor.device == CUDA for tensor in tensors)


def state_on_cuda(state: FitState) -> bool:
    return on_cuda(state.parameters.flat, state.center, *state.optimizer.tensors())


@pytest.fixture(params=[1, 2])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """The only rank, and the second of two."""
    with fake_ranks(request.param) as world:
        yield world


@pytest.mark.parametrize("options", FITS.values(), ids=FITS)
def test_a_step_waits_for_the_device_every_fiftieth_time_only(
    options: dict[str, Any], world: World, counts: Counts
) -> None:
    fit = FakeFit(init="random", world=world, **options)
    steps = [counted(fit.step, counts) for _ in range(LOSS_EVERY_STEPS + 3)]
    waiting = [number for number, step in enumerate(steps) if step.waits]
    assert waiting == [0, LOSS_EVERY_STEPS]
    ordinary = [step for number, step in enumerate(steps) if number not in waiting]
    assert all(step.kernels == ordinary[0].kernels for step in ordinary)
    assert not any(step.copies for step in ordinary)
    sending = [number for number, step in enumerate(steps) if step.sent]
    assert len(sending) <= 2, "a block of draws, and the one after it"
    assert state_on_cuda(fit.state)


@pytest.mark.parametrize("options", FITS.values(), ids=FITS)
def test_a_fit_with_a_floor_of_each_dimension_goes_on_from_a_checkpoint(
    options: dict[str, Any], counts: Counts
) -> None:
    if options.get("model") != "kmeans":
        options = {**options, "var_floor": "1%"}
    fit = FakeFit(init="random", **options)
    fit.step()
    identity = {"sgd_batch_size": 512, "seed": 0}
    names = ("model", "optimizer", "lr", "var_floor")
    identity |= {name: getattr(fit.options, name) for name in names}
    content = fit.state.to_dict(identity, LogMelSpec())
    resume = content["resume"]
    tensors = [resume["flat"], resume["at_start"], resume["center"], content["means"]]
    tensors += [v for v in resume["optimizer"].values() if isinstance(v, torch.Tensor)]
    assert all(tensor.device.type == "cpu" for tensor in tensors)
    resumed = FitState.from_dict(content, CUDA)
    assert state_on_cuda(resumed)
    assert resumed.at_start is not None
    assert on_cuda(resumed.at_start.flat)
    fit.go_on_from(resumed)
    fit.step()
    assert state_on_cuda(resumed)


@pytest.mark.parametrize("seed", [seed_mixture, seed_centers])
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("dim", [80, MIN_SPLIT_DIM])
def test_a_mixture_is_seeded_on_the_device(seed: Any, init: str, dim: int, counts: Counts) -> None:
    sample = torch.zeros(2048, dim, device=CUDA)
    assert on_cuda(seed(sample, 16, 0.1, 0, init).flat)


def test_centres_are_split_and_merged_on_the_device(
    counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    swaps = iter([[(3, 2, 1)], []])  # no value is known, so no swap would be found
    monkeypatch.setattr("gmmpipe.mixture.split_merge.choose_swaps", lambda *_: next(swaps))
    frames, centers = torch.zeros(100, 300, device=CUDA), torch.zeros(8, 300, device=CUDA)
    assert on_cuda(split_and_merge(frames, centers, 0))


def test_dead_centres_are_moved_on_the_device(counts: Counts) -> None:
    fit = FakeFit(init="random", model="kmeans")
    moved = counted(
        lambda: move_dead_centers(fit.state, fit.update, fit.held, fit.schedule, WORLD), counts
    )
    assert moved.waits["nonzero"] == 1
    assert moved.kernels["aten.index_put_"] > 1, "centres were moved"
    assert state_on_cuda(fit.state)


@pytest.mark.parametrize("options", FITS.values(), ids=FITS)
def test_metrics_are_measured_on_the_device(options: dict[str, Any], counts: Counts) -> None:
    fit = FakeFit(init="random", **options)
    mixture, before = fit.state.parameters.mixture, fit.before.mixture
    row = measure_update(fit.update, fit.held, mixture, before, 0.0, fit.schedule, WORLD)
    assert row["frames"] == 8000
    assert measure_inertia(fit.update, fit.held, mixture, fit.schedule, WORLD) > 0
    mostly_at_floor(mixture, fit.state.var_floor)


def test_held_out_frames_go_to_the_device_once(store: Path, counts: Counts) -> None:
    features = FeatureStore.open(store).features
    held_out = HeldOut.read(str(store), features, WORLD)
    assert on_cuda(held_out.frames)
    mixture = FakeFit(init="random").state.parameters.mixture
    asked = counted(lambda: held_out.nll(mixture, WORLD), counts)
    assert asked.waits.total() == 1
    assert not asked.copies


@pytest.mark.parametrize("options", FITS.values(), ids=FITS)
def test_a_whole_update_is_fitted_on_the_device(
    options: dict[str, Any], world: World, store: Path, counts: Counts
) -> None:
    fit = FakeFit(init="random", steps=3, world=world, **options)
    held_out = HeldOut.read(str(store), FeatureStore.open(store).features, world)
    nothing: Any = None  # neither folder nor reader is asked within an update
    fitting = _Fitting(
        *(fit.options, fit.schedule, held_out, nothing, nothing, fit.state, world, StopRequest())
    )
    step = fitting.stepper.step
    # What the flag of a stop says is not known here.
    fitting.stepper.step = lambda *of: step(*of) and False  # type: ignore[method-assign]
    row = fitting.fit_update(fit.update, fit.held)
    assert {"nll", "eval_nll"} < row.keys()
    assert fit.state.updates == 1
    assert len(fit.state.metrics) == 1


def test_a_value_that_is_looked_at_is_noticed(
    counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = FakeFit(init="random")
    fit.step()
    taken = Adam.step

    def looking(self: Adam, statistics: Any, *rest: Any) -> None:
        statistics.counts.sum().item()
        taken(self, statistics, *rest)

    monkeypatch.setattr(Adam, "step", looking)
    assert counted(fit.step, counts).waits == {"_local_scalar_dense": 1}


def test_two_devices_in_one_operation_are_an_error(counts: Counts) -> None:
    fit = FakeFit(init="random")
    fit.state.optimizer._first = torch.zeros_like(fit.state.optimizer._first, device="cpu")
    with pytest.raises(RuntimeError, match="device"):
        fit.step()

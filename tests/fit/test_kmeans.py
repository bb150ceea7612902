"""`--model kmeans`: centres by mini-batch Lloyd, in the files and with the guarantees of a fit."""

import logging
import math
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from gmmpipe import GradientGMM
from gmmpipe.apply.evaluate import evaluate
from gmmpipe.errors import CheckpointError, OptionError
from gmmpipe.fitting.checkpoint import FitState, read_checkpoint
from gmmpipe.fitting.dead_centers import move_dead_centers
from gmmpipe.fitting.options import FitOptions
from gmmpipe.fitting.schedule import Schedule
from gmmpipe.fitting.update_reader import HeldFrames
from gmmpipe.mixture.hard_statistics import HardStatisticsKernel, nearest_square_distances
from gmmpipe.mixture.lloyd import MiniBatchLloyd, unit_parameters
from gmmpipe.mixture.optimizer import StepConstants
from gmmpipe.run.world import World
from helpers.making import alone, fit_arguments, fit_here
from helpers.processes import GMMPIPE, Started, run, torchrun, wait_until
from helpers.ranks import do_on_ranks
from helpers.results import assert_same_fit, num_updates, read_metrics

SIZES = {"model": "kmeans", "K": 24}


@pytest.fixture(scope="module")
def fitted(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished fit of two updates; not to be changed."""
    folder = tmp_path_factory.mktemp("kmeans") / "fitted"
    fit_here(store, folder, **SIZES)
    return folder


def square_distances(frames: Tensor, centers: Tensor) -> Tensor:
    return torch.cdist(frames.double(), centers.double()).square()


def test_a_component_is_the_nearest_centre(fitted, frames) -> None:
    model = GradientGMM.load(fitted / "gmm.pt")
    assert torch.equal(model.covariances, torch.ones(24, 80))
    assert torch.equal(model.weights, model.weights[:1].expand(24))
    assert float(model.weights[0]) == pytest.approx(1 / 24)
    distances = square_distances(frames, model.means)
    chosen = distances.gather(1, model.assign(frames)[:, None])[:, 0]
    assert (chosen - distances.amin(1)).max() < 1e-6


def test_metrics_have_the_inertia_and_the_likelihood_of_this_mixture(store, fitted, frames) -> None:
    header = (fitted / "metrics.tsv").read_text().splitlines()[0].split("\t")
    assert header[14:] == ["intra_cluster_dist", "uncertain_share", "usage_entropy", "inertia"]
    fit_here(
        store,
        fitted.parent / "whole",
        **{**SIZES, "batch_update_size": 8561, "target_frames": 8561, "eval_data_dir": str(store)},
    )
    row = {name: column[0] for name, column in read_metrics(fitted.parent / "whole").items()}
    model = GradientGMM.load(fitted.parent / "whole" / "gmm.pt")
    nearest = square_distances(frames, model.means).amin(1)
    assert row["inertia"] == pytest.approx(float(nearest.mean()), rel=1e-6)
    assert row["nll"] == pytest.approx(row["eval_nll"], rel=1e-6)
    # Next to all of a frame's density is its nearest centre's.
    assert row["nll"] == pytest.approx(
        math.log(24) + 40 * math.log(2 * math.pi) + row["inertia"] / 2, rel=1e-2
    )
    assert (row["var_delta"], row["avg_var"]) == (0, 1)


@pytest.mark.parametrize("init", ["kmeans", "kmeans++", "random"])
def test_inertia_comes_close_to_that_of_full_batch_k_means(init, store, tmp_path, frames) -> None:
    sizes = {"batch_update_size": 8561, "target_frames": 8561, "sgd_batch_size": 2048}
    fit_here(store, tmp_path, **{**SIZES, **sizes, "n_sgd_steps": 100, "init": init})
    full = KMeans(24, n_init=3, random_state=0).fit(frames.numpy())
    ours = float(nearest_square_distances(frames, load_means(tmp_path)).mean())
    assert ours < (1.03 if init == "kmeans" else 1.10) * full.inertia_ / len(frames)


def load_means(folder: Path):
    return GradientGMM.load(folder / "gmm.pt").mixture


def test_statistics_are_the_counts_and_sums_of_a_nearest_neighbour_search(frames) -> None:
    centers = frames[::400].clone()
    kernel = HardStatisticsKernel(len(centers), frames.mean(0), extra=2)
    found = kernel(frames, unit_parameters(centers).mixture)
    labels = square_distances(frames, centers).argmin(1)
    counts = torch.bincount(labels, minlength=len(centers))
    sums = torch.zeros(len(centers), 80, dtype=torch.float64).index_add_(0, labels, frames.double())
    # float32 decides between centres that are as good as equally near.
    assert (found.counts - counts).abs().sum() <= 4
    same = found.counts == counts
    torch.testing.assert_close(found.moments[same], sums[same], rtol=0, atol=1e-9)
    assert found.sums.dtype == torch.float64


def test_frames_of_float16_add_up_exactly_in_any_order(frames) -> None:
    """So the sums that ranks exchange do not depend on how frames are shared out."""
    mixture = unit_parameters(frames[::400].clone()).mixture
    kernel = HardStatisticsKernel(mixture.num_components, frames.mean(0))
    assert torch.equal(frames, frames.half().float()), "as stored"
    whole = kernel(frames, mixture).sums.clone()
    assert torch.equal(kernel(frames.flip(0), mixture).sums, whole)
    shares = torch.zeros_like(whole)
    for part in (frames[:4096], frames[4096:]):
        shares += kernel(part, mixture).sums
    assert torch.equal(shares, whole)


def test_a_step_at_a_rate_of_one_is_lloyds(frames) -> None:
    parameters = unit_parameters(frames[::400].clone())
    start = parameters.means.double().numpy()
    constants = StepConstants(frames.mean(0), len(frames), 1e-2, 0.1)
    optimizer = MiniBatchLloyd.start(parameters, frames, constants)
    kernel = HardStatisticsKernel(len(parameters.means), constants.center)
    full = KMeans(len(start), init=start, n_init=1, max_iter=1)
    optimizer.step(kernel(frames, parameters.mixture), parameters, 1.0)
    expected = full.fit(frames.double().numpy()).cluster_centers_
    assert np.abs(parameters.means.numpy() - expected).max() < 1e-2
    assert torch.equal(parameters.log_vars, torch.zeros_like(parameters.log_vars))


def dead_state(frames: Tensor) -> FitState:
    """Three of ten centres are where no frame comes."""
    parameters = unit_parameters(frames[::900].clone()[:10])
    parameters.means[[2, 5, 9]] = 1e4
    constants = StepConstants(frames.mean(0), 512, 1e-2, 0.1)
    optimizer = MiniBatchLloyd.start(parameters, frames, constants)
    return FitState(parameters, optimizer, constants.center, 0.1, "kmeans")


def move(frames: Tensor, world: World) -> Tensor:
    """The means after dead centres were moved by a rank that holds its part of the frames."""
    rules = Schedule(0, len(frames), len(frames), 9, 512)
    update = rules.update_at(0, 0)
    start, stop = update.rank_slice(world.rank, world.size)
    state = dead_state(frames)
    move_dead_centers(state, update, HeldFrames(frames[start:stop], start, stop), rules, world)
    move_dead_centers(state, update, HeldFrames(frames[start:stop], start, stop), rules, world)
    return state.parameters.means


def test_dead_centres_move_to_far_frames_and_the_others_stay(frames) -> None:
    before, after = dead_state(frames).parameters.means, move(frames, alone())
    dead = torch.tensor([2, 5, 9])
    others = torch.tensor([n for n in range(10) if n not in dead.tolist()])
    assert torch.equal(before[others], after[others])
    assert (square_distances(after[dead], frames).amin(1) == 0).all(), "frames of the update"
    assert len(after.unique(dim=0)) == 10
    reached = square_distances(frames, after).amin(1).mean()
    assert reached < square_distances(frames, before).amin(1).mean()


def test_fewer_distinct_frames_than_centres_leave_some_dead(frames) -> None:
    """There is nothing to move them to, and nothing breaks."""
    state = dead_state(frames)
    same = state.parameters.means[:1].half().expand(600, -1).contiguous()
    rules = Schedule(0, 600, 600, 9, 512)
    before = state.parameters.means.clone()
    held = HeldFrames(same.float(), 0, 600)
    state.parameters.means[0] = same[0].float()
    before[0] = same[0].float()
    move_dead_centers(state, rules.update_at(0, 0), held, rules, alone())
    assert torch.equal(state.parameters.means, before)


def move_on_ranks(world: World, folder: Path) -> None:
    frames = torch.load(folder / "frames.pt", weights_only=True)
    torch.save(move(frames, world), folder / f"means-{world.rank}.pt")


def test_dead_centres_move_alike_on_any_number_of_ranks(frames, tmp_path) -> None:
    torch.save(frames, tmp_path / "frames.pt")
    do_on_ranks(2, partial(move_on_ranks, folder=tmp_path))
    one = move(frames, alone())
    for rank in range(2):
        found = torch.load(tmp_path / f"means-{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, one, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "value"), [("optimizer", "em"), ("lr", 0.1), ("var_floor", "1%")])
def test_options_of_mixtures_are_wrong_usage(name, value, store, tmp_path) -> None:
    with pytest.raises(OptionError, match=f"^--{name} .*--model kmeans"):
        FitOptions(data_dir=str(store), output_dir=tmp_path, model="kmeans", **{name: value})


def test_a_fit_of_the_other_model_is_refused(fitted, store) -> None:
    with pytest.raises(CheckpointError, match="model is kmeans there and diag here"):
        fit_here(store, fitted, K=24, resume="auto")


def test_a_checkpoint_of_before_there_were_models_goes_on(store, tmp_path) -> None:
    fit_here(store, tmp_path / "whole")
    content = torch.load(tmp_path / "whole" / "gmm_ckpt_0.004M.pt", weights_only=True)
    del content["resume"]["identity"]["model"]
    torch.save(content, tmp_path / "old.pt")
    fit_here(store, tmp_path / "resumed", resume=str(tmp_path / "old.pt"))
    assert_same_fit(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.parametrize("wrong", ["width", "counts", "model"])
def test_a_state_that_no_k_means_can_come_to_is_refused(wrong, fitted, tmp_path) -> None:
    content = torch.load(fitted / "gmm.pt", weights_only=True)
    resume = content["resume"]
    if wrong == "width":
        resume["optimizer"]["sums"] = torch.zeros(24, 161, dtype=torch.float64)
    elif wrong == "counts":
        resume["optimizer"]["sums"][3, -1] = -1.0
    else:
        resume["identity"]["model"] = "magic"
    torch.save(content, tmp_path / "gmm.pt")
    with pytest.raises(CheckpointError, match=f"^{tmp_path}/gmm.pt: "):
        read_checkpoint(tmp_path / "gmm.pt")


def test_no_warning_speaks_of_the_floor_and_evaluate_measures_it(store, tmp_path, caplog) -> None:
    with caplog.at_level(logging.INFO, "gmmpipe"):
        fit_here(store, tmp_path, **SIZES)
    assert "--var_floor" not in caplog.text
    found = evaluate(str(store), tmp_path / "gmm.pt", None, alone())
    assert found.alive <= 24
    assert found.em_gap > 1, "variances of one are far from the likeliest"


def test_a_killed_fit_goes_on_as_if_it_never_was(store, tmp_path, start: Started) -> None:
    sizes = {**SIZES, "batch_update_size": 1000, "save_every": 1000, "n_sgd_steps": 300}
    fit_here(store, tmp_path / "whole", **sizes)
    arguments = [*GMMPIPE, *fit_arguments(store, tmp_path / "out", **sizes, resume="auto")]
    process = start(arguments)
    wait_until(lambda: num_updates(tmp_path / "out") >= 3, process)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out" / "gmm.pt").exists()
    run(arguments)
    assert_same_fit(tmp_path / "whole", tmp_path / "out")


def test_two_ranks_give_the_same_model(store, tmp_path) -> None:
    sizes = {**SIZES, "batch_update_size": 4001, "target_frames": 10_001, "sgd_batch_size": 1003}
    fit_here(store, tmp_path / "one", **sizes)
    run([*torchrun(2, "-m", "gmmpipe"), *fit_arguments(store, tmp_path / "two", **sizes)])
    one, two = (load_means(tmp_path / name) for name in ("one", "two"))
    assert (one.means - two.means).abs().max() < 1e-2
    for name in ("nll", "avg_loss", "inertia"):
        there, here = (read_metrics(tmp_path / size)[name] for size in ("one", "two"))
        assert here == pytest.approx(there, rel=1e-4), name

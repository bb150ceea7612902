"""The fitting loop: what it writes, how it goes on, and what it refuses."""

import logging
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmmpipe import FeatureStore, GradientGMM
from gmmpipe.errors import CheckpointError, GmmpipeError, OptionError, Stopped, StoreError
from gmmpipe.fitting.checkpoint import FitState
from gmmpipe.fitting.options import FitOptions
from gmmpipe.fitting.update_reader import UpdateReader
from gmmpipe.mixture.adam import Adam
from gmmpipe.mixture.measures import UpdateSums, shape_measures
from helpers.damage import flip, flip_in_frames
from helpers.making import SMALL_FIT, alone, fit_here
from helpers.results import assert_same_fit, file_bytes, num_updates, read_metrics, same_bits

COLUMNS = [
    *("frames", "update", "avg_loss", "alive", "balance_cv", "weight_entropy", "nll"),
    *("posterior_entropy", "mean_delta", "var_delta", "avg_var", "min_var", "max_var"),
    *("inter_cluster_dist", "intra_cluster_dist", "uncertain_share", "usage_entropy"),
]


@pytest.fixture(scope="module")
def fitted(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished fit of two updates, a checkpoint after each; not to be changed."""
    folder = tmp_path_factory.mktemp("fit") / "fitted"
    fit_here(store, folder)
    return folder


@pytest.fixture
def copy(fitted: Path, tmp_path: Path) -> Path:
    """A finished fit that a test may change."""
    return Path(shutil.copytree(fitted, tmp_path / "copy"))


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_the_output_folder_holds_what_the_contract_says(fitted) -> None:
    names = {"gmm.pt", "gmm_ckpt_0.004M.pt", "gmm_ckpt_0.008M.pt", "metrics.tsv", "options.yaml"}
    assert set(os.listdir(fitted)) == names


def test_the_model_file_says_what_it_was_fitted_to(fitted, store) -> None:
    content, features = load(fitted / "gmm.pt"), FeatureStore.open(store).features
    assert content["features"]["fingerprint"] == features.fingerprint
    assert (content["K"], content["dim"], content["frames"]) == (16, 80, 8000)
    assert (content["seed"], content["var_floor"]) == (0, 0.1)
    assert float(content["covariances"].min()) == pytest.approx(0.1, rel=1e-5), "the floor"


def test_the_last_checkpoint_is_the_final_model(fitted) -> None:
    assert same_bits(load(fitted / "gmm.pt"), load(fitted / "gmm_ckpt_0.008M.pt"))


@pytest.mark.parametrize(
    ("frames", "step", "name"),
    [
        (500, 0, "gmm_ckpt_0.0005M.pt"),
        (40_000, 0, "gmm_ckpt_0.04M.pt"),
        (17_122, 7, "gmm_ckpt_0.017122M-s7.pt"),
        (1_000_000, 0, "gmm_ckpt_1M.pt"),
        (350_000_000, 0, "gmm_ckpt_350M.pt"),
        (350_000_001, 1999, "gmm_ckpt_350.000001M-s1999.pt"),
        (9_600_000_000, 0, "gmm_ckpt_9600M.pt"),
        (0, 3, "gmm_ckpt_0M-s3.pt"),
    ],
)
def test_checkpoint_names_give_the_frames_in_full(frames, step, name, fitted) -> None:
    state = FitState.from_dict(load(fitted / "gmm.pt"), torch.device("cpu"))
    state.frames, state.step = frames, step
    assert state.checkpoint_name() == name


def test_a_checkpoint_follows_each_update_that_crosses_a_multiple(store, tmp_path) -> None:
    fit_here(store, tmp_path, batch_update_size=2000, target_frames=11_000, save_every=5000)
    found = {path.name for path in tmp_path.glob("gmm_ckpt_*")}
    assert found == {"gmm_ckpt_0.006M.pt", "gmm_ckpt_0.01M.pt"}


def test_metrics_have_the_contracts_columns_and_a_row_an_update(fitted) -> None:
    header = (fitted / "metrics.tsv").read_text().splitlines()[0].split("\t")
    assert header == COLUMNS
    metrics = read_metrics(fitted)
    assert (metrics["frames"], metrics["update"]) == ([4000, 8000], [1, 2])
    assert all(math.isfinite(value) for column in metrics.values() for value in column)


def test_a_row_of_metrics_is_what_the_models_say_of_the_updates_frames(fitted, store) -> None:
    """The sample is all frames of an update that has no more than 50,000."""
    world = alone()
    options = FitOptions(data_dir=str(store), output_dir=fitted, **SMALL_FIT)
    opened = FeatureStore.open(store)
    rules = options.schedule(opened)
    reader = UpdateReader(opened, rules, world, 2, lambda: False)
    _, held = next(reader.updates(rules.update_at(4000, 1)))
    before, after = (
        GradientGMM.load(fitted / name) for name in ("gmm_ckpt_0.004M.pt", "gmm_ckpt_0.008M.pt")
    )
    expected = {
        **UpdateSums.over(held.frames, after.mixture).measures(),
        **shape_measures(after.mixture),
        "mean_delta": float((after.means - before.means).abs().double().mean()),
        "var_delta": float((after.covariances - before.covariances).abs().double().mean()),
    }
    row = {name: column[1] for name, column in read_metrics(fitted).items()}
    assert len(expected) == len(COLUMNS) - 3
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    # 40 steps: the loss is that of the first, on a sample of the update before any change.
    first_loss = -float(before.score_samples(held.frames).mean())
    assert row["avg_loss"] == pytest.approx(first_loss, rel=0.05)


def test_one_component_can_be_fitted(store, tmp_path, frames) -> None:
    fit_here(store, tmp_path, K=1, batch_update_size=8561, target_frames=8561, n_sgd_steps=200)
    model = GradientGMM.load(tmp_path / "gmm.pt")
    spread = frames.std(0)
    assert ((model.means[0] - frames.mean(0)).abs() / spread).max() < 0.05
    assert (model.covariances[0].sqrt() / spread - 1).abs().max() < 0.05
    found = read_metrics(tmp_path)
    assert [found[n] for n in ("alive", "balance_cv", "inter_cluster_dist")] == [[1], [0], [0]]


def test_fitting_improves_on_the_start(store, tmp_path, frames) -> None:
    scores = {}
    for steps in (1, 300):
        sizes = {"batch_update_size": 8561, "target_frames": 8561, "sgd_batch_size": 2048}
        fit_here(store, tmp_path / str(steps), K=32, n_sgd_steps=steps, **sizes)
        model = GradientGMM.load(tmp_path / str(steps) / "gmm.pt")
        scores[steps] = float(model.score_samples(frames).mean())
    assert scores[300] > scores[1]


def test_the_same_fit_gives_the_same_bits_and_another_seed_does_not(
    fitted, store, tmp_path
) -> None:
    fit_here(store, tmp_path / "again", num_workers=1)
    assert_same_fit(fitted, tmp_path / "again")
    fit_here(store, tmp_path / "other", seed=1)
    other, here = load(tmp_path / "other" / "gmm.pt"), load(fitted / "gmm.pt")
    assert not torch.equal(other["means"], here["means"])


@pytest.mark.parametrize("kept", ["gmm.pt", "gmm_ckpt_0.004M.pt"])
def test_a_model_or_a_checkpoint_makes_it_a_fit(kept, copy, store) -> None:
    for path in copy.iterdir():
        if path.name != kept:
            path.unlink()
    with pytest.raises(GmmpipeError, match="holds a fit"):
        fit_here(store, copy)


def test_what_a_fit_leaves_before_its_first_checkpoint_stands_in_nobodys_way(copy, store) -> None:
    for path in copy.glob("*.pt"):
        path.unlink()
    fit_here(store, copy)
    assert (copy / "gmm.pt").exists()


def test_overwrite_starts_afresh_and_leaves_nothing_of_the_old_fit(store, tmp_path) -> None:
    fit_here(store, tmp_path / "a", K=8, batch_update_size=2000, save_every=2000)
    fit_here(store, tmp_path / "a", overwrite=True)
    fit_here(store, tmp_path / "b")
    assert set(os.listdir(tmp_path / "a")) == set(os.listdir(tmp_path / "b"))
    assert_same_fit(tmp_path / "a", tmp_path / "b")


def stop_before_the_end_of(last_step: int, patch: pytest.MonkeyPatch) -> None:
    """Send a real signal in the step of this number, counted over all updates."""
    rate_at = Adam.rate_at

    def rate_and_signal(adam: Adam, steps_before: int, progress: float) -> float:
        if steps_before == last_step:
            signal.raise_signal(signal.SIGTERM)
        return rate_at(adam, steps_before, progress)

    patch.setattr(Adam, "rate_at", rate_and_signal)


def test_a_stop_after_the_last_step_of_an_update_keeps_that_step(
    store, fitted, tmp_path, monkeypatch
) -> None:
    """Not only after measurements, which may take longer than a stop should."""
    last = 2 * SMALL_FIT["n_sgd_steps"] - 1
    with monkeypatch.context() as patch:
        stop_before_the_end_of(last, patch)
        with pytest.raises(Stopped):
            fit_here(store, tmp_path)
    assert (tmp_path / f"gmm_ckpt_0.004M-s{SMALL_FIT['n_sgd_steps']}.pt").exists()
    fit_here(store, tmp_path, resume="auto")
    assert_same_fit(fitted, tmp_path)


@pytest.mark.parametrize(
    "sizes",
    [
        {"K": 8562, "batch_update_size": 10**6, "target_frames": 10**6},
        {"K": 101, "batch_update_size": 100},
        {"K": 101, "max_samples": 100},
        {"K": 101, "target_frames": 100},
    ],
    ids=lambda sizes: "+".join(sizes),
)
def test_fewer_frames_than_components_are_refused_before_anything_is_written(
    sizes, store, tmp_path
) -> None:
    with pytest.raises(GmmpipeError, match=f"K is {sizes['K']}"):
        fit_here(store, tmp_path / "out", **sizes)
    assert not (tmp_path / "out").exists()


REFUSED: dict[str, dict[str, Any]] = {
    "K": {"K": 15},
    "seed": {"seed": 1},
    "lr": {"lr": 0.02},
    "n_sgd_steps": {"n_sgd_steps": 41},
    "sgd_batch_size": {"sgd_batch_size": 513},
    "var_floor": {"var_floor": 0.2},
    "batch_update_size": {"batch_update_size": 4001},
}


@pytest.mark.parametrize("resume", ["auto", "path"])
@pytest.mark.parametrize("name", REFUSED)
def test_another_fit_is_not_gone_on_with_and_what_differs_is_named(
    name, resume, copy, store
) -> None:
    before = file_bytes(copy)
    path = "auto" if resume == "auto" else str(copy / "gmm_ckpt_0.004M.pt")
    with pytest.raises(CheckpointError, match=rf"\b{name} is ") as caught:
        fit_here(store, copy, resume=path, **REFUSED[name])
    assert [other for other in REFUSED if f"{other} is " in str(caught.value)] == [name]
    assert file_bytes(copy) == before


def test_all_that_differs_is_named_at_once(copy, store) -> None:
    with pytest.raises(
        CheckpointError, match=r"K is 16 .* 15 .*seed is 0 .* 1 .*lr is 0\.01 .* 0\.5"
    ):
        fit_here(store, copy, resume="auto", K=15, seed=1, lr=0.5)


def test_another_list_of_stores_is_refused(copy, store) -> None:
    with pytest.raises(CheckpointError, match="stores"):
        fit_here(f"{store},{store}", copy, resume="auto")


def test_a_smaller_update_by_max_samples_is_another_fit(copy, store) -> None:
    with pytest.raises(CheckpointError, match="batch_update_size is 4000 there and 3000 here"):
        fit_here(store, copy, resume="auto", max_samples=3000)


def test_resuming_a_finished_fit_changes_nothing(store, tmp_path, caplog) -> None:
    fit_here(store, tmp_path)
    before = file_bytes(tmp_path)
    with caplog.at_level(logging.INFO, "gmmpipe"):
        fit_here(store, tmp_path, resume="auto")
    assert file_bytes(tmp_path) == before
    assert "8000 frames are done already" in caplog.text


def test_resuming_from_a_path_that_does_not_exist_is_refused(store, tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pt"):
        fit_here(store, tmp_path / "out", resume=str(tmp_path / "none.pt"))


def test_resuming_from_a_model_without_a_fits_state_is_refused(fitted, store, tmp_path) -> None:
    model = GradientGMM.load(fitted / "gmm.pt")
    GradientGMM(model.means, model.log_vars, model.log_weights).save(tmp_path / "bare.pt")
    with pytest.raises(CheckpointError, match=r"bare\.pt"):
        fit_here(store, tmp_path / "out", resume=str(tmp_path / "bare.pt"))


def test_resuming_from_a_path_into_another_folder_gives_the_whole_fit(
    fitted, store, tmp_path
) -> None:
    fit_here(store, tmp_path / "out", resume=str(fitted / "gmm_ckpt_0.004M.pt"))
    assert_same_fit(fitted, tmp_path / "out")
    assert num_updates(tmp_path / "out") == 2
    assert (tmp_path / "out" / "options.yaml").exists()


def test_resuming_finds_the_furthest_checkpoint_and_not_the_last_by_name(
    store, tmp_path, caplog
) -> None:
    """0.01M lies beyond 0.008M, but sorts before it."""
    sizes = {"batch_update_size": 2000, "save_every": 2000, "target_frames": 10_000}
    fit_here(store, tmp_path, **sizes)
    (tmp_path / "gmm.pt").unlink()
    with caplog.at_level(logging.INFO, "gmmpipe"):
        fit_here(store, tmp_path, **{**sizes, "target_frames": 12_000}, resume="auto")
    assert f"going on from {tmp_path / 'gmm_ckpt_0.01M.pt'}" in caplog.text


@pytest.mark.parametrize("wrong", ["missing", "damaged", "an older one"])
def test_the_model_of_a_finished_fit_is_made_again(wrong, copy, fitted, store) -> None:
    """The last checkpoint is at the target, so there is nothing else to do."""
    if wrong == "damaged":
        flip(copy / "gmm.pt")
    else:
        (copy / "gmm.pt").unlink()
    if wrong == "an older one":  # of a target that was raised since
        shutil.copy(copy / "gmm_ckpt_0.004M.pt", copy / "gmm.pt")
    fit_here(store, copy, resume="auto")
    assert_same_fit(fitted, copy)


def test_a_model_at_the_target_stays_whatever_lies_beyond_it(copy, store) -> None:
    """As after a raised target whose fit was killed, and a second thought."""
    shutil.copy(copy / "gmm_ckpt_0.004M.pt", copy / "gmm.pt")
    before = file_bytes(copy)
    fit_here(store, copy, target_frames=4000, resume="auto")
    assert file_bytes(copy) == before


def test_a_finished_fit_that_is_resumed_into_another_folder_is_whole_there(
    fitted, store, tmp_path
) -> None:
    fit_here(store, tmp_path / "new", resume=str(fitted / "gmm.pt"))
    assert_same_fit(fitted, tmp_path / "new")
    assert (tmp_path / "new" / "options.yaml").exists()


@pytest.mark.parametrize("source", ["gmm.pt", "gmm_ckpt_0.008M.pt"])
def test_a_raised_target_gives_exactly_the_longer_run(source, copy, store, tmp_path) -> None:
    """Beyond an epoch, to an update that is short."""
    fit_here(store, tmp_path / "long", target_frames=17_000)
    resume = "auto" if source == "gmm.pt" else str(copy / source)
    fit_here(store, copy, target_frames=17_000, resume=resume)
    assert_same_fit(tmp_path / "long", copy)
    assert read_metrics(copy)["frames"] == [4000, 8000, 12_000, 16_000, 17_000]


def test_a_model_at_the_floor_gets_a_warning(store, tmp_path, caplog) -> None:
    fit_here(store, tmp_path / "high", var_floor=50.0)
    assert "--var_floor 50.0" in caplog.text
    caplog.clear()
    fit_here(store, tmp_path / "low", var_floor=0.01)
    assert "--var_floor" not in caplog.text


@pytest.mark.parametrize("lr", [100.0, 1e6, 1e30])
def test_a_rate_at_which_the_mixture_runs_away_ends_the_fit_and_is_named(
    lr, store, tmp_path
) -> None:
    with pytest.raises(GmmpipeError, match=f"try a lower --lr than {lr:g}".replace("+", r"\+")):
        fit_here(store, tmp_path, lr=lr)
    assert not list(tmp_path.glob("*.pt"))


def test_a_stop_keeps_no_mixture_that_ran_away(store, tmp_path, monkeypatch) -> None:
    stop_before_the_end_of(20, monkeypatch)
    with pytest.raises(GmmpipeError, match="try a lower --lr"):
        fit_here(store, tmp_path, lr=1e20)
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize("lr", [1e38, math.inf, math.nan, -1.0])
def test_a_rate_beyond_float32_is_wrong_usage(lr, store, tmp_path) -> None:
    with pytest.raises(OptionError, match="--lr is"):
        fit_here(store, tmp_path, lr=lr)


def test_the_mixture_weights_of_steps_larger_than_the_data_are_fine(store, tmp_path) -> None:
    sizes = {"batch_update_size": 100, "target_frames": 250, "sgd_batch_size": 3000}
    fit_here(store, tmp_path, K=4, n_sgd_steps=3, **sizes)
    assert read_metrics(tmp_path)["frames"] == [100, 200, 250]
    weights = load(tmp_path / "gmm.pt")["weights"]
    assert weights.sum() == pytest.approx(1.0, abs=1e-5)


def test_frames_done_are_frames_used_and_the_summary_says_so(store, tmp_path, caplog) -> None:
    with caplog.at_level(logging.INFO, "gmmpipe"):
        summary = fit_here(store, tmp_path, target_frames=9000)
    assert (summary.frames, summary.updates) == (9000, 3)
    assert (summary.frames_read, summary.frames_used) == (9000, 9000)
    assert "9000 read = 9000 used + 0 dropped" in caplog.text
    assert summary.nll == pytest.approx(read_metrics(tmp_path)["nll"][-1])


def damage_second_update(folder: Path) -> str:
    """Flip a byte that the second update of 4000 frames is the first to need; its shard's name."""
    opened = FeatureStore.open(folder)
    options = FitOptions(data_dir=str(folder), output_dir=folder, **SMALL_FIT)
    reader = UpdateReader(opened, options.schedule(opened), alone(), 1, lambda: False)
    parts = list(reader._order.ranges(0, 8000))
    first = {part.shard for part in parts if part.at < 4000}
    shard = next(part.shard for part in parts if part.shard not in first)
    return flip_in_frames(folder, shard, byte=10).name


def test_a_corrupt_shard_is_named_before_work_is_lost(store_copy, tmp_path) -> None:
    """Whether it is found before the first update or later, no finished update goes missing."""
    name = damage_second_update(store_copy)
    with pytest.raises(StoreError, match=name):
        fit_here(store_copy, tmp_path / "out", save_every=10**9)
    out = tmp_path / "out"
    finished = read_metrics(out)["frames"][-1] if num_updates(out) > 0 else 0
    saved = [load(path)["frames"] for path in (tmp_path / "out").glob("gmm_ckpt_*.pt")]
    assert max(saved, default=0) == finished


def test_no_metric_is_read_differently_by_numpy(fitted) -> None:
    table = np.loadtxt(fitted / "metrics.tsv", skiprows=1, delimiter="\t")
    assert table.shape == (2, len(COLUMNS))

"""`--optimizer em`: the same promises as with Adam, of exactness, resuming and refusing."""

import math
import shutil
from pathlib import Path

import pytest
import torch

from gmmpipe import GradientGMM
from gmmpipe.errors import CheckpointError, OptionError
from helpers.making import fit_here
from helpers.results import assert_same_fit

EM = {"optimizer": "em"}


@pytest.fixture(scope="module")
def fitted(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished fit of two updates, a checkpoint after each; not to be changed."""
    folder = tmp_path_factory.mktemp("em") / "fitted"
    fit_here(store, folder, **EM)
    return folder


def test_it_makes_another_model_than_adam_of_about_the_same_likelihood(
    fitted, store, tmp_path, frames
) -> None:
    fit_here(store, tmp_path)
    scores = []
    for folder in (fitted, tmp_path):
        model = GradientGMM.load(folder / "gmm.pt")
        scores.append(float(model.score_samples(frames).double().mean()))
        assert model.log_vars.min() >= math.log(0.1) - 1e-6
    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(scores[1], abs=2.0)


def test_going_on_from_a_checkpoint_gives_the_whole_fit(fitted, store, tmp_path) -> None:
    fit_here(store, tmp_path, **EM, resume=str(fitted / "gmm_ckpt_0.004M.pt"))
    assert_same_fit(fitted, tmp_path)


def test_a_raised_target_gives_exactly_the_longer_run(fitted, store, tmp_path) -> None:
    fit_here(store, tmp_path / "long", **EM, target_frames=17_000)
    folder = Path(shutil.copytree(fitted, tmp_path / "copy"))
    fit_here(store, folder, **EM, target_frames=17_000, resume="auto")
    assert_same_fit(tmp_path / "long", folder)


def test_the_running_statistics_are_part_of_the_checkpoint(fitted) -> None:
    resume = torch.load(fitted / "gmm.pt", weights_only=True)["resume"]
    assert resume["identity"]["optimizer"] == "em"
    sums = resume["optimizer"]["sums"]
    assert (sums.shape, sums.dtype) == ((16, 161), torch.float64)
    assert sums[:, -1].sum() == pytest.approx(512, rel=1e-5), "of a step's frames"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("optimizer", "adam", "optimizer is em .* adam"), ("init", "random", "init is kmeans")],
)
def test_another_optimizer_or_start_is_not_gone_on_with(name, value, said, fitted, store) -> None:
    with pytest.raises(CheckpointError, match=said):
        fit_here(store, fitted, **{**EM, name: value}, resume="auto")


@pytest.mark.parametrize("name", ["optimizer", "init"])
def test_a_way_that_does_not_exist_is_wrong_usage(name, store, tmp_path) -> None:
    with pytest.raises(OptionError, match=f"--{name} is magic"):
        fit_here(store, tmp_path, **{name: "magic"})

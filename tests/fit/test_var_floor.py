"""`--var_floor` in per cent of each dimension's own variance, and as the number that it may be."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from sklearn.mixture import GaussianMixture
from torch import Tensor

from gmmpipe import FeatureStoreWriter, GradientGMM
from gmmpipe.apply.evaluate import evaluate
from gmmpipe.cli import cli
from gmmpipe.errors import CheckpointError, OptionError
from gmmpipe.fitting.checkpoint import read_checkpoint
from gmmpipe.fitting.options import FitOptions
from gmmpipe.jepa import JEPABatches
from gmmpipe.mixture.em import m_step
from gmmpipe.mixture.floors import variance_floor
from gmmpipe.mixture.seeding import seed_mixture
from gmmpipe.mixture.statistics import StatisticsKernel
from gmmpipe.mixture.var_floor import MIN_VAR_FLOOR, parse_var_floor
from helpers.making import alone, fit_arguments, fit_here
from helpers.results import assert_same_fit

ONE_RANK = alone()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (0.1, 0.1),
        ("0.1", 0.1),
        ("1e-3", 1e-3),
        (1, 1.0),
        ("1%", "1%"),
        (" 1.0 % ", "1%"),
        ("0.50%", "0.5%"),
        ("1e-5%", "1e-05%"),
        ("100%", "100%"),
    ],
)
def test_equal_floors_are_equal_however_they_are_written(given, meant) -> None:
    assert parse_var_floor(given) == meant
    assert parse_var_floor(parse_var_floor(given)) == meant


BAD = ["0%", "-1%", "%", "nan%", "1e400%", "101%", "1%%", "x", "", "0", "-1", "nan", "inf", "1e-13"]


@pytest.mark.parametrize("given", BAD)
def test_other_texts_are_wrong_usage_in_one_clear_line(given, store, tmp_path) -> None:
    with pytest.raises(OptionError, match=r"^--var_floor: "):
        FitOptions(data_dir=str(store), output_dir=tmp_path, var_floor=given)
    arguments = fit_arguments(store, tmp_path / "out", var_floor=given)
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2
    last = done.stderr.splitlines()[-1]
    assert "--var_floor" in last
    assert repr(given) in last
    assert not (tmp_path / "out").exists()


def mfcc_like(count: int = 4000) -> Tensor:
    """Three clusters in four dimensions of variance 1000, 1, 0.01 and 0; float32 [N, 4]."""
    draw = torch.Generator().manual_seed(0)
    places = torch.tensor([[-1.4, 0.3, 1.1], [0.9, -1.3, 0.4], [-0.9, 1.4, -0.5]]).t()
    clusters = torch.randint(3, (count,), generator=draw)
    noise = 0.3 * torch.randn(count, 3, generator=draw)
    x = (places[clusters] + noise) * torch.tensor([1000.0, 1.0, 0.01]).sqrt()
    return torch.cat([x + torch.tensor([500.0, -3.0, 0.2]), torch.full((count, 1), 7.0)], 1)


def test_per_cent_is_of_each_dimensions_own_variance() -> None:
    frames = mfcc_like()
    floor = variance_floor(frames, "2.5%")
    assert isinstance(floor, Tensor)
    assert floor.dtype == torch.float64
    expected = 0.025 * frames.double().numpy().var(0)
    assert np.allclose(floor[:3].numpy(), expected[:3], rtol=1e-12)
    assert floor[3] == 0.025, "a constant counts as of variance 1"


@pytest.mark.parametrize("value", [0.0, 1e-3, -13.8, 1e4])
def test_what_rounding_alone_makes_vary_is_a_constant(value) -> None:
    """Of two neighbouring numbers in float32 the variance is no scale of the data."""
    near = np.nextafter(np.float32(value), np.float32(np.inf))
    frames = torch.tensor([[value], [float(near)], [value]], dtype=torch.float32)
    assert variance_floor(frames[::2], "1%").tolist() == [0.01]
    if value:
        assert variance_floor(frames, "1%").tolist() == [0.01]


def test_a_bound_is_never_below_the_least_floor() -> None:
    frames = torch.tensor([[0.0, 1e-9, 5.0], [1e-7, 0.0, 5.0]])
    floor = variance_floor(frames, "1e-05%")
    assert floor.tolist() == [MIN_VAR_FLOOR, MIN_VAR_FLOOR, pytest.approx(1e-7)]


def test_a_number_is_the_same_for_all_dimensions() -> None:
    assert variance_floor(mfcc_like(), 0.1) == 0.1


def clamped_em(frames: np.ndarray, model: GaussianMixture, floor: np.ndarray) -> GaussianMixture:
    """An EM step of scikit-learn's, with variances clamped at `floor`; float64."""
    _, log_posteriors = GaussianMixture._e_step(model, frames)
    model.reg_covar = 0.0
    posteriors = np.exp(log_posteriors)
    counts = posteriors.sum(0)[:, None]
    model.weights_, model.means_ = counts[:, 0] / counts.sum(), posteriors.T @ frames / counts
    squares = np.stack([((frames - mean) ** 2).T for mean in model.means_])
    model.covariances_ = np.maximum(np.einsum("nk,kdn->kd", posteriors, squares) / counts, floor)
    model.precisions_cholesky_ = 1 / np.sqrt(model.covariances_)
    return model


def test_em_on_features_of_very_different_scales_is_that_of_float64() -> None:
    frames = mfcc_like()
    floor = variance_floor(frames, "1%")
    here, center = seed_mixture(frames, 3, floor, seed=0, init="kmeans++"), frames.mean(0)
    there = GradientGMM.of(here.mixture).to_sklearn()
    for _ in range(10):
        m_step(StatisticsKernel(3, center)(frames, here.mixture), here, floor)
        there = clamped_em(frames.double().numpy(), there, floor.numpy())
    assert np.allclose(here.mixture.log_weights.exp().numpy(), there.weights_, atol=1e-4)
    scale = frames.std(0).numpy() + 1e-3
    assert np.abs((here.means.numpy() - there.means_) / scale).max() < 1e-3
    assert np.allclose(here.log_vars.exp().numpy(), there.covariances_, rtol=2e-3)


@pytest.fixture(scope="module")
def unlike_scales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of `mfcc_like` frames, some 40 an utterance."""
    folder = tmp_path_factory.mktemp("scales") / "store"
    with FeatureStoreWriter(folder, dim=4, frame_rate=50, dtype="float32") as writer:
        for number, frames in enumerate(mfcc_like().split(40)):
            writer.add(f"{number:03d}", frames)
    return folder


@pytest.mark.parametrize("optimizer", ["adam", "em"])
def test_a_dimension_of_small_variance_is_fitted_and_not_floored(
    optimizer, unlike_scales, tmp_path
) -> None:
    """Of three clusters each dimension has a ninth of its variance or so left within them."""
    sizes = {"K": 3, "n_sgd_steps": 200, "sgd_batch_size": 2000}
    fit_here(unlike_scales, tmp_path, **sizes, optimizer=optimizer, var_floor="1%")
    content = load(tmp_path / "gmm.pt")
    shares = content["covariances"].double() / content["var_floors"]
    assert shares.min() >= 1
    assert (shares[:, 3] < 1 + 1e-5).all(), "the constant is at its floor"
    assert ((shares[:, :3] > 4) & (shares[:, :3] < 20)).all(), "0.09 of 1 / 0.01, within limits"
    assert evaluate(str(unlike_scales), tmp_path / "gmm.pt", None, ONE_RANK).em_gap < 1e-3
    batches = JEPABatches(unlike_scales, gmm=tmp_path / "gmm.pt", batch_size=4)
    assert next(iter(batches)).targets.shape[2] == 3


PER_CENT: dict[str, Any] = {"var_floor": "10%"}


@pytest.fixture(scope="module", params=["adam", "em"])
def fitted(request, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished fit of two updates with a floor in per cent; not to be changed."""
    folder = tmp_path_factory.mktemp("floor") / request.param
    fit_here(store, folder, optimizer=request.param, **PER_CENT)
    return folder


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_the_file_says_what_was_given_and_what_it_came_to(fitted, frames) -> None:
    content = load(fitted / "gmm.pt")
    assert content["var_floor"] == "10%"
    floors = content["var_floors"]
    assert (floors.shape, floors.dtype) == ((80,), torch.float64)
    # All 4000 frames of the first update are the sample, which is about that of the store.
    assert (floors / (0.1 * frames.double().var(0)) - 1).abs().max() < 0.7
    shares = content["covariances"].double() / floors
    assert shares.min() >= 1
    assert (shares < 1 + 1e-5).any(), "some are at the floor"
    assert (shares > 1.5).any(), "and others are not"


def test_a_resumed_fit_has_the_same_bits(fitted, store, tmp_path) -> None:
    options = {"optimizer": fitted.name, **PER_CENT}
    fit_here(store, tmp_path, **options, resume=str(fitted / "gmm_ckpt_0.004M.pt"))
    assert_same_fit(fitted, tmp_path)


@pytest.mark.parametrize("other", ["11%", 0.1])
def test_another_floor_is_another_fit(other, fitted, store) -> None:
    with pytest.raises(CheckpointError, match=f"var_floor is 10% there and {other} here"):
        fit_here(store, fitted, optimizer=fitted.name, var_floor=other, resume="auto")


def test_the_options_file_starts_the_same_fit(fitted, store, tmp_path) -> None:
    assert yaml.safe_load((fitted / "options.yaml").read_text())["var_floor"] == "10%"
    arguments = ["fit", "--config", str(fitted / "options.yaml"), "--output_dir", str(tmp_path)]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert_same_fit(fitted, tmp_path)


def test_a_model_and_a_checkpoint_can_be_used_as_any_other(fitted, frames, tmp_path) -> None:
    model = GradientGMM.load(fitted / "gmm.pt")
    assert torch.equal(model.var_floor, load(fitted / "gmm.pt")["var_floors"])
    theirs = model.to_sklearn().score_samples(frames.double().numpy())
    assert np.abs(model.score_samples(frames).numpy() - theirs).max() < 1e-3
    model.save(tmp_path / "again.pt")
    assert torch.equal(GradientGMM.load(tmp_path / "again.pt").var_floor, model.var_floor)
    assert GradientGMM.from_sklearn(model.to_sklearn()).var_floor is None
    done = CliRunner().invoke(cli, ["inspect", str(fitted / "gmm.pt"), "--json"])
    assert json.loads(done.stdout)["var_floor"] == "10%"


def test_the_em_gap_is_under_the_models_own_floor(fitted, store, frames) -> None:
    path = fitted / "gmm.pt"
    gap = evaluate(str(store), path, None, ONE_RANK).em_gap
    wide = frames.double().numpy()
    before, after = (GradientGMM.load(path).to_sklearn() for _ in range(2))
    after = clamped_em(wide, after, load(path)["var_floors"].numpy())
    assert gap == pytest.approx(after.score(wide) - before.score(wide), abs=1e-4)
    assert gap > 0


def test_a_model_at_the_floor_gets_a_warning(store, tmp_path, caplog) -> None:
    fit_here(store, tmp_path / "high", var_floor="100%")
    assert "--var_floor 100%" in caplog.text
    caplog.clear()
    fit_here(store, tmp_path / "low", var_floor="1%")
    assert "--var_floor" not in caplog.text


def floors(*shape: int, value: float = 0.1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.full(shape, value, dtype=dtype)


WRONG: list[tuple[str, Any]] = [
    *(("var_floors", value) for value in (None, 0.1, [0.1] * 80, floors(79), floors(16, 80))),
    *(("var_floors", floors(80, value=value)) for value in (0.0, -1.0, math.nan, math.inf)),
    ("var_floors", floors(80, dtype=torch.float32)),
    *(("var_floor", value) for value in ("0%", "x", "1e400%", -1.0, math.nan, True, [0.1])),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: f"{value!s:.20}")
def test_a_floor_that_cannot_be_is_refused_by_name(name, value, fitted, tmp_path) -> None:
    path = tmp_path / "gmm.pt"
    torch.save({**load(fitted / "gmm.pt"), name: value}, path)
    for read in (GradientGMM.load, read_checkpoint):
        with pytest.raises(CheckpointError, match=f"^{path}: .*var_floor"):
            read(path)


@pytest.mark.parametrize("value", [floors(80), floors(1), 0.1, None])
def test_a_state_with_another_floor_than_the_models_is_refused(value, fitted, tmp_path) -> None:
    content, path = load(fitted / "gmm.pt"), tmp_path / "gmm.pt"
    content["resume"]["optimizer"]["var_floor"] = value
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"^{path}: .*var_floor"):
        read_checkpoint(path)

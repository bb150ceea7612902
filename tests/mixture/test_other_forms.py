"""Model files of other programs, read as scikit-learn would score them."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from gmmpipe import CheckpointError, GradientGMM


@pytest.fixture(scope="module")
def sklearn_model(frames) -> GaussianMixture:
    # In float64: of float32 frames scikit-learn's own scores err by more than these tests allow.
    model = GaussianMixture(5, covariance_type="diag", random_state=0)
    return model.fit(frames[:2000].double().numpy())


def content(model: GaussianMixture, dtype: torch.dtype, form: str) -> dict[str, torch.Tensor]:
    names = {
        "sjepa": ("means", "variances", "weights"),
        "sklearn": ("means_", "covariances_", "weights_"),
        "plain": ("means", "covariances", "weights"),
    }[form]
    values = (model.means_, model.covariances_, model.weights_)
    return {n: torch.from_numpy(v).to(dtype) for n, v in zip(names, values, strict=True)}


@pytest.mark.parametrize("form", ["sjepa", "sklearn", "plain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_files(form, dtype, sklearn_model, frames, tmp_path) -> None:
    torch.save({**content(sklearn_model, dtype, form), "n_iter": 3}, tmp_path / "m.pt")
    gmm = GradientGMM.load(tmp_path / "m.pt")
    expected = sklearn_model.score_samples(frames[:500].double().numpy())
    assert gmm.score_samples(frames[:500]).numpy() == pytest.approx(expected, abs=1e-3)
    assert gmm.info == {}


@pytest.mark.parametrize("order", ["C", "F"])
def test_npz(order, sklearn_model, frames, tmp_path) -> None:
    values = {n: getattr(sklearn_model, n) for n in ("weights_", "precisions_cholesky_")}
    for name in ("means_", "covariances_"):
        values[name] = np.array(getattr(sklearn_model, name), order=order)
    np.savez(tmp_path / "m.npz", **values, names=np.array(["a"]))
    gmm = GradientGMM.load(tmp_path / "m.npz")
    expected = sklearn_model.score_samples(frames[:500].double().numpy())
    assert gmm.score_samples(frames[:500]).numpy() == pytest.approx(expected, abs=1e-3)


def test_sjepa_form_and_back(fitted, frames, tmp_path) -> None:
    gmm = GradientGMM.load(fitted)
    gmm.save(tmp_path / "s.pt", form="sjepa")
    there = torch.load(tmp_path / "s.pt", weights_only=True)
    assert list(there) == ["means", "variances", "weights"]
    assert torch.equal(there["variances"], gmm.covariances)
    again = GradientGMM.load(tmp_path / "s.pt")
    assert torch.equal(again.means, gmm.means)
    torch.testing.assert_close(again.log_vars, gmm.log_vars, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(again.weights, gmm.weights, rtol=1e-6, atol=1e-9)
    assert torch.equal(again.assign(frames), gmm.assign(frames))
    with pytest.raises(ValueError, match="form is 'other'"):
        gmm.save(tmp_path / "s.pt", form="other")


def test_such_a_file_is_evaluated(store, fitted, tmp_path, invoke) -> None:
    GradientGMM.load(fitted).save(tmp_path / "s.pt", form="sjepa")
    assert "nll:" in invoke("evaluate", store, "--gmm_path", tmp_path / "s.pt").stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variances": torch.ones(2, 3, 3)}, "only diagonal"),
        ({"variances": torch.zeros(2, 3)}, "not above 0"),
        ({"variances": torch.full((2, 3), torch.inf)}, "variances are not finite"),
        ({"variances": torch.full((2, 3), 1e-60, dtype=torch.float64)}, "covariances of 0"),
        ({"means": torch.ones(3)}, "not \\[K, D\\]"),
        ({"means": torch.ones(2, 3, dtype=torch.int64)}, "no?t a tensor of floating"),
        ({"weights": torch.tensor([0.5, 0.6])}, "sum of 1"),
        ({"weights": torch.tensor([-0.5, 1.5])}, "at least 0"),
        ({"weights": torch.tensor([1.0])}, "weights \\(1,\\)"),
    ],
)
def test_what_makes_no_mixture_is_refused(change, message, tmp_path) -> None:
    good = {"means": torch.zeros(2, 3), "variances": torch.ones(2, 3)}
    good["weights"] = torch.tensor([0.0, 1.0])
    torch.save(good, tmp_path / "m.pt")
    assert GradientGMM.load(tmp_path / "m.pt").assign(torch.zeros(1, 3)).tolist() == [1]
    torch.save({**good, **change}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=f"m.pt: .*{message}"):
        GradientGMM.load(tmp_path / "m.pt")


def test_pickles_are_never_read(sklearn_model, tmp_path) -> None:
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(sklearn_model))
    with pytest.raises(CheckpointError, match=r"m.pkl: .*GradientGMM.from_sklearn"):
        GradientGMM.load(tmp_path / "m.pkl")
    np.savez(tmp_path / "m.npz", means_=np.array([print], dtype=object))
    with pytest.raises(CheckpointError, match=r"m.npz: "):
        GradientGMM.load(tmp_path / "m.npz")

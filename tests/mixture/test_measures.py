"""What metrics.tsv says of a mixture, against scikit-learn and plain numpy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import entropy
from torch import Tensor

from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.mixture.measures import UpdateSums, shape_measures
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.mixture.seeding import seed_mixture

USAGE = (
    *("alive", "balance_cv", "nll", "posterior_entropy", "intra_cluster_dist"),
    *("uncertain_share", "usage_entropy"),
)


def reference_usage(frames: Tensor, model: Mixture) -> dict[str, float]:
    reference, x = GradientGMM.of(model).to_sklearn(), frames.double().numpy()
    posteriors = reference.predict_proba(x)
    counts = np.bincount(posteriors.argmax(1))
    counts = counts[counts > 0]
    squared = np.stack([((x - mean) ** 2).sum(1) for mean in reference.means_], 1)
    return {
        "alive": len(counts),
        "balance_cv": counts.std(ddof=1) / counts.mean() if len(counts) > 1 else 0.0,
        "nll": -reference.score(x),
        "posterior_entropy": entropy(posteriors, axis=1).mean(),
        "intra_cluster_dist": (posteriors * squared).sum(1).mean(),
        "uncertain_share": (entropy(posteriors, axis=1, base=2) > 1).mean(),
        "usage_entropy": entropy(counts) / np.log(model.num_components),
    }


@pytest.fixture(scope="module")
def seeded(frames: Tensor) -> Mixture:
    parameters = seed_mixture(frames, 32, 0.1, seed=0)
    parameters.means[5] = 1e3  # so that one is dead
    parameters.log_vars.add_(0.7).clamp_(max=2.0)  # so that posteriors are not all 0 or 1
    return parameters.mixture


@pytest.mark.parametrize("name", USAGE)
def test_usage_metrics_are_those_of_scikit_learn(name, frames, seeded) -> None:
    got = UpdateSums.over(frames, seeded).measures()
    assert set(got) == set(USAGE)
    assert got["alive"] == 31
    assert got["posterior_entropy"] > 0.01
    assert got[name] == pytest.approx(reference_usage(frames, seeded)[name], rel=1e-6)


@pytest.mark.parametrize("part", [1, 3, 8])
def test_usage_sums_of_parts_add_up_however_they_are_cut(part, frames, seeded) -> None:
    whole = UpdateSums.over(frames, seeded)
    parts = [UpdateSums.over(piece, seeded).flat for piece in torch.tensor_split(frames, part)]
    parts.append(UpdateSums.over(frames[:0], seeded).flat)
    torch.testing.assert_close(sum(parts), whole.flat, rtol=1e-10, atol=1e-8)


def test_usage_metrics_of_digital_silence_are_finite_and_right(seeded) -> None:
    silence = torch.full((500, 80), math.log(1e-6))
    model = replace(seeded, log_vars=torch.full_like(seeded.log_vars, math.log(0.1)))
    got = UpdateSums.over(silence, model).measures()
    assert got["alive"] == 1
    assert got["balance_cv"] == 0.0
    assert got == pytest.approx(reference_usage(silence, model), rel=1e-6, abs=1e-9)


def test_shape_metrics_are_those_of_plain_numpy(seeded) -> None:
    weights = seeded.log_weights.double().exp().numpy()
    variances = np.exp(seeded.log_vars.double().numpy())
    assert shape_measures(seeded) == pytest.approx(
        {
            "weight_entropy": entropy(weights) / np.log(32),
            "avg_var": variances.mean(),
            "min_var": variances.min(),
            "max_var": variances.max(),
            "inter_cluster_dist": pdist(seeded.means.double().numpy()).mean(),
        },
        rel=1e-6,
    )


def test_means_are_compared_in_pairs_beyond_one_block_of_them() -> None:
    means = torch.randn(1500, 8, generator=torch.Generator().manual_seed(0))
    got = shape_measures(Mixture(means, torch.zeros(1500, 8), torch.full((1500,), -math.log(1500))))
    assert got["inter_cluster_dist"] == pytest.approx(pdist(means.double().numpy()).mean())
    assert got["weight_entropy"] == pytest.approx(1.0)


def test_one_component_has_no_spread_and_no_pairs(frames) -> None:
    model = seed_mixture(frames, 1, 0.1, seed=0).mixture
    got = {**UpdateSums.over(frames, model).measures(), **shape_measures(model)}
    assert got["alive"] == 1
    assert got["balance_cv"] == 0.0
    assert got["inter_cluster_dist"] == 0.0
    assert got["posterior_entropy"] == pytest.approx(0.0, abs=1e-9)
    assert got["weight_entropy"] == 1.0
    assert all(math.isfinite(value) for value in got.values())

"""Mixtures in files of other programs: S-JEPA's form, and scikit-learn's attributes by name."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_NAMES = {
    "means": ("means", "means_"),
    "variances": ("variances", "covariances", "covariances_"),
    "weights": ("weights", "weights_"),
}
_SUM_TOLERANCE = 1e-3
"""How far the weights' sum may be from 1: half precision keeps 1e-3."""


def in_other_form(content: Any) -> bool:
    """Whether a file's content names means, variances and weights, and is not a `gmm.pt`."""
    return (
        isinstance(content, Mapping)
        and "format_version" not in content
        and all(any(name in content for name in names) for names in _NAMES.values())
    )


def parameters_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """means [K, D], log_vars [K, D] and log_weights [K] of such content, float64.

    Weights are normalised; one of 0 has a logarithm of -inf. Other entries are passed over.

    Raises:
        ValueError: an entry is no tensor of that shape, or its values make no mixture.
    """
    found = {what: _entry(content, names) for what, names in _NAMES.items()}
    means, variances, weights = found["means"], found["variances"], found["weights"]
    if means.ndim != 2 or 0 in means.shape:
        raise ValueError(f"its means {tuple(means.shape)} are not [K, D]")
    if variances.shape != means.shape:
        shapes = f"{tuple(variances.shape)}, not {tuple(means.shape)}"
        raise ValueError(f"its variances are {shapes}: only diagonal mixtures can be read")
    if weights.shape != means.shape[:1]:
        raise ValueError(f"its weights {tuple(weights.shape)} are not [K], K = {len(means)}")
    if not (variances > 0).all():
        raise ValueError("it has variances that are not above 0")
    total = float(weights.sum())
    if not (weights >= 0).all() or abs(total - 1) > _SUM_TOLERANCE:
        raise ValueError(f"its weights are not at least 0 with a sum of 1 (it is {total:.6g})")
    return {"means": means, "log_vars": variances.log(), "log_weights": (weights / total).log()}


def _entry(content: Mapping[str, Any], names: tuple[str, ...]) -> Tensor:
    """The entry of the first of `names` that is there, float64."""
    name = next(name for name in names if name in content)
    value = content[name]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ValueError(f"its {name} is not a tensor of floating point")
    if not value.isfinite().all():
        raise ValueError(f"its {name} are not finite")
    return value.detach().to(torch.float64)

"""The lower bound of a mixture's variances, while it is fitted and in its file.

`gmmpipe.mixture.var_floor` says how a user writes it.
"""

from typing import Any

import torch
from torch import Tensor

from gmmpipe.mixture.model_file import check_tensor
from gmmpipe.mixture.var_floor import MIN_VAR_FLOOR, parse_var_floor

VarFloor = float | Tensor
"""One number for all dimensions, or float64 [D] with a bound for each."""

_CONSTANT = 2**-16
"""A dimension whose standard deviation is at most this share of its largest value is a constant."""


def variance_floor(sample: Tensor, given: float | str) -> VarFloor:
    """The lower bound of the variances: the number given, or float64 [D] for per cent.

    A dimension that is constant in the sample, or varies by little more than float32 rounds, counts
    as a dimension of variance 1, as in scikit-learn's StandardScaler: a share of its own variance
    would be no bound. No bound is below `MIN_VAR_FLOOR`.

    Args:
        sample: [S, D], the whole seeding sample.
        given: as `gmmpipe.mixture.var_floor.parse_var_floor` returns it.
    """
    if not isinstance(given, str):
        return given
    # A part of the dimensions at a time: all of the sample in float64 may take gigabytes.
    parts = [part.double().var(0, correction=0) for part in torch.split(sample, 16, dim=1)]
    variances = torch.cat(parts)
    largest = torch.maximum(sample.amax(0), -sample.amin(0))
    variances.masked_fill_(variances.sqrt() <= _CONSTANT * largest, 1.0)
    share = float(given.removesuffix("%")) / 100
    return variances.mul_(share).clamp_min_(MIN_VAR_FLOOR)


def hold_above(var_floor: VarFloor) -> VarFloor:
    """The bound to hold variances to, so that no rounding takes one below `var_floor`.

    What rounds is a float32 logarithm and its exponential. True of floors from `MIN_VAR_FLOOR` to
    1e13.
    """
    return var_floor * (1 + 2**-19)


def at_least(variances: Tensor, var_floor: VarFloor) -> Tensor:
    """`variances` [K, D], none of them below the floor."""
    bound = var_floor.to(variances) if isinstance(var_floor, Tensor) else var_floor
    return torch.clamp_min(variances, bound)


def on_device(var_floor: VarFloor, device: torch.device | str) -> VarFloor:
    """The same floor on a device."""
    return var_floor.to(device) if isinstance(var_floor, Tensor) else var_floor


def floor_to_content(given: float | str, var_floor: VarFloor) -> dict[str, Any]:
    """What a model file says of its variance floor.

    ``var_floor`` is what was given, a number or per cent as text; for per cent ``var_floors``,
    float64 [D], has the bounds that it came to.
    """
    if isinstance(var_floor, Tensor):
        return {"var_floor": given, "var_floors": var_floor.cpu()}
    return {"var_floor": given}


def floor_from_content(content: dict[str, Any]) -> VarFloor | None:
    """The variance floor that a model file tells of; None where it tells of none.

    Raises:
        ValueError: it is no floor for variances of the file's D dimensions.
    """
    given = content.get("var_floor")
    if given is None:
        return None
    try:
        parsed, dim = parse_var_floor(given), content["dim"]
    except ValueError:
        raise ValueError(f"its var_floor is {given!r:.40}") from None
    if not isinstance(parsed, str):
        return parsed
    floors = check_tensor("var_floors", content.get("var_floors"), (dim,), torch.float64)
    if not (floors > 0).all():
        raise ValueError("its var_floors are not all above 0")
    return floors

"""What ``--var_floor`` may say. Nothing here needs torch, for the command line asks too."""

import math

MIN_VAR_FLOOR = 1e-12
"""Below it, float32 precisions times squared frames come near their limit."""


def parse_var_floor(value: object) -> float | str:
    """A lower bound of the variances: a number, or per cent as a text like ``1%``.

    In per cent, the bound of a dimension is that share of the dimension's own variance in the
    seeding sample (`gmmpipe.mixture.floors.variance_floor`). Equal values give equal results,
    however they are written.

    Raises:
        ValueError: it is neither a variance of at least `MIN_VAR_FLOOR`, nor per cent above 0 and
            at most 100.
    """
    text = str(value).strip()  # a bool or a list is no number either, as text
    per_cent = text.endswith("%")
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = math.nan
    if per_cent and 0 < number <= 100:
        return f"{number!r}".removesuffix(".0") + "%"
    if not per_cent and MIN_VAR_FLOOR <= number < math.inf:
        return number
    raise ValueError(
        f"{value!r} is neither a variance, {MIN_VAR_FLOOR:g} or more, nor per cent of each "
        "dimension's own variance, like 1%, above 0 and at most 100"
    )

"""Frames that another program made: their size, their rate, and what their maker says of them."""

import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gmmpipe.errors import OptionError
from gmmpipe.features.spec import MAX_DIM, FrameSpec
from gmmpipe.files import canonical_json

_SLOWEST, _FASTEST = 1e-3, 1e6


@dataclass(frozen=True)
class ExternalSpec(FrameSpec):
    """What is known of a frame that gmmpipe has not computed.

    Args:
        dim: feature dimension D, 1 to 2048.
        frame_rate: frames a second, from 0.001 to a million.
        description: what made the frames, as a JSON object: the model, the layer, the version. It
            is part of the fingerprint, so frames of two descriptions are never mixed. It is copied.

    Raises:
        OptionError: a value is outside these bounds, or the description is no JSON object.
    """

    kind: ClassVar[str] = "external"

    dim: int
    frame_rate: float
    description: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        values = {
            "dim": _whole_number(self.dim),
            "frame_rate": _rate(self.frame_rate),
            "description": _json_object(self.description),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)  # as plain Python values, whatever was given

    def to_json(self) -> dict[str, Any]:
        """The kind and all parameters, as plain values."""
        return {
            "kind": self.kind,
            "dim": self.dim,
            "frame_rate": self.frame_rate,
            "description": _json_object(self.description),
        }


def _whole_number(dim: Any) -> int:
    try:
        number = operator.index(dim)  # NumPy's integers are welcome
    except TypeError:
        number = 0
    if isinstance(dim, bool) or not 1 <= number <= MAX_DIM:
        raise OptionError(f"dim is {dim!r}, but must be a whole number from 1 to {MAX_DIM}")
    return number


def _rate(frame_rate: Any) -> float:
    try:
        rate = math.nan if isinstance(frame_rate, str | bool) else float(frame_rate)
    except (TypeError, ValueError, OverflowError):
        rate = math.nan
    if not _SLOWEST <= rate <= _FASTEST:
        raise OptionError(
            f"frame_rate is {frame_rate!r}, but must be frames a second, from {_SLOWEST:g} to "
            f"{_FASTEST:g}"
        )
    return rate


def _json_object(description: Any) -> dict[str, Any]:
    if not isinstance(description, Mapping):
        raise OptionError(f"description is {description!r:.80}, but must be a JSON object")
    try:
        copy: dict[str, Any] = json.loads(canonical_json(dict(description)))
    except (TypeError, ValueError, RecursionError) as error:
        raise OptionError(f"description is no JSON object: {error}") from error
    return copy

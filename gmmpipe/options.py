"""Options: a field of a dataclass says all there is to say about one.

    @dataclass(frozen=True)
    class FitOptions(Options):
        data_dir: Paths = option(help="Comma-separated feature stores with equal fingerprints.")
        K: int = option(1024, help="Components.", low=1)
        target_frames: Frames = option(100_000_000, help="Frames to process.")
        optimizer: Literal["adam", "em"] = option("adam", help="Adam, or stepwise EM.")

The command line (`gmmpipe.cli.from_dataclass`), ``options.yaml`` and the checks of a value all come
from the field: its name, its type (`gmmpipe.option_kinds` has those with a notation of their own),
its default and what `option` adds. Nothing here needs click or torch.
"""

import math
import os
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from gmmpipe.errors import OptionError
from gmmpipe.option_kinds import Kind, PathRule

_METADATA = "gmmpipe"


@dataclass(frozen=True)
class Extras:
    """What `option` adds to a field."""

    help: str
    low: float | None
    high: float | None
    above: float | None
    name: str | None
    metavar: str | None
    shown: str | None
    is_argument: bool
    this_run_only: bool


def option(
    default: Any = MISSING,
    *,
    help: str,  # noqa: A002
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    name: str | None = None,
    metavar: str | None = None,
    shown: str | None = None,
    is_argument: bool = False,
    this_run_only: bool = False,
) -> Any:
    """A field of a dataclass that is an option of a command too.

    Args:
        default: its value where none is given; without one it is required.
        help: a sentence for ``--help``.
        low: the smallest value.
        high: the largest value.
        above: what the value must be greater than.
        name: the option's name, where it is not the field's.
        metavar: what help calls the value, where the type's name does not do.
        shown: the default as the command line writes it, where it is not the value's own text.
        is_argument: whether the command takes it without a name, by its place.
        this_run_only: whether it says how a run was started, nothing about what it makes, and so
            does not belong into ``options.yaml``, where it would be wrong for the next run.
    """
    extras = Extras(help, low, high, above, name, metavar, shown, is_argument, this_run_only)
    return field(default=default, metadata={_METADATA: extras})


@dataclass(frozen=True)
class Option:
    """All that is known of one option.

    Args:
        field: the field's name.
        name: the option's, on the command line.
        type: ``bool``, ``int``, ``float``, ``str`` or ``Path``.
        optional: whether the value may be None.
        choices: the values allowed; empty for any.
        kind: how it is written, where the type alone does not say.
        path: what a path must be.
        default: its value where none is given; `MISSING` where it is required.
        extras: what its field says beyond that.
    """

    field: str
    name: str
    type: type
    optional: bool
    choices: tuple[str, ...]
    kind: Kind | None
    path: PathRule
    default: Any
    extras: Extras

    @property
    def is_required(self) -> bool:
        """Whether there is no default."""
        return self.default is MISSING

    def check(self, value: Any) -> Any:
        """The value, as one of the option's type: a path from text, a float from an int.

        Raises:
            OptionError: it is of another type, or not allowed.
        """
        if value is None and self.optional:
            return None
        try:
            return self._in_range(self._typed(value))
        except ValueError as error:
            raise OptionError(f"--{self.name} is {value!s}, {error}") from None

    def _typed(self, value: Any) -> Any:
        if self.kind:
            try:
                return self.kind.parse(value)
            except ValueError as error:
                raise OptionError(f"--{self.name}: {error}") from None
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"not one of {[*self.choices]}")
            return value
        if self.type is bool:
            return _of_type(value, bool, "True or False")
        if self.type is Path:
            return Path(_of_type(value, str | os.PathLike, "a path"))
        if self.type is str:
            return os.fspath(_of_type(value, str | os.PathLike, "text"))
        if isinstance(value, bool):
            raise ValueError("but must be a number")
        if self.type is int:
            return int(_of_type(value, Integral, "a whole number"))
        return float(_of_type(value, Real, "a number"))

    def _in_range(self, value: Any) -> Any:
        extras = self.extras
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("but must be finite")
        too_low = extras.low is not None and value < extras.low
        too_high = extras.high is not None and value > extras.high
        if too_low or too_high or (extras.above is not None and value <= extras.above):
            raise ValueError(f"but must be {self._range()}")
        return value

    def _range(self) -> str:
        low, high, above = self.extras.low, self.extras.high, self.extras.above
        if low is not None and high is not None:
            return f"from {low:g} to {high:g}"
        if high is not None:
            return f"at most {high:g}"
        return f"at least {low:g}" if low is not None else f"above {above:g}"


def _of_type(value: Any, kind: Any, words: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"but must be {words}")
    return value


def options_of(kind: type) -> tuple[Option, ...]:
    """The options of a dataclass, in order; fields without `option` are none."""
    return _options_of(kind)


@cache
def _options_of(kind: Any) -> tuple[Option, ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        _option_of(item, hints[item.name]) for item in fields(kind) if _METADATA in item.metadata
    )


def _option_of(item: "Field[Any]", hint: Any) -> Option:
    extras: Extras = item.metadata[_METADATA]
    optional = False
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
        optional = True
    kind, path = None, PathRule()
    if get_origin(hint) is Annotated:
        hint, rule = get_args(hint)
        kind = rule if isinstance(rule, Kind) else None
        path = rule if isinstance(rule, PathRule) else path
    choices: tuple[str, ...] = ()
    if get_origin(hint) is Literal:
        hint, choices = str, get_args(hint)
    return Option(
        field=item.name,
        name=extras.name or item.name,
        type=hint,
        optional=optional,
        choices=choices,
        kind=kind,
        path=path,
        default=item.default,
        extras=extras,
    )


@dataclass(frozen=True)
class Options:
    """A command's options. Values are checked, and made those of their fields' types.

    Raises:
        OptionError: a value is not allowed.
    """

    def __post_init__(self) -> None:
        for one in options_of(type(self)):
            object.__setattr__(self, one.field, one.check(getattr(self, one.field)))

    def to_yaml(self) -> str:
        """The options, but for those of this run alone, as a file that ``--config`` accepts."""
        values = {
            one.name: _plain(getattr(self, one.field))
            for one in options_of(type(self))
            if not one.extras.this_run_only
        }
        return yaml.safe_dump(values, sort_keys=False)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value

"""Options: a field of a dataclass says all there is to say about one.

    @dataclass(frozen=True)
    class FitOptions(Options):
        data_dir: Paths = option(help="Comma-separated feature stores with equal fingerprints.")
        K: int = option(1024, help="Components.", low=1)
        target_frames: Frames = option(100_000_000, help="Frames to process.")
        optimizer: Literal["adam", "em"] = option("adam", help="Adam, or stepwise EM.")

The command line (`gmmpipe.cli.from_dataclass`), ``options.yaml`` and the checks of a value all come
from the field: its name, its type (`gmmpipe.option_types` has the types with a notation of their
own), its default and what `option` adds. Nothing here needs click or torch.
"""

import math
import os
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from gmmpipe.errors import OptionError
from gmmpipe.option_types import ANY_PATH, Notation, PathRule

_METADATA = "gmmpipe"


def option(default: Any = MISSING, **said: Any) -> Any:
    """Declare a field of a dataclass that is also an option of a command.

    Args:
        default: the value where none is given; an option without a default is required.
        said: the first arguments of `Option`, from `help` to `this_run_only`.
    """
    return field(default=default, metadata={_METADATA: Option(**said)})


def variant(kinds: Callable[[], dict[str, type]], *, help: str) -> Any:  # noqa: A002
    """Declare a field that holds one of several dataclasses: ``--features logmel``, for example.

    One option chooses the dataclass by its name; the fields of all of them are options beside it.

    Args:
        kinds: gives the dataclasses by their names; it is called when they are needed. The first
            one is the default, made without arguments.
        help: a sentence for ``--help``.
    """
    return field(
        default_factory=lambda: next(iter(kinds().values()))(),
        metadata={_METADATA: Variant(kinds, help)},
    )


@dataclass(frozen=True)
class Variant:
    """What `variant` adds to a field."""

    kinds: Callable[[], dict[str, type]]
    help: str

    def options(self) -> list["Option"]:
        """The options of all kinds, each name once."""
        return list(
            {o.name: o for kind in self.kinds().values() for o in options_of(kind)}.values()
        )

    def check(self, value: Any) -> Any:
        """The value, if it is of one of the dataclasses.

        Raises:
            OptionError: it is not.
        """
        kinds = self.kinds().values()
        if type(value) not in kinds:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise OptionError(f"{value!r:.80} is given instead of a {names}")
        return value

    def build(self, name: str, choice: str, values: dict[str, Any]) -> Any:
        """Make the dataclass that the option `name` chooses from the values given.

        Raises:
            OptionError: a value is not allowed, or is of an option that this dataclass lacks.
        """
        kind = self.kinds()[choice]
        own = {one.field for one in options_of(kind)}
        for one in self.options():
            if one.field in values and one.field not in own:
                raise OptionError(f"--{one.name} has no meaning for --{name} {choice}")
        return kind(**values)


@dataclass(frozen=True)
class Option:
    """All that is known of one option: what `option` is told, and what the field says.

    Args:
        help: a sentence for ``--help``.
        low: the smallest value.
        high: the largest value.
        above: what the value must be greater than.
        name: the name on the command line, if it is not the field's name.
        metavar: what help calls the value, if the type's name does not say enough.
        shown: the default as help writes it: ``8,8,5`` for 320, or in words where it is None.
        is_argument: whether the command takes it by its place, without a name.
        this_run_only: whether it says only how this run is started. Such an option is left out of
            ``options.yaml``, because it would be wrong for the next run.
        field: the field's name.
        type: ``bool``, ``int``, ``float``, ``str`` or ``Path``.
        optional: whether the value may be None.
        choices: the values allowed; empty for any.
        notation: how the value is written, if the type alone does not say.
        path: what a path must be.
        default: the value where none is given.
        is_required: whether there is no default.
    """

    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    name: str = ""
    metavar: str | None = None
    shown: str | None = None
    is_argument: bool = False
    this_run_only: bool = False
    field: str = ""
    type: Any = None
    optional: bool = False
    choices: tuple[str, ...] = ()
    notation: Notation | None = None
    path: PathRule = ANY_PATH
    default: Any = None
    is_required: bool = False

    def check(self, value: Any) -> Any:
        """The value in the option's type: a path from text, a float from an int.

        Raises:
            OptionError: the value is of another type, or not allowed.
        """
        if (value is None and self.optional) or self.is_word(value):
            return None
        try:
            return self._in_range(self._typed(value))
        except (ValueError, OverflowError) as error:
            shown = str(value) or "empty"
            raise OptionError(f"--{self.name} is {shown:.80}, {error}") from None

    def is_word(self, value: Any) -> bool:
        """Whether a value is the word that help writes for a number that is not given: ``all``."""
        is_number = self.optional and self.type in (int, float)
        return is_number and isinstance(value, str) and value == self.shown

    def _typed(self, value: Any) -> Any:
        if self.notation:
            try:
                return self.notation.parse(value)
            except ValueError as error:
                raise OptionError(f"--{self.name}: {error}") from None
        if self.choices:
            if value not in self.choices:
                raise ValueError(f"not one of {[*self.choices]}")
            return value
        if self.type is bool:
            return _of_type(value, bool, "True or False")
        if self.type is str:
            return os.fspath(_of_type(value, str | os.PathLike, "text"))
        if self.type is Path:
            if not os.fspath(_of_type(value, str | os.PathLike, "a path")):
                raise ValueError("but must be a path")  # Path("") is the current folder
            return Path(value)
        kind, words = (Integral, "a whole number") if self.type is int else (Real, "a number")
        if isinstance(value, bool):
            raise ValueError(f"but must be {words}")
        return self.type(_of_type(value, kind, words))

    def _in_range(self, value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("but must be finite")
        too_low = self.low is not None and value < self.low
        too_high = self.high is not None and value > self.high
        if too_low or too_high or (self.above is not None and value <= self.above):
            raise ValueError(f"but must be {self._range()}")
        return value

    def _range(self) -> str:
        low, high, above = self.low, self.high, self.above
        if low is not None and high is not None:
            return f"from {low:g} to {high:g}"
        if high is not None:
            return f"at most {high:g}"
        return f"at least {low:g}" if low is not None else f"above {above:g}"


def _of_type(value: Any, kind: Any, words: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"but must be {words}")
    return value


def options_of(kind: type) -> list[Option]:
    """The options of a dataclass, in order, without those of its variants."""
    return [one for one in options_and_variants(kind).values() if isinstance(one, Option)]


def options_and_variants(kind: type) -> dict[str, Option | Variant]:
    """The options and variants of a dataclass, in order, by the names of their fields."""
    return _read(kind)


@cache
def _read(kind: Any) -> dict[str, Option | Variant]:  # Any: mypy takes a class for its instances
    hints = get_type_hints(kind, include_extras=True)
    found: dict[str, Option | Variant] = {}
    for item in fields(kind):
        said = item.metadata.get(_METADATA)
        if isinstance(said, Option):
            required = item.default is MISSING
            found[item.name] = replace(
                said,
                name=said.name or item.name,
                field=item.name,
                default=None if required else item.default,
                is_required=required,
                **_read_type(hints[item.name]),
            )
        elif said:
            found[item.name] = said
    return found


def _read_type(hint: Any) -> dict[str, Any]:
    """The arguments of `Option` that a field's annotation gives."""
    said: dict[str, Any] = {}
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
        said["optional"] = True
    if get_origin(hint) is Annotated:
        hint, rule = get_args(hint)
        said["notation" if isinstance(rule, Notation) else "path"] = rule
    if get_origin(hint) is Literal:
        hint, said["choices"] = str, get_args(hint)
    return {**said, "type": hint}


@dataclass(frozen=True)
class Options:
    """A command's options. Each value is checked and brought into the type of its field.

    Raises:
        OptionError: a value is not allowed.
    """

    def __post_init__(self) -> None:
        for name, one in options_and_variants(type(self)).items():
            object.__setattr__(self, name, one.check(getattr(self, name)))

    def to_yaml(self) -> str:
        """The text of a file for ``--config``: all options but those of `this_run_only`."""
        values = {
            one.name: getattr(self, one.field)
            for one in options_of(type(self))
            if not one.this_run_only
        }
        paths = {name: str(value) for name, value in values.items() if isinstance(value, Path)}
        return yaml.safe_dump({**values, **paths}, sort_keys=False)

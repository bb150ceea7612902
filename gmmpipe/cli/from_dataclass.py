"""Commands made from the dataclasses of their options (`gmmpipe.options`)."""

from collections.abc import Callable, Container, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from gmmpipe.cli.common import NotationType, run_job
from gmmpipe.options import Option, Variant, options_and_variants

_Value = TypeVar("_Value")


def parameters(kind: type, only: Iterable[str] | None = None) -> list[click.Parameter]:
    """The command line's parameters for the options of a dataclass, in order.

    Args:
        kind: the dataclass.
        only: the fields to take; None for all.
    """
    wanted = None if only is None else set(only)
    made: list[click.Parameter] = []
    for name, one in options_and_variants(kind).items():
        if wanted is not None and name not in wanted:
            continue
        if isinstance(one, Variant):
            made += [_choice(name, one), *map(_parameter, one.options())]
        else:
            made.append(_parameter(one))
    return made


def build(
    kind: type[_Value], values: dict[str, Any], given: Container[str] | None = None
) -> _Value:
    """Make a dataclass from its own values; they are removed from `values`.

    Args:
        kind: the dataclass.
        values: the command's values, by the names of their fields.
        given: the names of the values that are not defaults; None where that makes no difference.

    Raises:
        OptionError: values are not allowed, or contradict each other.
    """
    chosen: dict[str, Any] = {}
    for name, one in options_and_variants(kind).items():
        if name not in values:
            continue
        value = values.pop(name)
        if isinstance(one, Variant):
            parts = {part.field: values.pop(part.field) for part in one.options()}
            mine = {part: v for part, v in parts.items() if given is None or part in given}
            value = one.build(name, value, mine)
        chosen[name] = value
    return kind(**chosen)


class OptionsCommand(click.Command):
    """A command whose options are those of a dataclass; it is imported when they are needed.

    Args:
        home: the dataclass, as ``module:name``.
        work: the command's work. It takes the dataclass and, by name, the command's own options.
        settings: click's settings of a command.
    """

    def __init__(self, home: str, work: Callable[..., object], **settings: Any) -> None:
        self._home = home
        self._work = work
        self._made: list[click.Parameter] = []
        super().__init__(callback=self._run, **settings)

    @property
    def options_class(self) -> type:
        """The dataclass."""
        module, name = self._home.split(":")
        kind: type = getattr(import_module(module), name)
        return kind

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The dataclass's options, and then the command's own."""
        self._made = self._made or parameters(self.options_class)
        return [*self._made, *super().get_params(ctx)]

    def _run(self, debug: bool, **values: Any) -> None:
        context = click.get_current_context()
        given = {
            name for name in values if context.get_parameter_source(name) != ParameterSource.DEFAULT
        }
        run_job(lambda: self._work(build(self.options_class, values, given), **values), debug)


def command_from(
    home: str, name: str, **settings: Any
) -> Callable[[Callable[..., object]], OptionsCommand]:
    """Make a command of a function: its docstring is the help, its first argument the options.

    Args:
        home: the dataclass of the options, as ``module:name``.
        name: the command's name.
        settings: click's settings of a command.
    """

    def make(function: Callable[..., object]) -> OptionsCommand:
        own = [*reversed(getattr(function, "__click_params__", []))]
        return OptionsCommand(
            home, function, name=name, params=own, help=function.__doc__, **settings
        )

    return make


def _parameter(one: Option) -> click.Parameter:
    kind = _click_type(one)
    if one.is_argument:
        return click.Argument([one.field], type=kind, required=one.is_required)
    settings: dict[str, Any] = {"help": one.help}
    if one.is_required:
        settings["required"] = True
    elif one.default is None:
        settings["show_default"] = one.shown or False  # click puts such a text into parentheses
    else:
        value = one.notation.show(one.default) if one.notation else one.default
        settings |= {"default": one.shown or value, "show_default": one.default is not False}
    if one.type is bool:
        flags = f"--{one.name}/--no_{one.name}" if one.default else f"--{one.name}"
        return click.Option([flags, one.field], is_flag=True, **settings)
    named = [f"--{one.name}", one.field]
    return _ValueOption(one, named, type=kind, metavar=one.metavar, **settings)


class _ValueOption(click.Option):
    """An option that takes a value, or the word that stands for none."""

    def __init__(self, one: Option, *named: Any, **settings: Any) -> None:
        super().__init__(*named, **settings)
        self._one = one

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Convert the value; None for that word."""
        return None if self._one.is_word(value) else super().type_cast_value(ctx, value)


def _choice(name: str, variant: Variant) -> click.Option:
    names = list(variant.kinds())
    return click.Option(
        [f"--{name}"],
        type=click.Choice(names),
        default=names[0],
        show_default=True,
        help=variant.help,
    )


def _click_type(one: Option) -> click.ParamType:
    if one.notation:
        return NotationType(one.notation)
    if one.choices:
        return click.Choice(one.choices)
    if one.type is Path:  # left as text, so that the dataclass sees an empty one
        return click.Path(one.path.exists, file_okay=one.path.file, dir_okay=one.path.folder)
    low, high, above = map(_bound, (one.low, one.high, one.above))
    if low is None and high is None and above is None:
        plain: click.ParamType = click.types.convert_type(one.type)
        return plain
    if one.type is int:
        return click.IntRange(low, high)
    return click.FloatRange(above if low is None else low, high, min_open=low is None)


def _bound(number: float | None) -> Any:
    """A bound as help shows it: 1800, not 1800.0."""
    return int(number) if number is not None and number == int(number) else number

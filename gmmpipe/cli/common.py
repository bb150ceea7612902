"""What the commands share: option types, option decorators, and how a job ends."""

import logging
import math
import os
import signal
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import yaml

from gmmpipe.errors import GmmpipeError, OptionError, Stopped
from gmmpipe.mixture.var_floor import parse_var_floor
from gmmpipe.run.roll_call import is_busy_in_background
from gmmpipe.run.stop import exit_status, raise_stopped, stop_signals

log = logging.getLogger("gmmpipe")
_Command = TypeVar("_Command", bound=Callable[..., Any])


class FrameCount(click.ParamType):
    """A count of frames: ``100M``, ``9.6B``, ``200k``, ``5_000_000``, ``1e6``."""

    name = "frames"
    _SCALES = {"K": 3, "M": 6, "B": 9, "G": 9, "T": 12}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The count as an int; wrong usage unless it is whole and at least 1."""
        text = str(value).strip()
        scale = self._SCALES.get(text[-1:].upper(), 0)
        try:
            count = Decimal(text[:-1] if scale else text).scaleb(scale)
        except InvalidOperation:
            self.fail(
                f"{value!r} is not a count of frames, like 100M, 9.6B or 5_000_000", param, ctx
            )
        if not count.is_finite() or count != count.to_integral_value() or count < 1:
            self.fail(f"{value!r} is not a whole number of frames, at least 1", param, ctx)
        return int(count)


class Strides(click.ParamType):
    """The strides of the encoder's convolutions, comma-separated; their product is the hop."""

    name = "ints"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The product of the strides."""
        if isinstance(value, int):
            return value
        try:
            strides = [int(part) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of integers", param, ctx)
        if any(stride < 1 for stride in strides):
            self.fail(f"{value!r} holds a stride below 1", param, ctx)
        return math.prod(strides)


class VarFloor(click.ParamType):
    """A lower bound of the variances: a number, or per cent like ``1%``."""

    name = "number|percent%"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | str:
        """The number as a float, or the per cent as text."""
        try:
            return parse_var_floor(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class CommaList(click.ParamType):
    """Comma-separated paths, at least one."""

    name = "paths"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The paths, as they are."""
        if not str(value).strip(", "):
            self.fail("no path is given", param, ctx)
        return str(value)


def _read_config(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    if value is None:
        return
    try:
        values = yaml.safe_load(value.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise click.BadParameter(f"{value} cannot be read: {reason}", ctx, param) from error
    if not isinstance(values, dict):
        raise click.BadParameter(f"{value} is not a mapping of options", ctx, param)
    options = {
        spelling.lstrip("-"): other
        for other in ctx.command.params
        for spelling in other.opts
        if other is not param
    }
    values = {str(name).replace("-", "_"): setting for name, setting in values.items()}
    if unknown := sorted(values.keys() - options.keys()):
        raise click.BadParameter(f"{value} holds unknown options: {', '.join(unknown)}", ctx, param)
    # As text, which is what an option's type is there to judge: 2.5 is no number of components.
    ctx.default_map = {
        str(options[name].name): _as_text(setting, options[name].type)
        for name, setting in values.items()
        if setting is not None
    }


def _as_text(setting: Any, kind: click.ParamType) -> str:
    if isinstance(setting, list) and isinstance(kind, CommaList | Strides):
        return ",".join(map(str, setting))
    return str(setting)


def job_options(command: _Command) -> _Command:
    """``--config`` and ``--debug``, which every command has."""
    config = click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        metavar="FILE.yaml",
        help="Defaults for the other options; a flag beats the file.",
    )
    debug = click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    return config(debug(command))


def run_job(job: Callable[[], object], debug: bool) -> None:
    """Run a command's work; its errors become one line on stderr and an exit status."""
    rank = int(os.environ.get("RANK") or 0)
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING, force=True)
    log.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    if not debug:  # torch, which is imported later, shows C++ stacks where a connection breaks
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        with stop_signals(raise_stopped):
            job()
    except Stopped as stopped:
        name = signal.Signals(stopped.signum).name
        log.warning("stopped by %s; what was finished is kept", name)
        _exit(exit_status(stopped.signum))
    except OptionError as error:
        raise click.UsageError(str(error)) from error
    except BrokenPipeError:
        raise  # click ends quietly when nobody reads on
    except Exception as error:
        if debug:
            raise
        log.error("error: %s", _one_line(error))
        _exit(1)


def _exit(status: int) -> NoReturn:
    """End the process, at once where a thread is left in torch, waiting for another rank."""
    if is_busy_in_background():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, GmmpipeError):
        return text
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {text} (--debug shows where)"

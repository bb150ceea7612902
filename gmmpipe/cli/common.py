"""What the commands share: ``--config``, ``--debug``, and how a job ends."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import yaml

from gmmpipe.errors import GmmpipeError, OptionError, Stopped
from gmmpipe.option_types import Notation
from gmmpipe.run.roll_call import is_busy_in_background
from gmmpipe.run.stop import exit_status, raise_stopped, stop_signals

log = logging.getLogger("gmmpipe")
_Command = TypeVar("_Command", bound=Callable[..., Any])

ANY_DASHES = {"token_normalize_func": lambda token: token.replace("-", "_")}
"""Context settings that let an option be written with dashes, too."""


class NotationType(click.ParamType):
    """The type of an option that has a notation of its own."""

    def __init__(self, notation: Notation) -> None:
        self.notation = notation
        self.name = notation.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text; wrong usage if that fails."""
        try:
            return self.notation.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _read_config(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    if value is None:
        return
    try:
        values = yaml.safe_load(value.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise click.BadParameter(f"{value} cannot be read: {reason}", ctx, param) from error
    if not isinstance(values, dict):
        raise click.BadParameter(f"{value} is not a mapping of options", ctx, param)
    options = {
        spelling.lstrip("-"): other
        for other in ctx.command.get_params(ctx)
        for spelling in other.opts
        if other.expose_value
    }
    values = {str(name).replace("-", "_"): setting for name, setting in values.items()}
    if unknown := sorted(values.keys() - options.keys()):
        raise click.BadParameter(f"{value} holds unknown options: {', '.join(unknown)}", ctx, param)
    # Each value goes as text, as from the command line, so that the option's type checks it:
    # the number 2.5 would become 2 components.
    ctx.default_map = {
        str(options[name].name): _as_text(setting, options[name].type)
        for name, setting in values.items()
        if setting is not None
    }


def _as_text(setting: Any, kind: click.ParamType) -> str:
    if isinstance(setting, list) and isinstance(kind, NotationType) and kind.notation.is_list:
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
    """Run a command's work; an error becomes one line on stderr and an exit status."""
    rank = int(os.environ.get("RANK") or 0)
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING, force=True)
    log.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    if not debug:  # torch is imported later; it would show C++ stacks where a connection breaks
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
    """End the process; at once if a thread still waits for another rank within torch."""
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

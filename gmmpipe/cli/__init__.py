"""The command line: options to one call, and its errors to one line and an exit status."""

from importlib import import_module

import click

from gmmpipe import __version__
from gmmpipe.cli.common import ANY_DASHES

_COMMANDS = {
    name: f"gmmpipe.cli.{name}"
    for name in (
        *("manifest", "featurize", "fit", "report", "evaluate", "label", "export"),
        *("inspect", "verify"),
    )
}
_COMMANDS["import"] = "gmmpipe.cli.import_frames"


class _LazyGroup(click.Group):
    """Imports a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = import_module(module).command
        return command


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], **ANY_DASHES},
)
@click.version_option(__version__, prog_name="gmmpipe")
def cli() -> None:
    """Features of speech once, a Gaussian mixture on them, and the same shards for a JEPA.

    Options are accepted with underscores and with dashes.
    """


def main() -> None:
    """Console entry point."""
    cli(prog_name="gmmpipe")

#!/usr/bin/env python
"""Writes docs/cli.md from each command's --help. Run by ``make docs``; a test keeps it current."""

from pathlib import Path

import click

from gmmpipe.cli import cli

PAGE = Path(__file__).resolve().parent / "cli.md"


def page() -> str:
    """The page's text."""
    parts = [
        "# Commands\n",
        "Made from each command's `--help` by `make docs`. Options are accepted with underscores "
        "and with\ndashes. `--config FILE.yaml` gives defaults for them; a flag beats the file.\n",
        "Exit status: 0 done; 1 the job failed, and one line on stderr says why; 2 wrong usage; "
        "130 after\nSIGINT, 143 after SIGTERM or SIGUSR1, with everything finished so far kept.\n",
    ]
    context = click.Context(cli, info_name="gmmpipe", **cli.context_settings)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        inner.terminal_width = 88
        parts.append(f"## gmmpipe {name}\n\n```text\n{command.get_help(inner)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

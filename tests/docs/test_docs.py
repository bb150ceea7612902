"""The documentation says what is true: options, links and commands."""

import re
import shlex
import subprocess
import sys

import click
import pytest

from gmmpipe.cli import cli
from helpers.processes import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> dict[str, list[click.Parameter]]:
    """The parameters of each command."""
    context = click.Context(cli, info_name="gmmpipe")
    found = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    return {name: command.get_params(context) for name, command in found.items()}


def test_the_command_page_is_current() -> None:
    code = "import make_cli; assert make_cli.PAGE.read_text() == make_cli.page(), 'make docs'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "docs", check=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_option_in_an_example_exists() -> None:
    examples = 0
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text("utf-8"), re.S | re.M):
            for line in block.splitlines():
                words = (
                    shlex.split(line) if re.match(r"(gmmpipe|torchrun .*gmmpipe) ", line) else []
                )
                if "gmmpipe" not in words:
                    continue
                name, *rest = words[words.index("gmmpipe") + 1 :]
                known = {opt for p in commands()[name] for opt in p.opts}
                assert {word for word in rest if word.startswith("--")} <= known, line
                examples += 1
    assert examples >= 4


@pytest.mark.parametrize("name", commands())
def test_every_option_has_a_help_text(name: str) -> None:
    for parameter in commands()[name]:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_the_changelog_has_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text

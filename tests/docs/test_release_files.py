"""What a release needs agrees with the package: citation, extras, image and workflows."""

import re
import tomllib

import pytest
import yaml

from gmmpipe import __version__
from helpers.processes import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOR_DEVELOPERS = {"all", "bench", "dev", "docs", "release", "test"}


def extras_in(requirements: list[str]) -> set[str]:
    """The extras of gmmpipe that requirements ask for."""
    return {name for one in requirements for name in one[8:].strip("[]").split(",")}


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert (
        "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    )


def test_all_has_every_extra_of_users() -> None:
    extras = PROJECT["optional-dependencies"]
    assert extras_in(extras["all"]) == set(extras) - FOR_DEVELOPERS


def test_the_image_is_made_of_files_that_it_may_see() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = {
        name for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.M) for name in line.split()
    }
    seen = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.M)
    assert copied == set(seen)
    assert all((ROOT / name).exists() for name in copied)
    [extras] = re.findall(r"^ARG EXTRAS=(\S+)$", text, re.M)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("name", ["ci", "release"])
def test_a_workflow_runs_what_is_there(name: str) -> None:
    path = ROOT / ".github" / "workflows" / f"{name}.yml"
    if not path.exists():
        pytest.skip("a source distribution has no workflows")
    jobs = yaml.safe_load(path.read_text())["jobs"]
    commands = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    targets = {target for command in commands for target in re.findall(r"\bmake (\w+)", command)}
    assert targets <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert all((ROOT / script).exists() for script in re.findall(r"\.ci/\w+", str(commands)))

"""A few draws of every class of faults; ``make soak`` tries the same ones at length.

A fault is either detected (exit status 1 and one line that names the file) or harmless (every
value that comes out is that of a run without it). `pipelines.soak` has the classes.
"""

import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from helpers.processes import ROOT, one_thread
from pipelines.soak.corruption import TARGETS
from pipelines.soak.crashes import WORKS
from pipelines.soak.damage import DAMAGES
from pipelines.soak.full_disk import FILLING
from pipelines.soak.fuzz import KINDS
from pipelines.soak.hostile import CASES
from pipelines.soak.numerics import AUDIO, SIZES
from pipelines.soak.pairs import PAIRS
from pipelines.soak.trials import open_stage, try_one, visible_operations
from pipelines.soak.verdict import SKIPPED, WRONG

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Call]:
    """Calls a function in a process of its own, which has no threads and may well be forked."""
    folder = tmp_path_factory.mktemp("soak") / "stage"
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=open_stage, initargs=(folder,)) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()


@pytest.fixture
def attempt(call: Call) -> Call:
    """Tries one fault; the test fails where it is neither detected nor harmless."""

    def attempt(name: str, *arguments: object) -> None:
        outcome = call(try_one, name, *arguments)
        if outcome.verdict == SKIPPED:
            pytest.skip(outcome.words)
        assert outcome.verdict != WRONG, outcome.words

    return attempt


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_damaged_file_is_named_or_without_effect(target: str, damage: str, attempt: Call) -> None:
    for seed in range(2):
        attempt("corruption", seed, target, damage)


@pytest.mark.parametrize("work", [name for name, work in WORKS.items() if work.ranks == 1])
def test_killed_after_any_file_operation_the_same_command_goes_on(
    work: str, call: Call, attempt: Call
) -> None:
    numbers = call(visible_operations, work)
    step = max(1, len(numbers) // 12)  # zarr has hundreds: its files are many, and all alike
    assert len(numbers) >= 5
    for number in [*numbers[::step], numbers[-1]]:
        attempt("kill at an operation", 0, work, number)


@pytest.mark.parametrize("work", WORKS)
def test_killed_at_random_moments_the_same_command_goes_on(work: str, attempt: Call) -> None:
    for seed in range(2):
        attempt("kill at random", seed, work)


@pytest.mark.parametrize("pair", PAIRS)
def test_two_at_once_share_the_work_or_one_is_refused(pair: str, attempt: Call) -> None:
    for seed in range(3):
        attempt("two at once", seed, pair)


@pytest.mark.parametrize("way", ["tmpfs", "limit"])
@pytest.mark.parametrize("work", FILLING)
def test_a_full_disk_is_named_and_leaves_nothing_half(work: str, way: str, attempt: Call) -> None:
    for seed in range(3):
        attempt("full disk", seed, work, way)


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_lies_costs_no_memory_and_no_time(case: str, attempt: Call) -> None:
    attempt("hostile files", 0, case)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_that_nobody_wrote_on_purpose(kind: str, attempt: Call) -> None:
    attempt("fuzz", 0, kind, 12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("audio", AUDIO)
def test_numbers_at_the_edges(audio: str, size: str, attempt: Call) -> None:
    attempt("numerics", 0, audio, size)


def test_the_soak_counts_and_ends_by_itself() -> None:
    command = [
        sys.executable,
        "-m",
        "pipelines.soak.run",
        "--minutes",
        "0.02",
        "--only",
        "full disk",
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=one_thread(),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| full disk " in done.stdout

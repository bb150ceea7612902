"""Real runs on JEPABatches: killed and gone on with, and shared by the ranks of a torchrun."""

import sys
from pathlib import Path

import pytest
from stand_in import SIZES, line_of

from gmmpipe.jepa import JEPABatches
from helpers.processes import Started, run, torchrun, wait_until

STAND_IN = str(Path(__file__).with_name("stand_in.py"))
STEPS = 300


@pytest.fixture(scope="module")
def expected(store: Path, gmm_path: Path) -> list[str]:
    """What a run in one piece writes."""
    return [line_of(batch) for batch in JEPABatches(store, gmm_path, **SIZES, stop_step=STEPS)]


def test_a_killed_run_goes_on_with_the_same_batches(
    expected: list[str], store: Path, gmm_path: Path, tmp_path: Path, start: Started
) -> None:
    """With two loader processes, which have read ahead of what was used when the run is killed."""
    written = tmp_path / "rank-0.txt"
    command = [sys.executable, STAND_IN, *map(str, (store, gmm_path, tmp_path, STEPS, 2))]
    process = start(command)
    wait_until(lambda: written.exists() and written.read_text().count("\n") >= 17, process)
    process.kill()
    process.wait()
    assert 17 <= written.read_text().count("\n") < STEPS
    run(command)
    assert written.read_text().splitlines(keepends=True) == expected


def test_two_ranks_go_on_from_one_and_share_its_steps(
    expected: list[str], store: Path, gmm_path: Path, tmp_path: Path
) -> None:
    done, steps = 12, 25
    files = [tmp_path / f"rank-{rank}.txt" for rank in (0, 1)]
    for file in files:
        file.write_text("".join(expected[:done]))
    run([*torchrun(2, STAND_IN), *map(str, (store, gmm_path, tmp_path, steps, 1))])
    for rank, file in enumerate(files):
        sizes = {**SIZES, "start_step": done, "stop_step": steps}
        alone = JEPABatches(store, gmm_path, **sizes, rank=rank, world_size=2)
        lines = file.read_text().splitlines(keepends=True)[done:]
        assert lines == [line_of(batch) for batch in alone]
        for line, whole in zip(lines, expected[done:steps], strict=True):
            assert line.split()[2].split(",") == whole.split()[2].split(",")[rank::2]

"""`make bench`: its table, how it goes on after a kill, and that no script is left out."""

import json
import signal
import sys
from pathlib import Path

import pytest

from helpers.making import CORPUS
from helpers.processes import ROOT, Started, run, wait_until

BENCHMARK = ROOT / "pipelines" / "benchmark"
LIBRARIES = {
    *("common", "bench", "bench_cases", "bench_machine", "bench_table"),
    *("fake_cuda", "fake_fit", "fake_streams", "gpu"),
}
"""Modules of the folder that measure nothing by themselves; `gpu` has a command of its own."""


def command(out: Path, *options: str) -> list[str]:
    script = str(BENCHMARK / "bench.py")
    return [sys.executable, script, "--data_dir", str(CORPUS), "--output_dir", str(out), *options]


def rows_of(table: str) -> list[list[str]]:
    """The cells of the table's rows."""
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def lines_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "bench.jsonl").read_text().splitlines()]


def test_killed_after_a_case_it_goes_on_with_the_next(tmp_path: Path, start: Started) -> None:
    quick = command(tmp_path, "--quick", "--only", "block_sizes,jepa_targets")
    process = start(quick)
    wait_until((tmp_path / "bench.jsonl").exists, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    conditions, first = lines_of(tmp_path)
    assert (first["case"], conditions["quick"]) == ("block_sizes", True)

    again = run(quick)
    assert "1 of 2 cases are done\n[1/1] jepa_targets" in again.stdout
    assert lines_of(tmp_path)[:2] == [conditions, first]
    rows = rows_of((tmp_path / "bench.md").read_text())
    # The same labels, whoever computes them: what the script found is what the table says.
    assert next(row for row in rows if row[0] == "jepa_targets")[3] == "0"
    for row in first["rows"]:
        ratio = f"{row['theirs'] / row['ours']:.2f}"
        assert ["block_sizes", row["what"], row["unit"], ratio] in [
            [*cells[:3], cells[6]] for cells in rows
        ]
    assert "0 of 2" not in run(quick).stdout  # all are done now


def test_under_other_conditions_it_begins_anew(tmp_path: Path) -> None:
    stale = [{"commit": "of last year", "quick": False}, {"case": "reading", "rows": []}]
    text = "".join(json.dumps(line) + "\n" for line in stale)
    (tmp_path / "bench.jsonl").write_text(text)
    (tmp_path / "bench.work" / "quality").mkdir(parents=True)
    (tmp_path / "bench.work" / "quality" / "results.jsonl").write_text("old")
    done = run(command(tmp_path, "--quick", "--only", "block_sizes"))
    assert "begins anew, because of another commit," in done.stdout
    assert (tmp_path / "bench.earlier.jsonl").read_text() == text
    assert not (tmp_path / "bench.work" / "quality").exists()
    assert [line.get("case") for line in lines_of(tmp_path)] == [None, "block_sizes"]


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--only", "reading,writing"], 2, "error: no case writing; there are: quality, kmeans, "),
        (["--data_dir", "nowhere"], 1, "error: nowhere: "),
    ],
)
def test_bad_input_is_one_line(options: list[str], status: int, said: str, tmp_path: Path) -> None:
    done = run(command(tmp_path, *options), check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (status, 1)
    assert done.stderr.startswith(said)
    assert not list(tmp_path.glob("bench.*l"))


def test_every_script_is_a_case() -> None:
    sys.path.insert(0, str(BENCHMARK))
    from bench_cases import CASES

    scripts = {path.name for path in BENCHMARK.glob("*.py") if path.stem not in LIBRARIES}
    assert {case.file for case in CASES} == scripts
    assert len({case.name for case in CASES}) == len(CASES)

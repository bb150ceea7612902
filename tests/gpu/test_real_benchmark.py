"""The benchmark of a GPU, `make gpu`: all its code, at tiny sizes on a CPU."""

import json
import sys

import pytest

from helpers.processes import ROOT, from_checkout, run

FOLDER = ROOT / "pipelines" / "benchmark"


@pytest.fixture
def parts(monkeypatch):
    """The modules of the benchmark can be imported."""
    monkeypatch.syspath_prepend(str(FOLDER))


def test_the_benchmark_measures_every_row_and_goes_on_with_what_is_missing(tmp_path) -> None:
    page = tmp_path / "out" / "gpu.md"
    command = [sys.executable, str(FOLDER / "gpu.py"), "--device", "cpu", "--quick"]
    command += ["--output", str(page)]
    done = run([*command, "--part", "steps,fits"], env=from_checkout())
    assert "failed" not in done.stdout
    path = page.with_suffix(".json")
    first = json.loads(path.read_text())
    steps, fits = (first["rows"][part] for part in ("steps", "fits"))
    assert {name.partition(": ")[2] for name in steps} >= {"GEMMs", "eager"}
    assert all(row["ms"] > 0 for row in steps.values())
    assert {"store", "fit, 1 rank", "evaluate", "label"} < fits.keys()
    # Both are of the made-up mixture's own frames, which the fit comes to know.
    assert fits["fit, 1 rank"]["nll"] == pytest.approx(fits["evaluate"]["nll"], abs=0.1)
    assert first["machine"]["torch"] in page.read_text()
    assert "| K = 300, D = 5 |" in page.read_text()
    assert sorted(path.parent.iterdir()) == [path, page], "the store and the fits are removed"

    missing = first["rows"]["fits"].pop("label")
    path.write_text(json.dumps(first))
    done = run([*command, "--part", "fits"], env=from_checkout())
    second = json.loads(path.read_text())
    assert second["rows"]["fits"].pop("label").keys() == missing.keys()
    assert second == first


def test_no_row_is_begun_when_the_time_is_up_and_one_that_fails_is_measured_again(
    parts, tmp_path, capsys
) -> None:
    from gpu_parts.results import Results

    late = Results(tmp_path / "gpu.md", {"card": "none"}, minutes=0)
    assert late.row("fits", "label", dict) is None
    assert late.left == ["fits: label"]

    def fail() -> dict:
        raise ValueError("out of\nmemory")

    results = Results(tmp_path / "gpu.md", {"card": "none"}, minutes=1)
    assert results.row("fits", "label", fail) is None
    assert results.failures() == ["fits: label"]
    assert "Not measured: label: ValueError: out of memory" in (tmp_path / "gpu.md").read_text()
    again = Results(tmp_path / "gpu.md", {"card": "none"}, minutes=1)
    assert again.row("fits", "label", lambda: {"seconds": 2.0}) == {"seconds": 2.0}
    assert again.row("fits", "label", fail) == {"seconds": 2.0}
    assert not again.failures()
    other = Results(tmp_path / "gpu.md", {"card": "another"}, minutes=1)
    assert not other.rows
    (tmp_path / "gpu.json").write_text("{")
    with pytest.raises(SystemExit, match="no results"):
        Results(tmp_path / "gpu.md", {"card": "none"}, minutes=1)


def test_the_tests_that_pass_fail_and_are_skipped_are_counted(parts, tmp_path) -> None:
    from gpu_parts.suite import run_tests

    (tmp_path / "test_some.py").write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pytest.skip('x')"
    )
    assert run_tests([str(tmp_path)], limit=60) == {
        "passed": 1,
        "failures": 1,
        "skipped": 1,
        "failed tests": "test_some::test_b",
    }
    assert "no such tests" in run_tests([], limit=60)["note"], "and not the whole suite"


def test_a_checkout_without_its_packages_says_what_is_missing(tmp_path) -> None:
    done = run([sys.executable, "-S", str(FOLDER / "gpu.py")], check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No module named")
    assert "Traceback" not in done.stderr

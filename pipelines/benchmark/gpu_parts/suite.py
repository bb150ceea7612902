"""The tests of a GPU, or those on tensors of CUDA without data where there is none."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from gpu_parts.machine import ROOT, environment
from gpu_parts.results import Results, Row

PART = "tests"


def run_suite(results: Results, on_gpu: bool) -> None:
    """One row: how many tests passed."""
    if on_gpu:
        name, arguments = "on the GPU", ["-m", "gpu", "tests/gpu"]
    else:
        paths = sorted((ROOT / "tests" / "gpu").glob("test_fake_*.py"))
        name = "on tensors of CUDA without data"
        arguments = [str(path.relative_to(ROOT)) for path in paths]
    results.row(PART, name, lambda: run_tests(arguments, results.seconds_left() + 60))


def run_tests(arguments: list[str], limit: float) -> Row:
    """Run pytest on what `arguments` name: the counts, and the names of what failed."""
    if not arguments:  # to pytest, that would be the whole suite
        return {"note": "this version has no such tests"}
    if not find_spec("pytest"):
        return {"note": "pytest is not installed: no test ran"}
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        subprocess.run(
            [sys.executable, "-m", "pytest", *options, *arguments],
            cwd=ROOT,
            env=environment(),
            timeout=limit,
        )
        if not report.exists():
            raise RuntimeError("pytest did not come to its end")
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    counts = {
        name: sum(int(suite.get(name, 0)) for suite in suites)
        for name in ("tests", "failures", "errors", "skipped")
    }
    if not counts["tests"]:
        raise RuntimeError(f"there is no test in {' '.join(arguments)}")
    bad = [
        f"{case.get('classname')}::{case.get('name')}"
        for suite in suites
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    failures = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failures - counts["skipped"]
    row = {"passed": passed, "failures": failures, "skipped": counts["skipped"]}
    return row | ({"failed tests": ", ".join(bad)} if bad else {})

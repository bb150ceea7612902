"""Run the tests of numerics as other processors would: one line of result for each setting.

    python tests/processors.py [NAME ...]

The libraries below torch and numpy choose their kernels by what the processor can do, and kernels
round in their own ways. The settings make them choose those of older processors. MKL heeds
MKL_ENABLE_INSTRUCTIONS on Intel's processors only (the same bits come out on AMD's), and
MKL_CBWR=COMPATIBLE, its kernels of SSE2, on all. NAMEs are of `SETTINGS`; without one, all run, one
after the other. The exit status is 1 if a test fails.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = [
    *("tests/mixture", "tests/fit", "tests/apply", "tests/jepa", "tests/run"),
    *("tests/store", "tests/features"),
    "tests/audio/test_resample.py",
]
OLDEST = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "Nehalem",
}
SETTINGS = {
    "this": {},
    "aten-default": {"ATEN_CPU_CAPABILITY": "default"},
    "aten-avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "mkl-avx2": {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "mkl-sse4_2": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "mkl-compatible": {"MKL_CBWR": "COMPATIBLE"},
    "openblas-haswell": {"OPENBLAS_CORETYPE": "Haswell"},
    "openblas-nehalem": {"OPENBLAS_CORETYPE": "Nehalem"},
    "oldest": OLDEST,
    "two-threads": {"TEST_THREADS": "2"},
    "oldest-two-threads": {**OLDEST, "TEST_THREADS": "2"},
}
"""Environment variables of each setting; TEST_THREADS is read by tests/helpers/processes.py."""


def run_tests(name: str) -> bool:
    """Run the tests under a setting and print a line of result; whether all passed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    environment = {**os.environ, **SETTINGS[name]}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines() or done.stderr.splitlines() or ["no output"]
    chosen = " ".join(f"{key}={value}" for key, value in SETTINGS[name].items())
    print(f"{name} ({chosen or 'nothing set'}): {lines[-1].strip('= ')}", flush=True)
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            print(f"    {line}", flush=True)
    return done.returncode == 0


def main(names: list[str]) -> int:
    """Run the settings of the given names, or all."""
    unknown = [name for name in names if name not in SETTINGS]
    if unknown:
        print(f"no such setting: {', '.join(unknown)}; there are {', '.join(SETTINGS)}")
        return 2
    failed = [name for name in names or SETTINGS if not run_tests(name)]
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

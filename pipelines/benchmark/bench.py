#!/usr/bin/env python
"""Every benchmark of this folder, one after the other, as one table: out/bench.md.

    make bench [CORPUS=MANIFESTS] [BENCH="--quick --only reading,kmeans"]
    python pipelines/benchmark/bench.py --data_dir MANIFESTS [--output_dir out] [--quick]

Each script measures gmmpipe and its rivals in turn. A rival that is not installed is left out, with
a note; `pip install 'gmmpipe[bench]'` has all of them. What is measured is kept in bench.jsonl
beside the table, and an interrupted run goes on with what is missing; with another commit, machine
or corpus it begins anew. --quick tries all scripts out in minutes; its figures say nothing.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from bench_cases import CASES, FIT, QUICK_FIT, Case
from bench_machine import conditions
from bench_table import table
from common import ROWS_VARIABLE

from gmmpipe.claim import claim_folder, identity_of
from gmmpipe.errors import GmmpipeError
from gmmpipe.files import write_atomic

HERE = Path(__file__).resolve().parent
Row = dict[str, Any]


def main() -> None:
    options = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        bench = Bench(options)
        with claim_folder(bench.work, identity_of("bench"), "benchmarks", alone=True):
            failed = bench.run(chosen_cases(options.only))
    except GmmpipeError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted; run it again to go on", file=sys.stderr)
        sys.exit(130)
    if failed:
        sys.exit(f"error: failed: {', '.join(failed)}; run it again to try only these")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="every benchmark, as one table")
    parser.add_argument("--data_dir", required=True, help="folders of, or, manifests")
    parser.add_argument("--output_dir", type=Path, default=Path("out"), help="of bench.md")
    parser.add_argument("--only", help="comma-separated names of cases; default: all")
    parser.add_argument("--quick", action="store_true", help="try the scripts out, in minutes")
    return parser.parse_args()


def chosen_cases(only: str | None) -> list[Case]:
    """The cases of these names, or all."""
    names = [case.name for case in CASES]
    wanted = names if only is None else only.split(",")
    if unknown := sorted(set(wanted) - set(names)):
        print(
            f"error: no case {', '.join(unknown)}; there are: {', '.join(names)}", file=sys.stderr
        )
        sys.exit(2)
    return [case for case in CASES if case.name in wanted]


class Bench:
    """The table, the lines that it is made of, and the folder in which scripts work."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work = options.output_dir / "bench.work"
        self._lines_path = options.output_dir / "bench.jsonl"
        self._conditions = {**conditions(options.data_dir), "quick": options.quick}

    def run(self, cases: list[Case]) -> list[str]:
        """Run the cases that are not done; the names of those that failed."""
        done = self._read()
        missing = [case for case in cases if case.name not in {line["case"] for line in done}]
        print(f"{len(cases) - len(missing)} of {len(cases)} cases are done", flush=True)
        failed = []
        for number, case in enumerate(missing, 1):
            print(f"[{number}/{len(missing)}] {case.name}", end=" ", flush=True)
            began = time.monotonic()
            rows, error = self._measure(case)
            seconds = round(time.monotonic() - began, 1)
            print(f"{seconds} s{f': failed: {error}' if error else ''}", flush=True)
            if error:
                failed.append(case.name)
                continue
            done.append({"case": case.name, "seconds": seconds, "rows": rows})
            self._write(done)
        self._write(done)
        print(f"the table: {self.options.output_dir / 'bench.md'}")
        return failed

    def _read(self) -> list[Row]:
        """What is measured already, under the same conditions; else begin anew."""
        if not self._lines_path.exists():
            return []
        first, *lines = map(json.loads, self._lines_path.read_text().splitlines())
        changed = sorted(name for name in {*first, *self._conditions} if self._differs(first, name))
        if not changed:
            return list(lines)
        earlier = self._lines_path.with_name("bench.earlier.jsonl")
        print(f"begins anew, because of another {', '.join(changed)}; before: {earlier}")
        self._lines_path.replace(earlier)
        for path in self.work.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
        return []

    def _differs(self, first: Row, name: str) -> bool:
        return bool(first.get(name) != self._conditions.get(name))

    def _write(self, done: list[Row]) -> None:
        """Both files, whole or not at all."""
        order = [case.name for case in CASES]
        done.sort(key=lambda line: order.index(line["case"]))
        text = "".join(json.dumps(line) + "\n" for line in [self._conditions, *done])
        write_atomic(self._lines_path, text.encode())
        write_atomic(self.options.output_dir / "bench.md", table(self._conditions, done).encode())

    @cached_property
    def _made(self) -> dict[str, str]:
        """What several cases need of the corpus; what is there is not made again."""
        store, fit, labels = (str(self.work / name) for name in ("store", "fit", "labels"))
        gmm = f"{fit}/gmm.pt"
        output = ("--data_dir", store, "--output_dir", fit, "--resume", "auto")
        settings = (QUICK_FIT if self.options.quick else FIT).split()
        source = ("--data_dir", self.options.data_dir, "--output_dir", store)
        gmmpipe("featurize", *source, "--store_audio", "flac")
        gmmpipe("fit", *output, *settings)
        gmmpipe("label", store, "--gmm_path", gmm, "--output_dir", labels, "--top_k", "8")
        return {"store": store, "gmm": gmm, "labels": labels}

    def _measure(self, case: Case) -> tuple[list[Row], str]:
        """Run a script: its rows, and the last line of its error, or nothing.

        What it prints is in its own file of the folder.
        """
        folder = self.work / case.name
        rows_path, fresh = folder / "rows.jsonl", folder / "fresh"
        folder.mkdir(exist_ok=True)
        rows_path.unlink(missing_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)
        text = f"{case.arguments} {case.quick if self.options.quick else ''}"
        names = {"corpus": self.options.data_dir, "folder": folder, "fresh": fresh}
        if "{store}" in text:
            names |= self._made
        words = [word.format(**names) for word in text.split()]
        printed = folder / "printed.txt"
        command = [str(HERE / case.file), *words]
        with open(printed, "w") as file, running(command, file, rows_path) as process:
            status = process.wait()
        if status:
            lines = printed.read_text(errors="replace").strip().splitlines()
            return [], f"exit status {status}: {lines[-1] if lines else ''}"
        rows = rows_path.read_text().splitlines() if rows_path.exists() else []
        return [json.loads(row) for row in rows], ""


@contextmanager
def running(arguments: list[str], output: Any, rows: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A script, whose processes end with the block."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, ROWS_VARIABLE: str(rows)},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def gmmpipe(*arguments: str) -> None:
    """Run a gmmpipe command.

    Raises:
        GmmpipeError: it failed; what it printed last.
    """
    command = [sys.executable, "-m", "gmmpipe", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise GmmpipeError(f"gmmpipe {arguments[0]}: {said[-1].removeprefix('error: ')}")


if __name__ == "__main__":
    main()

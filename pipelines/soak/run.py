"""Try faults for so many minutes, and count what they came to: ``make soak MINUTES=30``.

    python -m pipelines.soak.run --minutes 30 [--seed 0]
    python -m pipelines.soak.run --seed 0 --only corruption --trial 17

The second form repeats one, which the first names where it is wrong. Exit status 1 if any is.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

from pipelines.soak.child import kill_all
from pipelines.soak.trials import TRIALS, open_stage, try_one
from pipelines.soak.verdict import WRONG, Table

ROUND = {
    "corruption": 12,
    "kill at an operation": 4,
    "kill at random": 2,
    "two at once": 2,
    "full disk": 2,
    "hostile files": 2,
    "fuzz": 1,
    "numerics": 1,
}
"""How many of each class are tried in turn."""


def main() -> int:
    """Parse the arguments and go; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TRIALS, help="this class alone")
    parser.add_argument("--trial", type=int, help="this trial of it alone")
    options = parser.parse_args()
    if options.trial is not None and not options.only:
        parser.error("--trial needs --only")
    for signum in (signal.SIGINT, signal.SIGTERM):  # also where a shell ignores SIGINT, behind &
        signal.signal(signum, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="gmmpipe-soak-"))
    # What is killed leaves temporary folders of its own.
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    table = Table()
    try:
        open_stage(folder / "stage")
        if options.trial is not None:
            outcome = try_one(options.only, f"{options.seed} {options.trial}")
            print(f"{outcome.verdict}: {outcome.words}")
            return int(outcome.verdict == WRONG)
        _soak(table, options.seed, options.minutes, [options.only] if options.only else [])
        status = int(table.wrong > 0)
    except KeyboardInterrupt:
        print("interrupted; so far:", file=sys.stderr)
        status = 130
    finally:
        kill_all()
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(table.lines()))
    return status


def _soak(table: Table, seed: int, minutes: float, only: list[str]) -> None:
    end = time.monotonic() + 60 * minutes
    next_word = time.monotonic() + 60
    trials = dict.fromkeys(TRIALS, 0)
    turns = only or [name for name, times in ROUND.items() for _ in range(times)]
    for name in cycle(turns):
        if time.monotonic() > end:
            return
        outcome = try_one(name, f"{seed} {trials[name]}")
        table.add(name, outcome)
        if outcome.verdict == WRONG:
            again = f"--seed {seed} --only {name!r} --trial {trials[name]}"
            print(f"WRONG: {outcome.words}")
            print(f"  {sys.executable} -m pipelines.soak.run {again}", flush=True)
        trials[name] += 1
        if time.monotonic() > next_word:
            next_word += 60
            left = max(0.0, end - time.monotonic()) / 60
            print(
                f"{sum(trials.values())} tried, {table.wrong} wrong, {left:.0f} minutes to go",
                file=sys.stderr,
            )


if __name__ == "__main__":
    sys.exit(main())

"""Files that lie about sizes, or never end: one line, and no memory or time worth speaking of."""

import json
import random
from pathlib import Path

from pipelines.soak import lying_audio, lying_models, lying_stores  # noqa: F401
from pipelines.soak.case import CASES
from pipelines.soak.child import Ended, file_bytes, run
from pipelines.soak.stage import Stage
from pipelines.soak.verdict import Outcome, held, refused

MAX_BYTES = 1 << 29
"""A reader may take half a gigabyte; each of these files asks for much more."""


def lie(stage: Stage, rng: random.Random, name: str = "") -> Outcome:
    """Try a case; all must be refused, but for audio and lines, which are rejects.

    A sidecar of an unfinished store may also be told of and made anew.
    """
    name = name or rng.choice(list(CASES))
    with stage.scratch() as scratch:
        path, job = CASES[name](stage, scratch)
        ended = run(job, max_bytes=MAX_BYTES)
        if path.suffix == ".jsonl" and path.name != "rejects.jsonl":
            return held(name, _fault_of_rejects(ended, scratch))
        if ended.status == 0 and f"{path}: " in ended.stderr:
            mended = file_bytes(path.parent) == file_bytes(stage.folder / path.parent.name)
            return refused(name, "" if mended else f"made anew, but other: {ended.stderr[-500:]}")
        return refused(name, ended.fault([path.name, path.name.split(".")[0]]))


def _fault_of_rejects(ended: Ended, scratch: Path) -> str:
    """All lines but the first are rejects, in the store or in the error that there is none."""
    if ended.excess or ended.status != 0:
        return ended.excess or ended.stderr[-500:]
    totals = json.loads((scratch / "out" / "store.json").read_bytes())["totals"]
    counted = totals["lines"] == totals["utterances"] + totals["rejects"]
    return "" if counted and totals["utterances"] == 1 else f"totals are {totals}"

"""Two processes at once on one output folder: the same work is shared, any other is refused."""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.soak.child import Child, Job, command, file_bytes, run
from pipelines.soak.readers import fit_result
from pipelines.soak.stage import Arguments, Stage, featurizing, labelling
from pipelines.soak.verdict import Outcome, held, refused


@dataclass(frozen=True)
class Pair:
    """Two commands that begin at the same moment.

    Args:
        first, second: their arguments, from the stage and the output folder.
        same: they are the same work.
        is_fit: they leave a model rather than a store.
    """

    first: Arguments
    second: Arguments
    same: bool = False
    is_fit: bool = False

    def result(self, out: Path) -> Any:
        """What they left, to be compared; None where it is no finished work."""
        try:
            return fit_result(out) if self.is_fit else file_bytes(out)
        except (OSError, RuntimeError, ValueError, EOFError):
            return None


def _fit(**changes: Any) -> Arguments:
    return lambda stage, out: stage.fit(out, **changes)


PAIRS = {
    "the same featurize tar": Pair(featurizing(), featurizing(), same=True),
    "the same featurize zarr": Pair(
        featurizing(format="zarr"), featurizing(format="zarr"), same=True
    ),
    "slices of featurize": Pair(
        featurizing(task_index=0, num_tasks=2), featurizing(task_index=1, num_tasks=2), same=True
    ),
    "the same label": Pair(labelling(), labelling(), same=True),
    "the same fit": Pair(_fit(), _fit(), same=True, is_fit=True),
    "the same fit --resume auto": Pair(
        _fit(resume="auto"), _fit(resume="auto"), same=True, is_fit=True
    ),
    "featurize of another seed": Pair(featurizing(), featurizing(seed=3)),
    "featurize of other n_mels": Pair(featurizing(), featurizing(n_mels=40)),
    "featurize zarr and tar": Pair(featurizing(), featurizing(format="zarr")),
    "featurize zarr of another seed": Pair(
        featurizing(format="zarr"), featurizing(format="zarr", seed=3)
    ),
    "featurize and label": Pair(featurizing(), labelling()),
    "label of another top_k": Pair(labelling(), labelling(top_k=1)),
    "fit of another K": Pair(_fit(), _fit(K=3), is_fit=True),
    "fit of another seed": Pair(_fit(resume="auto"), _fit(resume="auto", seed=2), is_fit=True),
}
_alone: dict[tuple[int, str, int], tuple[Any, float]] = {}


def at_once(stage: Stage, rng: random.Random, name: str = "") -> Outcome:
    """Start two commands so that they overlap somehow, and judge what they leave."""
    name = name or rng.choice(list(PAIRS))
    pair = PAIRS[name]
    alone = [_result_of(stage, name, number) for number in (0, 1)]
    lag = rng.choice([0.0, rng.uniform(0, 0.02), rng.uniform(0, alone[0][1])])
    order = rng.sample([0, 1], 2)
    words = f"{name}, {'second' if order[0] else 'first'} begins, the other {lag:.3f} s later"
    with stage.scratch() as scratch:
        out = scratch / "out"
        jobs = [command(*pair.first(stage, out)), command(*pair.second(stage, out))]
        moment = time.time() + 0.05
        children = {
            number: Child(_at(moment + lag * place, jobs[number]))
            for place, number in enumerate(order)
        }
        ends = [children[number].end() for number in (0, 1)]
        winners = [number for number, ended in enumerate(ends) if ended.status == 0]
        for ended in ends:
            if ended.status != 0 and (fault := ended.fault()):
                return held(words, fault)
        if not winners:
            return held(words, f"both are refused: {ends[0].stderr[-300:]} {ends[1].stderr[-300:]}")
        if pair.same:
            again = run(jobs[0]) if "slices" in name else ends[winners[0]]
            if "slices" in name:
                again = run(command(*stage.featurize(out)))
            if not pair.is_fit and len(winners) < 2:
                loser = ends[1 - winners[0]]
                return held(words, f"the same work is refused: {loser.stderr[-300:]}")
            fault = "" if again.status == 0 else again.stderr[-300:]
        else:
            fault = "both go on" if len(winners) == 2 else ""
        if not fault and pair.result(out) != alone[winners[0]][0]:
            fault = f"the result is not that of one alone ({sorted(p.name for p in out.glob('*'))})"
        return held(words, fault) if pair.same else refused(words, fault)


def _at(moment: float, job: Job) -> Job:
    def begin() -> Any:
        time.sleep(max(0.0, moment - time.time()))
        return job()

    return begin


def _result_of(stage: Stage, name: str, number: int) -> tuple[Any, float]:
    """What one of a pair leaves when it is alone, and how long it takes."""
    key = (id(stage), name, number)
    if key not in _alone:
        pair = PAIRS[name]
        with stage.scratch() as scratch:
            out = scratch / "out"
            make = (pair.first, pair.second)[number]
            begin = time.monotonic()
            stage.make(make(stage, out))
            seconds = time.monotonic() - begin
            if "slices" in name:
                stage.make(stage.featurize(out))
            _alone[key] = pair.result(out), seconds
    return _alone[key]

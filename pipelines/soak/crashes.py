"""SIGKILL anywhere, and the same command again: the result is that of a run never disturbed."""

import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipelines.soak.child import Child, Ended, Job, command, file_bytes, process, run
from pipelines.soak.operations import killed_after_number, operations_of
from pipelines.soak.readers import fit_result
from pipelines.soak.stage import Arguments, Stage, featurizing, labelling
from pipelines.soak.verdict import Outcome, held


@dataclass(frozen=True)
class Work:
    """A command that fills an output folder.

    Args:
        arguments: of the command, from the stage and the folder.
        before: what is in the folder beforehand: a name on the stage, or empty.
        ranks: how many processes do it together.
        launch: how it is started; see `pipelines.soak.child`.
        is_fit: it leaves a model rather than a store.
        without: the arguments without ``--overwrite``, where that is among them.
    """

    arguments: Arguments
    before: str = ""
    ranks: int = 1
    launch: Callable[..., Job] = command
    is_fit: bool = False
    without: Arguments | None = None

    def job(self, stage: Stage, out: Path) -> Job:
        """The command as a job."""
        return self.launch(*self.arguments(stage, out))

    def result(self, out: Path) -> Any:
        """What it left, to be compared."""
        if self.is_fit:
            return fit_result(out)
        return file_bytes(out)


def _fit(**changes: Any) -> Arguments:
    return lambda stage, out: stage.fit(out, **{"resume": "auto", **changes})


def _overwriting(make: Callable[..., Any], before: str, **changes: Any) -> Work:
    afresh = {"resume": None} if before == "fit" else {}
    arguments = make(overwrite=True, **afresh, **changes)
    return Work(arguments, before, is_fit=before == "fit", without=make(**changes))


def _torchrun(*arguments: object) -> Job:
    options = ["--standalone", "--nproc_per_node=2", "-m", "gmmpipe"]
    return process(*arguments, python=["-m", "torch.distributed.run", *options])


WORKS = {
    "featurize tar": Work(featurizing()),
    "featurize zarr": Work(featurizing(format="zarr")),
    "featurize split": Work(featurizing(max_seconds=0.5, long_audio="split", store_audio="none")),
    "featurize slices": Work(featurizing(), before="tar begun"),
    "label": Work(labelling()),
    "fit": Work(_fit(), is_fit=True),
    "fit em": Work(_fit(optimizer="em"), is_fit=True),
    "fit of 2 ranks": Work(_fit(), ranks=2, is_fit=True),
    "featurize --overwrite": _overwriting(featurizing, "tar", seed=5),
    "featurize --overwrite zarr": _overwriting(featurizing, "tar", seed=5, format="zarr"),
    "label --overwrite": _overwriting(labelling, "labels", top_k=1),
    "fit --overwrite": _overwriting(_fit, "fit", seed=5),
    "featurize --retry_rejected": Work(featurizing(retry_rejected=True), before="tar"),
}
"""Works that take tenths of a second; see `SLOW` for fresh processes."""
SLOW = {
    "featurize, 2 workers": Work(
        featurizing(num_workers=2, utterances_per_shard=2), launch=process
    ),
    "featurize zarr, 2 workers": Work(featurizing(num_workers=2, format="zarr"), launch=process),
    "featurize, dask": Work(featurizing(executor="dask", num_workers=2), launch=process),
    "label, a process": Work(labelling(), launch=process),
    "fit under torchrun": Work(_fit(n_sgd_steps=400), launch=_torchrun, is_fit=True),
}
ALL = {**WORKS, **SLOW}
_whole: dict[tuple[int, str], tuple[Any, float]] = {}


def kill_at_random(stage: Stage, rng: random.Random, name: str = "") -> Outcome:
    """Up to three SIGKILLs at random moments, of all processes or of one rank."""
    name = name or rng.choice([*WORKS] * 8 + [*SLOW])
    work = ALL[name]
    expected, seconds = _undisturbed(stage, name)
    with stage.scratch() as scratch:
        out = _prepared(stage, work, scratch)
        words = f"{name}: SIGKILL"
        for _ in range(rng.randint(1, 3)):
            moment = rng.uniform(0, 1.1 * seconds)
            words += f" after {moment:.3f} s"
            ranks = _start(stage, work, out)
            if not ranks[0].wait(moment):
                rng.choice(ranks).kill()  # as when memory runs out on one machine
                alone = rng.random() < 0.5
                for rank in ranks:
                    if not alone:
                        rank.kill()
                    elif not rank.wait(2):  # it may wait to be joined; then a scheduler says stop
                        rank.kill(signal.SIGTERM)
            for ended in [rank.end() for rank in ranks]:
                if ended.excess or ended.status not in (0, 1, 143, -signal.SIGKILL):
                    return held(words, ended.excess or ended.stderr[-400:])
        return _complete(stage, work, out, words, expected)


def kill_after_operation(
    stage: Stage, rng: random.Random, name: str = "", number: int = 0
) -> Outcome:
    """SIGKILL right after the `number`-th file operation of a work."""
    name = name or rng.choice([n for n, work in WORKS.items() if work.ranks == 1])
    number = number or rng.randint(1, len(operations(stage, name)))
    work = WORKS[name]
    expected, _ = _undisturbed(stage, name)
    with stage.scratch() as scratch:
        out = _prepared(stage, work, scratch)
        ended = run(killed_after_number(work.job(stage, out), number))
        words = f"{name}: SIGKILL after operation {number}"
        if ended.status not in (0, -signal.SIGKILL):
            return held(words, ended.fault() or ended.stderr[-400:])
        if work.without and (fault := _lost(stage, work, out, expected)):
            return held(words, fault)
        return _complete(stage, work, out, words, expected)


@cache
def operations(stage: Stage, name: str) -> tuple[str, ...]:
    """The file operations of a work, in order."""
    with stage.scratch() as scratch:
        out = _prepared(stage, WORKS[name], scratch)
        return tuple(operations_of(WORKS[name].job(stage, out)))


def _lost(stage: Stage, work: Work, out: Path, expected: Any) -> str:
    """What a killed --overwrite has lost: the old result stands whole until the new one can."""
    assert work.without is not None
    probe = Path(shutil.copytree(out, out.with_name("probe"), symlinks=True))
    ended = run(command(*work.without(stage, probe)))
    if ended.status == 0:
        return "" if work.result(probe) == expected else "without --overwrite, another result"
    if fault := ended.fault():
        return f"without --overwrite: {fault}"
    there, before = file_bytes(probe), file_bytes(stage.folder / work.before)
    lost = [name for name in before if there.get(name) != before[name]]
    return f"refused without --overwrite, and the old {', '.join(lost)} gone" if lost else ""


def _complete(stage: Stage, work: Work, out: Path, words: str, expected: Any) -> Outcome:
    """Run the work to its end, and compare."""
    for ended in [rank.end() for rank in _start(stage, work, out)]:
        if ended.status != 0 and not _finished_before(work, ended):
            return held(
                words, f"the same command does not go on: {ended.excess} {ended.stderr[-400:]}"
            )
    if work.result(out) != expected:
        return held(
            words, f"another result than undisturbed: {_difference(work.result(out), expected)}"
        )
    return held(words, "")


def _finished_before(work: Work, ended: Ended) -> bool:
    """A fit that was told to start afresh and had done so: it says that there is one."""
    return work.is_fit and "holds a fit already" in ended.stderr


def _difference(found: Any, expected: Any) -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        return ", ".join(n for n in sorted({*found, *expected}) if found.get(n) != expected.get(n))
    return "the model or its metrics"


def _prepared(stage: Stage, work: Work, scratch: Path) -> Path:
    out = scratch / "out"
    if work.before:
        shutil.copytree(stage.folder / work.before, out)
    return out


def _start(stage: Stage, work: Work, out: Path) -> list[Child]:
    job = work.job(stage, out)
    if work.ranks == 1:
        return [Child(job)]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [Child(_as_rank(job, rank, work.ranks, port)) for rank in range(work.ranks)]


def _as_rank(job: Job, rank: int, size: int, port: int) -> Job:
    def begin() -> Any:
        here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in here.items()})
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        return job()

    return begin


def _undisturbed(stage: Stage, name: str) -> tuple[Any, float]:
    """What a work leaves when nothing happens, and how long it takes."""
    key = (id(stage), name)
    if key not in _whole:
        with stage.scratch() as scratch:
            work = ALL[name]
            out = _prepared(stage, work, scratch)
            begin = time.monotonic()
            ends = [rank.end() for rank in _start(stage, work, out)]
            assert all(ended.status == 0 for ended in ends), ends
            _whole[key] = work.result(out), time.monotonic() - begin
    return _whole[key]

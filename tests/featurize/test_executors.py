"""Worker processes make the same shards, and are the only processes that end with the job."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from gmmpipe.errors import GmmpipeError
from gmmpipe.featurization.executors import run_local
from gmmpipe.featurization.options import FeaturizeOptions
from helpers.making import CORPUS, make_store, save_plan
from helpers.results import file_bytes


def test_workers_make_what_this_process_makes_and_leave_its_other_children_alone(
    tmp_path: Path,
) -> None:
    options = FeaturizeOptions(str(CORPUS), tmp_path / "out", utterances_per_shard=12)
    plan = save_plan(options)
    bystander = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    bystander.start()
    try:
        tasks = (plan.task(number, tmp_path / "out", None) for number in range(plan.num_shards))
        tallies = list(run_local(tasks, num_workers=2))
        assert sum(tally.utterances for tally in tallies) == 56
        bystander.join(0.5)
        assert bystander.is_alive()
    finally:
        bystander.kill()
        bystander.join()
    whole = file_bytes(make_store(CORPUS, tmp_path / "whole", utterances_per_shard=12))
    made = file_bytes(tmp_path / "out")
    assert made.items() >= {n: b for n, b in whole.items() if n.startswith("shard-")}.items()


def test_a_killed_worker_ends_the_job_with_a_remedy(tmp_path: Path) -> None:
    options = FeaturizeOptions(str(CORPUS), tmp_path / "out", utterances_per_shard=2)
    plan = save_plan(options)
    tasks = (plan.task(number, tmp_path / "out", None) for number in range(plan.num_shards))
    others = set(multiprocessing.active_children())
    running = run_local(tasks, num_workers=1)
    next(running)
    (worker,) = set(multiprocessing.active_children()) - others
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(GmmpipeError, match=r"a worker process died .* run the same command again"):
        list(running)
    for child in set(multiprocessing.active_children()) - others:
        child.join(60)  # told to end, it needs a moment
    assert set(multiprocessing.active_children()) <= others

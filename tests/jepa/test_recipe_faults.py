"""What may befall a run of the JEPA recipe: its loader processes, its ranks, its torchrun."""

import os
import signal
import sys
from pathlib import Path

from recipe import SCRIPT, arguments, assert_same_run, small_shared_memory, train_here

from helpers.processes import (
    PATIENCE_SECONDS,
    children_of,
    is_alive,
    run,
    torchrun,
    wait_for_the_end_of,
    wait_until,
)
from helpers.ranks import do_on_ranks, environment_of, free_port

TRAIN = [sys.executable, SCRIPT]
pytest_plugins = ["recipe_fixtures"]


def test_batches_larger_than_shared_memory_come_through_a_pipe(
    uninterrupted, store, gmm_path, tmp_path
) -> None:
    """Docker's /dev/shm on a smaller scale: some batches fit into it, and most do not."""
    out = tmp_path / "out"
    command = [*small_shared_memory("2m"), *TRAIN]
    done = run([*command, *arguments(store, gmm_path, out, num_workers=2)])
    assert done.stderr.count("--shm-size") == 1
    assert_same_run(uninterrupted, out)


def test_a_killed_loader_process_ends_the_run_at_a_whole_step(
    uninterrupted, store, gmm_path, tmp_path, start
) -> None:
    out = tmp_path / "out"
    process = start([*TRAIN, *arguments(store, gmm_path, out, num_workers=1)])
    wait_until((out / "jepa_ckpt_25.pt").exists, process)
    for loader in children_of(process.pid):
        os.kill(loader, signal.SIGKILL)
    assert process.wait(PATIENCE_SECONDS) == 1
    (line,) = [text for text in start.output().splitlines() if "error" in text]
    assert "a loader process died" in line
    assert "/dev/shm" in line
    assert "Traceback" not in start.output()
    train_here(store, gmm_path, out, resume="auto")
    assert_same_run(uninterrupted, out)


def test_a_run_whose_loader_hangs_still_stops_when_told(
    uninterrupted, store, gmm_path, tmp_path, start
) -> None:
    out = tmp_path / "out"
    process = start([*TRAIN, *arguments(store, gmm_path, out, num_workers=1)])
    wait_until((out / "jepa_ckpt_25.pt").exists, process)
    loaders = children_of(process.pid)
    for loader in loaders:
        os.kill(loader, signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == 143
    assert not any(map(is_alive, loaders))
    train_here(store, gmm_path, out, resume="auto")
    assert_same_run(uninterrupted, out)


def last_step(folder: Path) -> int:
    return max((int(p.stem.split("_")[-1]) for p in folder.glob("jepa_ckpt_*.pt")), default=0)


def test_two_ranks_go_on_after_one_was_cut_off_and_after_their_torchrun_was_killed(
    store, gmm_path, tmp_path, start
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    options = arguments(store, gmm_path, out, resume="auto", num_workers=1)

    port, limit = free_port(), ("--exchange_timeout", "8")
    ranks = [
        start([*TRAIN, *options, *limit], **environment_of(rank, 2, port)) for rank in range(2)
    ]
    wait_until((out / "jepa_ckpt_25.pt").exists, ranks[0])
    ranks[1].send_signal(signal.SIGSTOP)  # as silent as one whose machine is cut off
    assert ranks[0].wait(PATIENCE_SECONDS) == 1
    assert "error: rank 1 is gone" in start.output()
    ranks[1].kill()
    assert 25 <= last_step(out) < 120
    assert not list(out.glob(".*"))

    process, kept = start([*torchrun(2), SCRIPT, *options]), last_step(out)
    wait_until(lambda: last_step(out) > kept, process)
    orphans = children_of(process.pid)
    process.kill()
    wait_for_the_end_of(orphans)
    assert last_step(out) < 120
    assert not list(out.glob(".*"))

    do_on_ranks(2, lambda world: train_here(store, gmm_path, out, world, resume="auto"))
    do_on_ranks(2, lambda world: train_here(store, gmm_path, whole, world))
    assert_same_run(whole, out)


def test_a_rank_that_is_told_to_stop_does_so_though_another_is_silent(
    store, gmm_path, tmp_path, start
) -> None:
    out, port = tmp_path / "out", free_port()
    options = arguments(store, gmm_path, out, num_workers=0)
    ranks = [start([*TRAIN, *options], **environment_of(rank, 2, port)) for rank in range(2)]
    wait_until((out / "jepa_ckpt_25.pt").exists, ranks[0])
    ranks[1].send_signal(signal.SIGSTOP)
    ranks[0].send_signal(signal.SIGTERM)
    assert ranks[0].wait(PATIENCE_SECONDS) == 143
    assert 25 <= last_step(out) < 120
    assert not list(out.glob(".*"))
    ranks[1].kill()

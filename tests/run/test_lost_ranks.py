"""Ranks that do not come, are stopped or killed, or are told to stop while they wait for others."""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch

from helpers.making import fit_arguments, fit_here
from helpers.processes import (
    GMMPIPE,
    Process,
    Started,
    children_of,
    is_alive,
    torchrun,
    wait_until,
)
from helpers.ranks import do_on_ranks, environment_of, free_port
from helpers.results import assert_same_fit, file_bytes, num_updates

# Two updates of about a second: time enough to be in the midst of one.
PATIENT = {"n_sgd_steps": 1200}
SIZES = {**PATIENT, "exchange_timeout": 3}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_signal_ends_the_first_rank_while_it_waits_for_the_others(store, tmp_path, start) -> None:
    """It joins, and would be deaf: torch blocks outside Python."""
    command = [*GMMPIPE, *fit_arguments(store, tmp_path / "out")]
    expected = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130}
    ports = {signum: free_port() for signum in expected}
    ranks = {signum: start(command, **environment_of(0, 2, port)) for signum, port in ports.items()}
    for signum, rank in ranks.items():
        wait_until(lambda port=ports[signum]: listens(port), rank)  # it keeps the meeting place
        rank.send_signal(signum)
    for signum, rank in ranks.items():
        name = signal.Signals(signum).name
        assert start.end_of(rank) == (
            expected[signum],
            [f"stopped by {name}; what was finished is kept"],
        )
    assert not (tmp_path / "out").exists()


def test_a_signal_ends_another_rank_while_nobody_answers_it(fitted, store, start) -> None:
    """As fit, evaluate and label join."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        rank = start(
            [*GMMPIPE, "evaluate", str(store), "--gmm_path", str(fitted)],
            **environment_of(1, 2, port),
        )
        silent.settimeout(60)
        silent.accept()
        rank.send_signal(signal.SIGTERM)
        assert start.end_of(rank)[0] == 143


JOINING = """
import sys, time
from pathlib import Path
from gmmpipe.cli.common import run_job
from gmmpipe.run.world import open_world

def join():
    if int({rank}) == 1:
        time.sleep(600)
    Path(sys.argv[1]).touch()
    with open_world("cpu", join_timeout=float(sys.argv[2])):
        pass

run_job(join, debug=False)
"""


def test_ranks_that_never_come_are_counted_and_named(tmp_path, start) -> None:
    script = tmp_path / "join.py"
    script.write_text(JOINING.format(rank=0))
    command = [sys.executable, script, tmp_path / "there", 1]
    rank = start(command, **environment_of(0, 3, free_port()))
    said = "error: 2 of 3 ranks did not join within 1 s: 1, 2"
    assert start.end_of(rank) == (1, [said])


def test_an_orphan_leaves_while_it_waits_for_the_others(tmp_path, start) -> None:
    """Its torchrun is killed, and nobody else would end it."""
    script = tmp_path / "join.py"
    script.write_text(JOINING.format(rank="__import__('os').environ['RANK']"))
    there = tmp_path / "there"
    agent = start([*torchrun(2, str(script)), there, 600])
    wait_until(there.exists, agent)
    children = children_of(agent.pid)
    try:
        agent.kill()
        agent.wait()
        # The other one sleeps in the test's own script.
        wait_until(lambda: sum(map(is_alive, children)) == 1)
    finally:
        for child in filter(is_alive, children):
            os.kill(child, signal.SIGKILL)


def run_ranks(start: Started, size: int, arguments: list[str]) -> list[Process]:
    port = free_port()
    command = [*GMMPIPE, *arguments]
    return [start(command, **environment_of(rank, size, port)) for rank in range(size)]


def wait_for_second_update(folder: Path, ranks: list[Process]) -> None:
    """Return when the ranks are in its steps, which follow a checkpoint, and take a second.

    They have worked since it, by the processor's clock: on a busy machine that may take long.
    """
    wait_until((folder / "gmm_ckpt_0.004M.pt").exists, *ranks)
    before = [ticks_of(rank.pid) for rank in ranks]
    wait_until(
        lambda: all(
            ticks_of(rank.pid) > then + os.sysconf("SC_CLK_TCK") // 10
            for rank, then in zip(ranks, before, strict=True)
        ),
        *ranks,
    )


def ticks_of(pid: int) -> int:
    """The processor time that a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return int(user) + int(system)


def inodes(folder: Path) -> dict[str, int]:
    """The fit's files: another number, another file."""
    return {path.name: path.stat().st_ino for path in folder.glob("[!.]*")}


@pytest.mark.parametrize(("size", "stopped"), [(2, 0), (3, 2)])
def test_a_rank_that_does_not_answer_is_named_and_the_last_whole_step_kept(
    size, stopped, store, tmp_path, start
) -> None:
    """A stopped process is silent like one whose machine is cut off."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    arguments = fit_arguments(store, out, **SIZES)
    ranks = run_ranks(start, size, arguments)
    wait_for_second_update(out, ranks)
    ranks[stopped].send_signal(signal.SIGSTOP)
    left = [rank for rank in ranks if rank is not ranks[stopped]]
    for status, printed in map(start.end_of, left):
        assert status == 1
        assert f"error: rank {stopped} is gone" in printed[-1]
        assert "--resume auto goes on from" in printed[-1]
    kept = set(out.glob("gmm_ckpt_*-s*.pt"))
    steps = {torch.load(path, weights_only=True)["resume"]["step"] for path in kept}
    assert {path.name for path in kept} == {f"gmm_ckpt_0.004M-s{step}.pt" for step in steps}
    step = max(steps)
    assert step > 0
    # Of two ranks that are left, one may have had the sums of one step more than the other.
    assert len(kept) in range(1, size)
    assert steps <= {step - 1, step}

    there = inodes(out)
    ranks[stopped].send_signal(signal.SIGCONT)
    assert start.end_of(ranks[stopped])[0] == 1
    left = inodes(out)
    assert there.items() <= left.items()
    # The others' part of one step more may have come to it before they left.
    assert left.keys() - there.keys() <= {f"gmm_ckpt_0.004M-s{step + 1}.pt"}

    if size == 2:
        do_on_ranks(2, lambda world: fit_here(store, out, world, **PATIENT, resume="auto"))
        do_on_ranks(2, lambda world: fit_here(store, whole, world, **PATIENT))
        assert_same_fit(whole, out)


def test_a_rank_that_wakes_after_another_fit_began_there_writes_nothing(
    store, tmp_path, start
) -> None:
    out = tmp_path / "out"
    ranks = run_ranks(start, 2, fit_arguments(store, out, **SIZES))
    wait_for_second_update(out, ranks)
    ranks[1].send_signal(signal.SIGSTOP)
    ranks[0].kill()
    for path in out.iterdir():
        path.unlink()
    fit_here(store, out, K=8)
    before = file_bytes(out)
    ranks[1].send_signal(signal.SIGCONT)
    status, printed = start.end_of(ranks[1])
    assert status == 1
    assert "rank 0 is gone" in printed[-1]
    assert file_bytes(out) == before


WAITING = """
import sys, time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from gmmpipe.cli.common import run_job
from gmmpipe.run.world import open_world
from gmmpipe.run.stop import stop_signals

asked = []
noting = stop_signals(lambda signum, frame: asked.append(signum))

def job():
    with open_world("cpu") as world, noting if sys.argv[2] == "notes" else nullcontext():
        world = replace(world, stopping=lambda: bool(asked))
        world.any(False)
        Path(sys.argv[1]).touch()
        if world.rank == 1:
            time.sleep(600)
        world.any(False)

run_job(job, debug=False)
"""


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        ("leaves", (143, "stopped by SIGTERM; what was finished is kept")),
        ("notes", (1, "error: rank 1 is gone: silent while this rank was to stop")),
    ],
)
def test_a_signal_is_heard_while_another_rank_is_waited_for(
    handler, expected, tmp_path, start
) -> None:
    """For half an hour, were it not: the other rank sleeps as one that is cut off."""
    (tmp_path / "wait.py").write_text(WAITING)
    there, port = tmp_path / "there", free_port()
    command = [sys.executable, str(tmp_path / "wait.py"), str(there), handler]
    ranks = [start(command, **environment_of(rank, 2, port)) for rank in range(2)]
    wait_until(there.exists, *ranks)
    ranks[0].send_signal(signal.SIGTERM)
    status, printed = start.end_of(ranks[0])
    assert (status, printed[-1]) == expected


def test_a_rank_that_is_told_to_stop_keeps_its_steps_though_another_is_silent(
    store, tmp_path, start
) -> None:
    """Wherever that is: in a step, for its measures, or while frames are waited for."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    many = {"n_sgd_steps": 2, "target_frames": 400_000, "save_every": 400_000}
    ranks = run_ranks(start, 2, fit_arguments(store, out, **many, exchange_timeout=3))
    wait_until(lambda: num_updates(out) >= 3, *ranks)
    ranks[1].send_signal(signal.SIGSTOP)
    ranks[0].send_signal(signal.SIGTERM)
    status, printed = start.end_of(ranks[0])
    assert status in (1, 143), printed
    assert len(list(out.glob("gmm_ckpt_*.pt"))) == 1
    ranks[1].kill()
    do_on_ranks(2, lambda world: fit_here(store, out, world, **many, resume="auto"))
    do_on_ranks(2, lambda world: fit_here(store, whole, world, **many))
    assert_same_fit(whole, out)

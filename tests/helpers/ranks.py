"""Ranks that tests start without torchrun."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from functools import partial

from gmmpipe.run.world import World, open_world


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment_of(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun would tell a rank on this machine."""
    names = ["WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"]
    return dict(zip(names, (str(size), str(rank), "127.0.0.1", str(port)), strict=True))


def do_on_ranks(size: int, job: Callable[[World], object]) -> None:
    """Do a job on `size` ranks, forks of this process, which have torch at hand already."""
    port = free_port()

    def work(rank: int) -> None:
        os.environ.update(environment_of(rank, size, port))
        with open_world("cpu") as world:
            job(world)

    fork = multiprocessing.get_context("fork").Process
    ranks = [fork(target=partial(work, rank)) for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0] * size

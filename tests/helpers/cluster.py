"""A Dask cluster of real processes on this machine."""

import re
import sys

from helpers.processes import Process, Started, wait_until


def begin_cluster(start: Started, num_workers: int) -> tuple[str, list[Process]]:
    """A Dask cluster: its scheduler's address, and its processes, the scheduler first."""
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", 0, "--no-dashboard"]
    scheduler = start(dask)
    at = re.compile(r"Scheduler at:\s+tcp://\S+:(\d+)")
    wait_until(lambda: at.search(start.output(-1)) is not None, scheduler)
    address = f"tcp://127.0.0.1:{at.search(start.output(-1))[1]}"
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", 1]
    return address, [scheduler, *(start([*worker, "--no-nanny"]) for _ in range(num_workers))]

"""Where shard tasks run. An executor is a function from tasks to finished tallies, in any order."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

import torch

from gmmpipe.errors import GmmpipeError
from gmmpipe.featurize.plan import ShardTask
from gmmpipe.featurize.worker import make_shard
from gmmpipe.store.schema import Tally


def run_local(tasks: Iterable[ShardTask], num_workers: int) -> Iterator[Tally]:
    """Run tasks on local worker processes, spawned, one torch thread each.

    Tasks are made as workers come free, so their number costs no memory. However the generator
    ends, the workers end with it.

    Raises:
        GmmpipeError: a worker process died.
    """
    context = multiprocessing.get_context("spawn")
    waiting = iter(tasks)
    pool = ProcessPoolExecutor(num_workers, context, initializer=_start_worker)
    try:
        running = {pool.submit(make_shard, task) for task in islice(waiting, 2 * num_workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(make_shard, task) for task in islice(waiting, len(done))}
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise GmmpipeError(
            "a worker process died (out of memory, or killed); finished shards are kept: run the "
            "same command again, with fewer --num_workers if memory is short"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


def _start_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C reaches the whole group; the parent decides
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is a child process"

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)  # the parent was killed: nobody waits for this process

    threading.Thread(target=leave_with_parent, daemon=True).start()

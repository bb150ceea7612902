"""Where shard tasks run. An executor is a function from tasks to finished tallies, in any order.

torch is imported where shards are made, not here: the process that hands out the tasks starts
faster and stays small.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice

from gmmpipe.errors import GmmpipeError
from gmmpipe.featurize.plan import ShardTask
from gmmpipe.store.ledger import Tally


def run_local(tasks: Iterable[ShardTask], num_workers: int) -> Iterator[Tally]:
    """Run tasks on local worker processes, spawned, one torch thread each.

    Tasks are made as workers come free, so their number costs no memory. However the generator
    ends, the workers end with it.

    Raises:
        GmmpipeError: a worker process died.
    """
    context = multiprocessing.get_context("spawn")
    waiting = iter(tasks)
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(num_workers, context, initializer=_start_worker)
    try:
        with _children_deaf_to_stop_signals():
            running = {pool.submit(_make_shard, task) for task in islice(waiting, 2 * num_workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(_make_shard, task) for task in islice(waiting, len(done))}
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise GmmpipeError(
            "a worker process died (out of memory, or killed); finished shards are kept: run the "
            "same command again, with fewer --num_workers if memory is short"
        ) from error
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        # The pool's own thread collects the ended processes; nobody else may, or both miss some.
        pool.shutdown(wait=True, cancel_futures=True)


def run_dask(
    tasks: Iterable[ShardTask], scheduler: str | None, num_workers: int
) -> Iterator[Tally]:
    """Run tasks on a Dask cluster; its workers must see the audio and the store.

    A task whose worker dies goes to another one; only a task that kills several is given up.

    Args:
        tasks: made as the cluster asks for them.
        scheduler: ``tcp://host:port``, or None for a cluster on this machine.
        num_workers: processes of that.

    Raises:
        GmmpipeError: the scheduler cannot be reached, or is gone, or a task was given up.
    """
    try:
        from distributed import CancelledError, Client, KilledWorker, LocalCluster, as_completed
        from distributed.comm.core import CommClosedError
    except ImportError as error:
        raise GmmpipeError("--executor dask needs: pip install 'gmmpipe[dask]'") from error
    with ExitStack() as stack:
        try:
            address = scheduler or stack.enter_context(
                LocalCluster(
                    n_workers=num_workers,
                    threads_per_worker=1,
                    dashboard_address=":0",
                    silence_logs=logging.CRITICAL,
                )
            )
            # A lost scheduler is said once, below: not in tracebacks while it is sought or left.
            for name in ("distributed", "distributed.client"):  # each has a level of its own
                logging.getLogger(name).setLevel(logging.CRITICAL + 1)
            client = stack.enter_context(Client(address))
        except OSError as error:
            raise GmmpipeError(f"{scheduler}: no Dask scheduler answers: {error}") from error
        threads = max(1, sum(client.nthreads().values()))
        waiting = iter(tasks)
        submit = partial(client.submit, _make_shard_or_error, pure=False)
        running = as_completed([submit(task) for task in islice(waiting, 2 * threads)])
        try:
            for future in running:
                for task in islice(waiting, 1):
                    running.add(submit(task))
                result = future.result()
                if isinstance(result, Exception):
                    raise result
                yield result
        except (CancelledError, CommClosedError) as error:
            raise GmmpipeError(
                f"{scheduler or client.scheduler.address}: the Dask scheduler is gone; finished "
                "shards are kept: start one, and run the same command again"
            ) from error
        except KilledWorker as error:
            raise GmmpipeError(
                "Dask workers died again and again on one shard (out of memory?); finished shards "
                "are kept: run the same command again"
            ) from error


def _make_shard_or_error(task: ShardTask) -> Tally | Exception:
    """The same on a Dask worker, which would log an error's traceback all over."""
    try:
        return _make_shard(task)
    except Exception as error:
        return error


def _make_shard(task: ShardTask) -> Tally:
    """Make one shard with one torch thread: on a busy machine, two are many times slower."""
    import torch

    from gmmpipe.featurize.worker import make_shard

    torch.set_num_threads(1)
    return make_shard(task)


@contextmanager
def _children_deaf_to_stop_signals() -> Iterator[None]:
    """Processes started within inherit blocked signals: a group gets them, its parent decides."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _start_worker() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is a child process"

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)  # the parent was killed: nobody waits for this process

    threading.Thread(target=leave_with_parent, daemon=True).start()

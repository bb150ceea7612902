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
from concurrent.futures import FIRST_COMPLETED, CancelledError, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from gmmpipe.errors import GmmpipeError
from gmmpipe.featurization.plan import ShardTask
from gmmpipe.store.rejects import Tally

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)


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

    A task whose worker dies goes to another worker; a task that kills several is given up.

    Args:
        tasks: made as the cluster asks for them.
        scheduler: ``tcp://host:port``, or None for a cluster on this machine.
        num_workers: processes of that.

    Raises:
        GmmpipeError: the scheduler cannot be reached, or is lost, or a task was given up.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise GmmpipeError("--executor dask needs: pip install 'gmmpipe[dask]'") from error
    with ExitStack() as stack:
        stack.enter_context(_quiet_logs())
        try:
            address = scheduler or stack.enter_context(
                LocalCluster(
                    n_workers=num_workers,
                    threads_per_worker=1,
                    dashboard_address=":0",
                    silence_logs=logging.CRITICAL,
                )
            )
            client = Client(address)
        except (OSError, ValueError) as error:  # a ValueError: the address cannot be read
            where = scheduler or "a local cluster"
            raise GmmpipeError(f"{where}: no Dask scheduler answers: {error}") from error
        stack.callback(_close, client)
        stack.enter_context(_watched(client))
        for result in _results(client, iter(tasks)):
            if isinstance(result, Exception):
                raise result
            yield result


def _results(client: "Client", tasks: Iterator[ShardTask]) -> Iterator[Tally | Exception]:
    """Run tasks on a client's cluster, two for each of its threads at a time."""
    from distributed import KilledWorker, as_completed

    name = _address(client)
    try:
        threads = max(1, sum(client.nthreads().values()))
        submit = partial(client.submit, _make_shard_or_error, pure=False)
        running = as_completed([submit(task) for task in islice(tasks, 2 * threads)])
        for future in running:
            for task in islice(tasks, 1):
                running.add(submit(task))
            yield future.result()
    except KilledWorker as error:
        raise GmmpipeError(
            "Dask workers died again and again on one shard (out of memory?); finished shards "
            "are kept: run the same command again"
        ) from error
    except Exception as error:
        if client.status == "running" and not isinstance(error, OSError | CancelledError):
            raise
        raise GmmpipeError(
            f"{name}: the Dask scheduler is gone; finished shards are kept: start a scheduler and "
            "run the same command again with its --dask_scheduler, or with --executor local"
        ) from error


def _address(client: "Client") -> str:
    assert client.scheduler is not None, "a client that has just connected has one"
    return str(client.scheduler.address)


@contextmanager
def _watched(client: "Client") -> Iterator[None]:
    """Warn whenever the cluster has no worker: the job waits for one, maybe for ever."""
    ended = threading.Event()
    name = _address(client)

    def watch() -> None:
        had_workers = True
        while True:
            with suppress(Exception):  # a lost scheduler is named where results are waited for
                has_workers = bool(client.nthreads())
                if had_workers and not has_workers:
                    log.warning("warning: %s: the Dask scheduler has no worker; waiting", name)
                had_workers = has_workers
            if ended.wait(5.0):
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _close(client: "Client") -> None:
    with suppress(Exception):  # a scheduler that is gone is named by the job's own error
        client.close(timeout=5)


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Keep Dask's log off stderr; errors that matter are raised."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed")]
    with ExitStack() as levels:
        for name in (*names, "tornado.application", "asyncio"):
            logger = logging.getLogger(name)
            levels.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        yield


def _make_shard_or_error(task: ShardTask) -> Tally | Exception:
    """`_make_shard` on a Dask worker, which would log the traceback of an error raised."""
    try:
        return _make_shard(task)
    except Exception as error:
        return error


def _make_shard(task: ShardTask) -> Tally:
    """Make one shard with one torch thread, because two are many times slower on a busy machine."""
    import torch

    from gmmpipe.featurization.worker import make_shard

    torch.set_num_threads(1)
    return make_shard(task)


@contextmanager
def _children_deaf_to_stop_signals() -> Iterator[None]:
    """Block stop signals in processes started within: a terminal sends them to the whole group."""
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

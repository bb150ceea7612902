"""The processes that load batches: how they begin and end, and what an error of theirs says."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils.data import DataLoader

from gmmpipe.errors import GmmpipeError
from gmmpipe.jepa import JEPABatch
from gmmpipe.jepa.batch import SHARED_MEMORY
from gmmpipe.run.stop import STOP_SIGNALS


@contextmanager
def loading(loader: DataLoader[JEPABatch]) -> Iterator[Iterator[JEPABatch]]:
    """An iterator of `loader`; an error that leaves the block ends its processes.

    A process that died is noticed by the next wait for a batch, not amid a step: torch's handler
    of SIGCHLD is put aside. And one that hangs, which ignores SIGTERM, cannot keep the job from
    ending.
    """
    others = set(multiprocessing.active_children())
    previous = None
    try:
        batches = iter(loader)
        previous = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        yield batches
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
            process.join()
        raise
    finally:
        if previous is not None:
            signal.signal(signal.SIGCHLD, previous)


def ignore_signals(worker: int) -> None:
    """In a loader process: a signal to all processes of a job is for the one that trains."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def as_raised(error: GmmpipeError) -> GmmpipeError:
    """An error of a loader process without the traceback that torch puts around it."""
    if not str(error).startswith("Caught "):
        return error
    _, _, message = str(error).strip().splitlines()[-1].partition(": ")
    return type(error)(message)


def loader_died(failure: Exception) -> GmmpipeError:
    """What to say where a loader process is gone, which torch tells by `failure`."""
    return GmmpipeError(
        f"a loader process died (killed, out of memory, or {SHARED_MEMORY} is full, which "
        f"--num_workers 0 does without): {failure}; --resume auto goes on"
    )

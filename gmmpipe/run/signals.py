"""Stop signals: how a job learns that it should end and keep what it has."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from gmmpipe.errors import Stopped

# Its process number, looked up at the start, when it is certainly there.
_TORCHRUN = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def exit_status(signum: int) -> int:
    """The exit status of a job that `signum` ended: 130 after SIGINT, else 143."""
    return 130 if signum == signal.SIGINT else 143


def raise_stopped(signum: int, frame: FrameType | None) -> None:
    """Signal handler of jobs that may be interrupted at any line."""
    raise Stopped(signum)


def is_orphaned() -> bool:
    """Whether torchrun, which started this process, is gone: killed, perhaps by a SIGUSR1."""
    return _TORCHRUN is not None and os.getppid() != _TORCHRUN


@contextmanager
def stop_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Route `STOP_SIGNALS` to `handler` for the length of the block.

    In another thread than the main one, which alone hears signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)

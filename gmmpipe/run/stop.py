"""How a job learns that it should end and keep what it has: by a signal, or as torchrun is gone."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from gmmpipe.errors import NoAnswerError, RankGoneError, Stopped

if TYPE_CHECKING:
    from gmmpipe.run.world import World

log = logging.getLogger(__name__)
_TORCHRUN = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
"""torchrun's process number, asked for at the start, when torchrun is certainly there."""
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


@contextmanager
def stop_signals_held() -> Iterator[None]:
    """Hold `STOP_SIGNALS` back within the block, and deliver them at its end.

    For imports of torch: where a handler raises in a part of them that C++ calls, the process
    aborts.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequest:
    """Whether this process is to stop at the next place where it can keep what it has.

    A signal asks for it while the process is `listening`; so does the end of torchrun, at any time.
    """

    def __init__(self) -> None:
        self._signum: int | None = None
        self._at_once = False

    def is_made(self) -> bool:
        """Whether this process is to stop."""
        return self._signum is not None or is_orphaned()

    def stopped(self) -> Stopped:
        """What to raise where this process stops, because it or another rank is asked to."""
        return Stopped(self._signum or signal.SIGTERM)

    def raise_on_all(self, world: "World") -> None:
        """Let all ranks stop here if one of them is to; all of them call this alike.

        Raises:
            Stopped: on every rank.
        """
        if world.any(self.is_made(), short=True):
            raise self.stopped()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block, a signal asks for a stop, and does nothing else."""
        with stop_signals(self._note):
            yield

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within the block, a signal also raises `Stopped` there: it may wait for ever."""
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._signum = signum
        if self._at_once:
            self._at_once = False  # a second signal may not disturb what the first one set off
            raise Stopped(signum)

    @contextmanager
    def keeping(
        self, save: Callable[[], object], keep: Callable[[], Path | None]
    ) -> Iterator[None]:
        """Leave a checkpoint where the block ends by a stop, or by the loss of another rank.

        Args:
            save: leaves one together with all ranks; they stop alike.
            keep: leaves one by this rank alone, and says what to go on from, if there is anything.
                All ranks that are left do so: each has the same state, and any of them may be who
                sees the folder.

        Raises:
            Stopped: what has ended the block; or another rank is silent while this one is to stop.
            RankGoneError: another rank is gone; the message says what to go on from.
        """
        try:
            try:
                yield
            except Stopped:
                if is_orphaned():
                    log.warning("warning: torchrun is gone")
                save()
                raise
        except RankGoneError as error:
            kept = keep()
            if isinstance(error, NoAnswerError):
                log.warning("warning: another rank does not answer")
                raise self.stopped() from error
            if kept is None:
                raise
            raise RankGoneError(f"{error}; --resume auto goes on from {kept}") from error

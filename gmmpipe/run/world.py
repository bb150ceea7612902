"""Ranks and what they exchange (`joining`: how they meet; `repeated_sum`: a step's exchange)."""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gmmpipe.errors import NoAnswerError, OptionError, RankError, RankGoneError, Stopped
from gmmpipe.run.joining import first_sentence, join_ranks
from gmmpipe.run.roll_call import RollCall, in_background
from gmmpipe.run.stop import is_orphaned, stop_signals
from gmmpipe.run.timeouts import EXCHANGE_TIMEOUT, JOIN_TIMEOUT, MEETING_TIMEOUT

_Result = TypeVar("_Result")
_POLL_SECONDS = 0.1
_DEVICE_POLL_SECONDS = 0.0005
_LEAVING_SECONDS = 5.0
"""How long a rank that is to stop waits for the others to come to the same place."""


@dataclass(frozen=True)
class World:
    """This process among the ranks of a job; one process alone is rank 0 of 1.

    Every exchange raises `RankGoneError` where another rank was killed or does not answer. This
    rank waits in a thread beside it, so that signals are handled; and once it is to stop, it waits
    for a few seconds more.

    Args:
        rank: 0 .. size - 1.
        size: W.
        device: where this rank computes.
        roll: says which rank is gone, where there are others.
        short: the group for exchanges to which all ranks come at about the same time. It is one of
            its own because a group has one time limit, and is closed when that has passed.
        stopping: whether this rank is to stop; waiting for others ends then.
        unwatched: the group for exchanges of GPUs that the host does not wait for. Only
            `wait_for_device` has a time limit there.
        exchange_timeout: that limit, seconds.
    """

    rank: int
    size: int
    device: torch.device
    roll: RollCall | None = None
    short: dist.ProcessGroup | None = None
    stopping: Callable[[], bool] = is_orphaned
    unwatched: dist.ProcessGroup | None = None
    exchange_timeout: float = EXCHANGE_TIMEOUT

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        """An exchange with the others; where it fails, one of them is gone."""
        try:
            yield
        except RuntimeError as error:
            if self.roll:
                self.roll.begin()  # at once: the others wait for this rank's word
            raise RankGoneError(f"killed, or cut off ({first_sentence(error)})") from error

    def _wait(self, exchange: Callable[[], object]) -> None:
        """Take part in an exchange, in a thread: torch blocks outside Python."""
        met = in_background(exchange)
        leaves_at = math.inf
        while not met.done():
            wait([met], _POLL_SECONDS)
            leaves_at = self._leaves_at(leaves_at)
        met.result()

    def _leaves_at(self, leaves_at: float) -> float:
        """When a rank leaves that waits for others, on the monotonic clock: once it is to stop.

        Raises:
            NoAnswerError: that has passed.
        """
        if not self.stopping():
            return leaves_at
        leaves_at = min(leaves_at, time.monotonic() + _LEAVING_SECONDS)
        if time.monotonic() > leaves_at:
            if self.roll:
                self.roll.begin()
            raise NoAnswerError("silent while this rank was to stop")
        return leaves_at

    def wait_for_device(self) -> None:
        """Wait for what the device was asked to do, and for the other ranks in it.

        Raises:
            RankGoneError: it has not ended within `exchange_timeout` seconds, or has failed; what
                it has written is not to be used, and `break_off` frees the device.
        """
        if self.size == 1:
            return
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        limit, leaves_at = time.monotonic() + self.exchange_timeout, math.inf
        with self.exchanging():
            while not done.query():  # type: ignore[no-untyped-call]
                leaves_at = self._leaves_at(leaves_at)
                if time.monotonic() > limit:
                    raise RuntimeError(f"no answer within {self.exchange_timeout:g} s")
                time.sleep(_DEVICE_POLL_SECONDS)

    def break_off(self) -> None:
        """Break off the exchanges that the device would else wait in for a rank that is gone.

        No CUDA graph may hold one any more: NCCL would wait for the end of those. In a thread,
        because whatever else it waits for, the device is free once it has begun.
        """
        if self.unwatched is not None:
            wait([in_background(self.unwatched.abort)], _LEAVING_SECONDS)

    def all_reduce(self, tensor: Tensor, *, short: bool = False) -> None:
        """Sum `tensor` over the ranks, in place; `short` where all come at about the same time."""
        if self.size > 1:
            with self.exchanging():
                self._wait(lambda: dist.all_reduce(tensor, group=self.short if short else None))

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite `tensor` with that of rank 0."""
        if self.size > 1:
            with self.exchanging():
                self._wait(lambda: dist.broadcast(tensor, src=0))

    def any(self, flag: bool, *, short: bool = False) -> bool:
        """Whether `flag` is true on some rank; every rank gets the same answer."""
        if self.size == 1:
            return flag
        count = torch.tensor(float(flag), device=self.device)
        self.all_reduce(count, short=short)
        return bool(count > 0)

    def on_first_rank(self, function: Callable[[], _Result]) -> _Result:
        """Rank 0's result of `function` on every rank; an error of rank 0 is raised on all."""
        if self.size == 1:
            return function()
        box: list[object] = [None, None]
        if self.rank == 0:
            try:
                box[0] = function()
            except Exception as error:
                box[1] = error
        with self.exchanging():
            self._wait(lambda: dist.broadcast_object_list(box, src=0, device=self.device))
        if isinstance(box[1], Exception):
            raise box[1]
        return box[0]  # type: ignore[return-value]

    def on_each_rank(self, function: Callable[[], _Result]) -> _Result:
        """Each rank's result of its own `function`; where that fails on some rank, all leave.

        Raises:
            RankError: it is another rank that failed.
        """
        result: list[_Result] = []
        failure: Exception | None = None
        try:
            result.append(function())
        except Exception as error:
            failure = error
            _leave_word(error)  # before the others know: theirs must be later
        if self.any(failure is not None):
            raise failure or RankError("another rank failed; its error says why")
        return result[0]


@contextmanager
def open_world(
    device: str,
    *,
    exchange_timeout: float = EXCHANGE_TIMEOUT,
    join_timeout: float = JOIN_TIMEOUT,
    meeting_timeout: float = MEETING_TIMEOUT,
) -> Iterator[World]:
    """Join the ranks that torchrun started, if it did, for the length of the block.

    An error that leaves the block is noted where torchrun looks for the root cause of a failed job.

    Args:
        device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.
        exchange_timeout: seconds to wait for the others in a step, and where else all of them
            come at about the same time.
        join_timeout: seconds to wait for the others to join.
        meeting_timeout: seconds to wait for the others in every other exchange.

    Raises:
        OptionError: there is no such device here, or the environment is not torchrun's.
        RankError: some rank did not join.
        RankGoneError: some rank was killed, or does not answer any more; it is named.
        Stopped: torchrun went away while the ranks joined.
    """
    here = _choose_device(device)
    size = int(os.environ.get("WORLD_SIZE") or 1)
    missing = {"RANK", "MASTER_ADDR", "MASTER_PORT"} - os.environ.keys()
    if size > 1 and missing:
        names = ", ".join(sorted(missing))
        raise OptionError(f"WORLD_SIZE is {size} without {names}: use torchrun, or unset it")
    rank = int(os.environ.get("RANK") or 0)
    if size == 1:
        yield World(rank, size, here)
        return
    try:
        joining = in_background(
            lambda: join_ranks(
                rank, size, here.type, join_timeout, meeting_timeout, exchange_timeout
            )
        )
        while not joining.done():
            wait([joining], _POLL_SECONDS)
            if is_orphaned():
                raise Stopped(signal.SIGTERM)
        roll, short, unwatched = joining.result()
        try:
            yield World(
                *(rank, size, here, roll, short),
                unwatched=unwatched,
                exchange_timeout=exchange_timeout,
            )
        except RankGoneError as error:
            with stop_signals(lambda signum, frame: None):  # torchrun's, for the same reason
                raise RankGoneError(f"{roll.who_is_gone()}: {error}") from error
        except Exception:
            dist.destroy_process_group()  # otherwise this process could not join others again
            raise
        dist.destroy_process_group()
    except Exception as error:
        _leave_word(error)
        raise


def _choose_device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device is cuda, but torch finds no GPU here")
    if device == "cpu":
        return torch.device(device)
    here = torch.device("cuda", int(os.environ.get("LOCAL_RANK") or 0))
    torch.cuda.set_device(here)
    return here


def _leave_word(error: Exception) -> None:
    """Write an error, in one line, where torchrun looks for the root cause of a failed job.

    The first word stands: what comes after it in the same process is a consequence.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path and not os.path.exists(path):
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        # Whole seconds, of which torchrun takes the earliest: a consequence must not tie with
        # its cause.
        timestamp = int(time.time()) + isinstance(error, RankError)
        Path(path).write_text(json.dumps({"message": message, "timestamp": timestamp}))

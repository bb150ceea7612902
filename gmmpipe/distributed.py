"""Ranks: the only module that touches ``torch.distributed``."""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gmmpipe.errors import OptionError, RankError, RankGoneError, Stopped
from gmmpipe.roll_call import RollCall, in_background
from gmmpipe.signals import is_orphaned, stop_signals

_Result = TypeVar("_Result")
_POLL_SECONDS = 0.1
JOIN_TIMEOUT = 600.0
"""Seconds that a rank waits for the others to join, as torchrun does."""
MEETING_TIMEOUT = 1800.0
"""Seconds that a rank waits for the others between steps, where they may have much to do."""
EXCHANGE_TIMEOUT = 120.0
"""Seconds that a rank waits for the others within a step, unless told otherwise."""


@dataclass(frozen=True)
class World:
    """This process among the ranks of a job; one process alone is rank 0 of 1.

    Every exchange raises `RankGoneError` where another rank was killed or does not answer.

    Args:
        rank: 0 .. size - 1.
        size: W.
        device: where this rank computes.
        exchange_timeout: seconds to wait for the others in the exchange of a step.
        roll: says which rank is gone, where there are others.
    """

    rank: int
    size: int
    device: torch.device
    exchange_timeout: float = EXCHANGE_TIMEOUT
    roll: RollCall | None = None

    @contextmanager
    def exchanging(self) -> Iterator[None]:
        """An exchange with the others; where it fails, one of them is gone."""
        try:
            yield
        except RuntimeError as error:
            if self.roll:
                self.roll.begin()  # at once: the others wait for this rank's word
            raise RankGoneError(f"killed, or cut off ({_reason(error)})") from error

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum `tensor` over the ranks, in place."""
        if self.size > 1:
            with self.exchanging():
                dist.all_reduce(tensor)

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite `tensor` with that of rank 0."""
        if self.size > 1:
            with self.exchanging():
                dist.broadcast(tensor, src=0)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on some rank; every rank gets the same answer."""
        count = torch.tensor(float(flag), device=self.device)
        self.all_reduce(count)
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
            dist.broadcast_object_list(box, src=0)
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
        if self.any(failure is not None):
            raise failure or RankError("another rank failed; its error says why")
        return result[0]


class RepeatedSum:
    """A tensor that is summed over the ranks, in place, time and again, while they do other work.

    Each time all ranks call `announce`, `start` and `wait`, and use no other exchange in between.

    Two ranks on CPUs swap what they have, one message each way, into a buffer that waits for it:
    gloo's all-reduce takes 3 ms more on cores that are not idle (docs/design.md says why).

    Args:
        world: the ranks, which are waited for no longer than its `exchange_timeout`.
        tensor: what is summed; of the same shape on all ranks.
    """

    def __init__(self, world: World, tensor: Tensor) -> None:
        self._tensor = tensor
        self._world = world
        self._group: dist.ProcessGroup | None = None
        if world.size > 1:
            # Of its own, because a group has one time limit, and closes when that has passed.
            with world.exchanging():
                group = dist.new_group(timeout=timedelta(seconds=world.exchange_timeout))
            assert isinstance(group, dist.ProcessGroup), "this process is one of the ranks"
            self._group = group
        swapping = world.size == 2 and world.device.type == "cpu"
        self._received = torch.empty_like(tensor) if swapping else None
        self._other = 1 - world.rank
        self._under_way: list[dist.Work | None] = []

    def announce(self) -> None:
        """A sum is to come; best called well before it."""
        if self._received is not None:
            with self._world.exchanging():
                self._under_way.append(dist.irecv(self._received, self._other, self._group))

    def start(self) -> None:
        """This rank's tensor is complete; it may not be touched before `wait` has returned."""
        with self._world.exchanging():
            if self._received is not None:
                self._under_way.append(dist.isend(self._tensor, self._other, self._group))
            elif self._world.size > 1:
                self._under_way.append(
                    dist.all_reduce(self._tensor, group=self._group, async_op=True)
                )

    def wait(self) -> None:
        """Return when the tensor holds the sum; on a GPU, when later work will see it."""
        with self._world.exchanging():
            for work in self._under_way:
                assert work is not None, "this process is one of the ranks"
                work.wait()
        self._under_way.clear()
        if self._received is not None:
            self._tensor += self._received


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
        exchange_timeout: seconds to wait for the others in the exchange of a step.
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
        yield World(rank, size, here, exchange_timeout)
        return
    try:
        joining = in_background(lambda: _join(rank, size, here.type, join_timeout, meeting_timeout))
        while not joining.done():
            wait([joining], _POLL_SECONDS)
            if is_orphaned():
                raise Stopped(signal.SIGTERM)
        roll = joining.result()
        try:
            yield World(rank, size, here, exchange_timeout, roll)
        except RankGoneError as error:
            with stop_signals(lambda signum, frame: None):  # torchrun's, for the same reason
                raise RankGoneError(f"{roll.who_is_gone()}: {error}") from error
        except Exception:
            dist.destroy_process_group()  # else this process could not join others again
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


def _join(
    rank: int, size: int, device_type: str, timeout: float, meeting_timeout: float
) -> RollCall:
    """Meet the other ranks and connect to them. No signal handler runs in a thread that does."""
    # Else a failed collective of NCCL ends the process, before a checkpoint could be written.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # by torchrun itself
    host = f"{'torchrun' if hosted else 'rank 0'} at {address}:{port}"
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            address,
            port,
            size,
            is_master=rank == 0 and not hosted,
            timeout=timedelta(seconds=timeout),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except RuntimeError as error:
        raise RankError(f"{host} does not answer ({_reason(error)})") from error
    # torchrun may keep one store over its restarts, with the words of those who are dead.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    words = dist.PrefixStore(f"gmmpipe-{attempt}", store)  # type: ignore[attr-defined]
    roll = RollCall(words, rank, size, host)
    missing = roll.call("joined", size, timeout)
    if missing:
        raise RankError(
            f"{len(missing)} of {size} ranks did not join within {timeout:.0f} s: "
            f"{', '.join(map(str, missing))}"
        )
    dist.init_process_group(
        "nccl" if device_type == "cuda" else "gloo",
        store=words,
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=meeting_timeout),
    )
    return roll


def _reason(error: RuntimeError) -> str:
    """The first sentence of an error of torch's or gloo's, without the place in its source."""
    text = re.sub(r"^(\[[^]]*\] )+", "", " ".join(str(error).split()))
    return text.split(". ")[0]


def _leave_word(error: Exception) -> None:
    """Write an error, in one line, where torchrun looks for the root cause of a failed job."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        # Whole seconds, of which torchrun takes the earliest: a consequence must not tie with
        # its cause.
        timestamp = int(time.time()) + isinstance(error, RankError)
        Path(path).write_text(json.dumps({"message": message, "timestamp": timestamp}))

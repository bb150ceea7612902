"""Ranks: the only module that touches ``torch.distributed``."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gmmpipe.errors import OptionError, RankError

_Result = TypeVar("_Result")
# Its process number, looked up at the start, when it is certainly there.
_TORCHRUN = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None


@dataclass(frozen=True)
class World:
    """This process among the ranks of a job; one process alone is rank 0 of 1.

    Args:
        rank: 0 .. size - 1.
        size: W.
        device: where this rank computes.
    """

    rank: int
    size: int
    device: torch.device

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum `tensor` over the ranks, in place."""
        if self.size > 1:
            with _others_there():
                dist.all_reduce(tensor)

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite `tensor` with that of rank 0."""
        if self.size > 1:
            with _others_there():
                dist.broadcast(tensor, src=0)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on some rank; every rank gets the same answer."""
        count = torch.tensor(float(flag), device=self.device)
        self.all_reduce(count)
        return bool(count > 0)

    def is_orphaned(self) -> bool:
        """Whether torchrun, which started this process, is gone: killed, perhaps by a SIGUSR1."""
        return _TORCHRUN is not None and os.getppid() != _TORCHRUN

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
        with _others_there():
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
        world: the ranks.
        tensor: what is summed; of the same shape on all ranks.
    """

    def __init__(self, world: World, tensor: Tensor) -> None:
        self._tensor = tensor
        self._world = world
        swapping = world.size == 2 and world.device.type == "cpu"
        self._received = torch.empty_like(tensor) if swapping else None
        self._under_way: list[dist.Work | None] = []

    def announce(self) -> None:
        """A sum is to come; best called well before it."""
        if self._received is not None:
            with _others_there():
                self._under_way.append(dist.irecv(self._received, 1 - self._world.rank))

    def start(self) -> None:
        """This rank's tensor is complete; it may not be touched before `wait` has returned."""
        with _others_there():
            if self._received is not None:
                self._under_way.append(dist.isend(self._tensor, 1 - self._world.rank))
            elif self._world.size > 1:
                self._under_way.append(dist.all_reduce(self._tensor, async_op=True))

    def wait(self) -> None:
        """Return when the tensor holds the sum; on a GPU, when later work will see it."""
        with _others_there():
            for work in self._under_way:
                assert work is not None, "this process is one of the ranks"
                work.wait()
        self._under_way.clear()
        if self._received is not None:
            self._tensor += self._received


@contextmanager
def open_world(device: str, timeout: timedelta = timedelta(minutes=30)) -> Iterator[World]:
    """Join the ranks that torchrun started, if it did, for the length of the block.

    An error that leaves the block is noted where torchrun looks for the root cause of a failed job.

    Args:
        device: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.
        timeout: how long a rank waits for the others before it gives up.

    Raises:
        OptionError: there is no such device here, or the environment is not torchrun's.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise OptionError("--device is cuda, but torch finds no GPU here")
    size = int(os.environ.get("WORLD_SIZE") or 1)
    missing = {"RANK", "MASTER_ADDR", "MASTER_PORT"} - os.environ.keys()
    if size > 1 and missing:
        names = ", ".join(sorted(missing))
        raise OptionError(f"WORLD_SIZE is {size} without {names}: use torchrun, or unset it")
    rank = int(os.environ.get("RANK") or 0)
    here = torch.device(device)
    if here.type == "cuda":
        here = torch.device("cuda", int(os.environ.get("LOCAL_RANK") or 0))
        torch.cuda.set_device(here)
    if size == 1:
        yield World(rank=0, size=1, device=here)
        return
    dist.init_process_group("nccl" if here.type == "cuda" else "gloo", timeout=timeout)
    try:
        yield World(rank, size, here)
    except Exception as error:
        _leave_word(error)
        raise
    finally:
        dist.destroy_process_group()


@contextmanager
def _others_there() -> Iterator[None]:
    """An exchange; where it fails, another rank is gone, and that one knows the reason."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise RankError(f"another rank is gone; its error says why ({reason})") from error


def _leave_word(error: Exception) -> None:
    """Write an error, in one line, where torchrun looks for the root cause of a failed job."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        # Whole seconds, of which torchrun takes the earliest: a consequence must not tie with
        # its cause.
        timestamp = int(time.time()) + isinstance(error, RankError)
        Path(path).write_text(json.dumps({"message": message, "timestamp": timestamp}))

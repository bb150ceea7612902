"""`RepeatedSum`: the exchange of a step."""

from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch import Tensor

from gmmpipe.run.world import World


class RepeatedSum:
    """A tensor that is summed over the ranks, in place, time and again, while they do other work.

    Each time all ranks call `announce`, `start` and `wait`, and use no other exchange in between.

    Two ranks on CPUs swap what they have, one message each way, into a buffer that waits for it:
    gloo's all-reduce takes 3 ms more on cores that are not idle (docs/design.md says why).

    Args:
        world: the ranks, which are waited for no longer than in every `short` exchange.
        tensor: what is summed; of the same shape on all ranks.
    """

    def __init__(self, world: World, tensor: Tensor) -> None:
        self._tensor = tensor
        self._world = world
        swapping = world.size == 2 and world.device.type == "cpu"
        self._received = torch.empty_like(tensor) if swapping else None
        self._other = 1 - world.rank
        self._under_way: list[dist.Work | None] = []

    def announce(self) -> None:
        """A sum is to come; best called well before it."""
        if self._received is not None:
            with self._world.exchanging():
                self._under_way.append(dist.irecv(self._received, self._other, self._world.short))

    def start(self, recorded: bool = False) -> None:
        """This rank's tensor is complete; it may not be touched before `wait` has returned.

        Args:
            recorded: whether a CUDA graph records it. What fails then is the recording, and no
                rank is gone.
        """
        with nullcontext() if recorded else self._world.exchanging():
            if self._received is not None:
                self._under_way.append(dist.isend(self._tensor, self._other, self._world.short))
            elif self._tensor.is_cuda and self._world.size > 1:
                dist.all_reduce(self._tensor, group=self._world.unwatched)
            elif self._world.size > 1:
                self._under_way.append(
                    dist.all_reduce(self._tensor, group=self._world.short, async_op=True)
                )

    def wait(self) -> None:
        """Return when the tensor holds the sum.

        On a GPU that is when later work will see the sum: the host does not wait, and a CUDA graph
        may record the exchange. `World.wait_for_device` notices a rank that is gone.
        """
        with self._world.exchanging():
            for work in self._under_way:
                assert work is not None, "this process is one of the ranks"
                work.wait()
        self._under_way.clear()
        if self._received is not None:
            self._tensor += self._received

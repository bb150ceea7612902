"""Work shared out among the ranks, W tasks at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from gmmpipe.distributed import World
from gmmpipe.errors import GmmpipeError, RankError

_Task = TypeVar("_Task")


def in_rounds(
    tasks: Sequence[_Task], work: Callable[[_Task], None], world: World
) -> Iterator[Sequence[_Task]]:
    """Do every task once, rank r of W those at r, r + W, r + 2 W and so on.

    The ranks meet after each round. So none waits for another longer than a task takes, however
    many there are, and an error of one ends them all at once.

    Yields:
        The tasks that the ranks did in each round.

    Raises:
        GmmpipeError: `work` failed here.
        RankError: it failed on another rank.
    """
    for start in range(0, len(tasks), world.size):
        these = tasks[start : start + world.size]
        failure: GmmpipeError | OSError | None = None
        try:
            for task in these[world.rank : world.rank + 1]:
                work(task)
        except (GmmpipeError, OSError) as error:
            failure = error
        if world.any(failure is not None):
            raise failure or RankError("another rank failed; its error says why")
        yield these

"""Work shared out among the ranks, W tasks at a time."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from gmmpipe.run.world import World

_Task = TypeVar("_Task")


def share_out(
    tasks: Sequence[_Task], work: Callable[[_Task], None], world: World
) -> Iterator[Sequence[_Task]]:
    """Do every task once: rank r of W does those at r, r + W, r + 2 W and so on.

    The ranks meet after each has done one task. So no rank waits for another longer than a task
    takes, however many tasks there are, and an error of one rank ends them all at once.

    Yields:
        The tasks that the ranks have done since they last met.

    Raises:
        RankError: `work` failed on another rank; what it raises here is raised.
    """
    for start in range(0, len(tasks), world.size):
        these = tasks[start : start + world.size]
        mine = these[world.rank : world.rank + 1]
        world.on_each_rank(partial(_do_all, mine, work))
        yield these


def _do_all(tasks: Sequence[_Task], work: Callable[[_Task], None]) -> None:
    for task in tasks:
        work(task)

"""Which ranks are there: each leaves its word where all can look."""

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from threading import enumerate as all_threads
from typing import Protocol, TypeVar

_Result = TypeVar("_Result")
_POLL_SECONDS = 0.1
ROLL_CALL_SECONDS = 8.0
"""How long the ranks that are left wait for each other's word, to know which one is gone."""
_STORE_SECONDS = 2.0
_THREAD_NAME = "gmmpipe-ranks"


class Store(Protocol):
    """The part of torch's store that is needed here: words by name that all ranks see."""

    def set(self, key: str, value: str) -> None:
        """Leave a word."""

    def check(self, keys: list[str]) -> bool:
        """Whether all of these were left."""


class RollCall:
    """How ranks find out which of them are there: each leaves its word where all can look.

    Args:
        store: where.
        rank, size: this rank among the others.
        host: who keeps the store, in words.
    """

    def __init__(self, store: Store, rank: int, size: int, host: str) -> None:
        self._store = store
        self._rank = rank
        self._size = size
        self._host = host
        self._missing: Future[list[int]] | None = None

    def call(self, what: str, enough: int, timeout: float) -> list[int]:
        """Leave this rank's word, and wait for that of `enough` ranks; those that did not answer.

        Raises:
            RuntimeError: the store does not answer.
        """
        deadline = time.monotonic() + timeout
        self._store.set(f"{what}/{self._rank}", "here")
        missing = list(range(self._size))
        while True:
            missing = [rank for rank in missing if not self._store.check([f"{what}/{rank}"])]
            if self._size - len(missing) >= enough or time.monotonic() > deadline:
                return missing
            time.sleep(_POLL_SECONDS)

    def begin(self) -> None:
        """Begin to find out who is gone, in the background."""
        if self._missing is None:
            self._missing = in_background(self._find_missing)

    def _find_missing(self) -> list[int]:
        if self._size == 2:
            return [1 - self._rank]
        missing = self.call("lost another", self._size - 1, ROLL_CALL_SECONDS)
        # The store may end with this process.
        self.call("knows who", self._size - len(missing), _STORE_SECONDS)
        return missing

    def who_is_gone(self) -> str:
        """Who, in words; to be asked after `begin`, and answered within seconds."""
        assert self._missing is not None, "nobody was missed"
        wait([self._missing], ROLL_CALL_SECONDS + 2 * _STORE_SECONDS)
        if not self._missing.done() or self._missing.exception():
            return f"{self._host} does not answer, it or another rank is gone"
        missing = self._missing.result()
        if not missing:
            return "another rank was gone for a while"
        plural = "s" if len(missing) > 1 else ""
        verb = "are" if plural else "is"
        return f"rank{plural} {', '.join(map(str, missing))} {verb} gone"


def in_background(function: Callable[[], _Result]) -> "Future[_Result]":
    """Start a function in a thread that nobody waits for at the end of the process."""
    future: Future[_Result] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    Thread(target=work, name=_THREAD_NAME, daemon=True).start()
    return future


def is_busy_in_background() -> bool:
    """Whether a thread of `in_background` runs: an interpreter that ends around it may crash."""
    return any(thread.name == _THREAD_NAME for thread in all_threads())

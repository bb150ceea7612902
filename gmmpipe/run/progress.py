"""How far a job is: a bar on a terminal, a plain line now and then elsewhere."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

log = logging.getLogger(__name__)


class Progress:
    """Counts steps of a job towards a total.

    Args:
        job: what is being done.
        unit: what is counted.
        total: how many there are.
        start: how many were done before.
        line_every_seconds: how often at most a plain line is written.
    """

    def __init__(
        self, job: str, unit: str, total: int, start: int = 0, line_every_seconds: float = 10.0
    ) -> None:
        self._job, self._unit, self._total, self._done = job, unit, total, start
        talks = log.isEnabledFor(logging.INFO)  # rank 0 does
        self._bar = tqdm(
            desc=job,
            unit=f" {unit}",
            total=total,
            initial=start,
            disable=not (talks and sys.stderr.isatty()),
        )
        self._line_every_seconds = line_every_seconds
        self._last_line = time.monotonic()

    def advance(self, count: int, note: str = "") -> None:
        """Count `count` more; `note` says what the latest one came to."""
        self._done += count
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        if self._bar.disable and time.monotonic() - self._last_line >= self._line_every_seconds:
            log.info("%s: %d of %d %s; %s", self._job, self._done, self._total, self._unit, note)
            self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

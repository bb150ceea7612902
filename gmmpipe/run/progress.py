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
        self._start = start
        self._began = self._last_line = time.monotonic()

    def advance(self, count: int, note: str = "") -> None:
        """Count `count` more; `note` says what the latest one came to."""
        self._done += count
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(count)
        if self._bar.disable and time.monotonic() - self._last_line >= self._line_every_seconds:
            self._last_line = time.monotonic()
            log.info("%s", self._line(note))

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the job began here."""
        return time.monotonic() - self._began

    def _line(self, note: str) -> str:
        rate = (self._done - self._start) / max(self.elapsed_seconds, 1e-9)
        left = tqdm.format_interval((self._total - self._done) / rate) if rate else "?"
        return (
            f"{self._job}: {self._done} of {self._total} {self._unit}, "
            f"{rate:.3g} {self._unit}/s, {left} left{'; ' if note else ''}{note}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

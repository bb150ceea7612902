"""`Tracker`: what each place for curves does; `Trackers`: those of one run."""

import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from gmmpipe.errors import GmmpipeError

log = logging.getLogger(__name__)
KINDS = ("tensorboard", "wandb", "trackio")
"""The places; the module of that name here has each one's `Tracker`."""
RUN_ID_FILE = "tracked-run.txt"
"""Holds the name under which other programs know the run, so that a resumed one goes on there."""
EVENT_FILES = "events.out.tfevents.*"
TRACKING_FILES = (EVENT_FILES, RUN_ID_FILE)
"""Patterns of what tracking leaves beside a run, and a new run in its place does without."""


def parse_kinds(value: Any) -> str:
    """Comma-separated `KINDS`, each once; from such text or a list.

    Raises:
        ValueError: one is none of them.
    """
    parts = value if isinstance(value, list | tuple) else str(value).split(",")
    kinds = [str(part).strip() for part in parts]
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}")
    return ",".join(dict.fromkeys(kinds))


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run.

    Args:
        folder: the run's.
        id: names the run everywhere; of letters and digits.
        frames: frames done before. Later points, which an earlier process may have left, are of
            updates that are done again, to the same values.
        config: the run's options.
    """

    folder: Path
    id: str
    frames: int
    config: dict[str, Any]


class Tracker(Protocol):
    """A place for the curves of one run. An exception of any kind ends its use."""

    def __init__(self, run: TrackedRun) -> None:
        """Begin, or go on with, a run."""

    def log(self, scalars: dict[str, float], frames: int) -> None:
        """Add a point to each curve, `frames` along; it is kept when this returns."""

    def show(self, name: str, picture: Path, frames: int) -> None:
        """Add a picture, a PNG file."""

    def close(self) -> None:
        """Nothing more comes."""


def tracker_of(kind: str) -> type[Tracker]:
    """The tracker of a kind, one of `KINDS`.

    Raises:
        GmmpipeError: what it needs is not installed.
    """
    try:
        module = import_module(f"gmmpipe.tracking.{kind}")
    except ImportError as error:
        raise GmmpipeError(f"--track {kind} needs: pip install 'gmmpipe[{kind}]'") from error
    tracker: type[Tracker] = module.Tracker
    return tracker


class Trackers:
    """The trackers of a run, until they are closed.

    Args:
        kinds: some of `KINDS`; where there are none, nothing is written.
        folder: the run's.
        frames: frames done before.
        config: the run's options.
        resumed: whether the run began in an earlier process.

    Raises:
        GmmpipeError: a tracker is not installed, or cannot begin.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        folder: Path,
        frames: int,
        config: dict[str, Any],
        *,
        resumed: bool,
    ) -> None:
        self._id_file = folder / RUN_ID_FILE
        known = resumed and self._id_file.exists()
        run_id = self._id_file.read_text().strip() if known else secrets.token_hex(8)
        self._run = TrackedRun(folder, run_id, frames, config)
        self._trackers = {kind: self._begin(kind) for kind in kinds}

    def _begin(self, kind: str) -> Tracker:
        tracker = tracker_of(kind)
        try:
            return tracker(self._run)
        except Exception as error:
            raise GmmpipeError(f"--track {kind}: {' '.join(str(error).split())}") from error

    def log(self, row: dict[str, float]) -> None:
        """Write an update's row of metrics."""
        if self._trackers and not self._id_file.exists():
            self._id_file.write_text(f"{self._run.id}\n")
        scalars = {name: value for name, value in row.items() if name not in ("frames", "update")}
        self._on_each("log", scalars, int(row["frames"]))

    def show(self, draw: Callable[[], Sequence[Path]], frames: int) -> None:
        """Write the pictures that `draw` gives, PNG files, each as ``report/`` and its name."""
        try:
            pictures = draw()
        except GmmpipeError as error:
            log.warning("warning: no pictures are tracked: %s", error)
            return
        for picture in pictures:
            self._on_each("show", f"report/{picture.stem}", picture, frames)

    def _on_each(self, action: str, *arguments: Any) -> None:
        """What the curves are for is not lost with them: a tracker that fails is left out."""
        for kind, tracker in [*self._trackers.items()]:
            try:
                getattr(tracker, action)(*arguments)
            except Exception as error:
                log.warning(
                    "warning: --track %s failed: %s; the run goes on without it",
                    kind,
                    " ".join(str(error).split()),
                )
                del self._trackers[kind]

    def close(self) -> None:
        """Nothing more comes."""
        self._on_each("close")

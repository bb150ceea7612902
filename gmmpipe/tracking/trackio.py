"""Trackio: curves on this machine, or in a Space of Hugging Face's (TRACKIO_SPACE_ID)."""

import os
from pathlib import Path

import trackio

from gmmpipe.tracking.tracker import TrackedRun


class Tracker:
    """See `gmmpipe.tracking.tracker.Tracker`."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "gmmpipe"),
            name=f"{run.folder.absolute().name}-{run.id}",
            resume="allow",
            config=run.config,
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def log(self, scalars: dict[str, float], frames: int) -> None:
        """See `Tracker.log`."""
        self._run.log(dict(scalars), step=frames)

    def show(self, name: str, picture: Path, frames: int) -> None:
        """See `Tracker.show`."""
        self._run.log({name: trackio.Image(str(picture))}, step=frames)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._run.finish()  # type: ignore[no-untyped-call]

"""Weights & Biases. Its own settings decide where runs go: WANDB_MODE=offline, WANDB_PROJECT."""

import os
from pathlib import Path

import wandb

from gmmpipe.tracking.tracker import TrackedRun


class Tracker:
    """See `gmmpipe.tracking.tracker.Tracker`."""

    def __init__(self, run: TrackedRun) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "gmmpipe"),
            name=run.folder.absolute().name,
            id=run.id,
            resume="allow",
            dir=run.folder,
            config=run.config,
        )
        self._run.define_metric("*", step_metric="frames")

    def log(self, scalars: dict[str, float], frames: int) -> None:
        """See `Tracker.log`."""
        self._run.log({**scalars, "frames": frames})

    def show(self, name: str, picture: Path, frames: int) -> None:
        """See `Tracker.show`."""
        self._run.log({name: wandb.Image(str(picture)), "frames": frames})

    def close(self) -> None:
        """See `Tracker.close`."""
        self._run.finish()

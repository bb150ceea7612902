"""TensorBoard's event files, beside the run's own."""

from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from gmmpipe.tracking.tracker import TrackedRun


class Tracker:
    """See `gmmpipe.tracking.tracker.Tracker`."""

    def __init__(self, run: TrackedRun) -> None:
        self._run = run
        self._made: SummaryWriter | None = None  # makes a file, so it waits for the first row

    @property
    def _writer(self) -> SummaryWriter:
        if self._made is None:  # readers of the files drop the points from purge_step on
            self._made = SummaryWriter(self._run.folder, purge_step=self._run.frames + 1)
        return self._made

    def log(self, scalars: dict[str, float], frames: int) -> None:
        """See `Tracker.log`."""
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, frames)
        self._writer.flush()

    def show(self, name: str, picture: Path, frames: int) -> None:
        """See `Tracker.show`."""
        from PIL import Image

        pixels = np.asarray(Image.open(picture).convert("RGB"))
        self._writer.add_image(name, pixels, frames, dataformats="HWC")

    def close(self) -> None:
        """See `Tracker.close`."""
        if self._made:
            self._made.close()

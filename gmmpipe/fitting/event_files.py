"""TensorBoard's event files: the metrics of each update as curves."""

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gmmpipe.errors import GmmpipeError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVENT_FILES = "events.out.tfevents.*"


def load_writer() -> "type[SummaryWriter]":
    """TensorBoard's writer, which takes seconds to import.

    Raises:
        GmmpipeError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise GmmpipeError("--tensorboard needs: pip install 'gmmpipe[tensorboard]'") from error
    return SummaryWriter


class EventFiles:
    """Adds a point to each metric's curve after each update, over the frames done.

    Args:
        folder: where the files go; None writes nothing.
        frames: frames done before. Points beyond them, which an earlier run may have left, are of
            updates that are done again: readers of the files drop them.
    """

    def __init__(self, folder: Path | None, frames: int) -> None:
        self._folder, self._frames = folder, frames
        self._writer: SummaryWriter | None = None  # makes a file, so it waits for the first row

    def write(self, row: dict[str, float]) -> None:
        """Write an update's row of metrics; it is in the file when this returns."""
        if self._folder and not self._writer:
            self._writer = load_writer()(self._folder, purge_step=self._frames + 1)
        if self._writer:
            for name in row.keys() - {"frames", "update"}:
                self._writer.add_scalar(name, row[name], row["frames"])
            self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer:
            self._writer.close()

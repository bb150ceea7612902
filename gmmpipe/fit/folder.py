"""The output folder of a fit: what is written there, and when a fit may begin in it."""

import logging
from pathlib import Path
from typing import Any

from gmmpipe.distributed import World
from gmmpipe.errors import GmmpipeError
from gmmpipe.files import remove_temporaries, write_atomic
from gmmpipe.fit.checkpoint import (
    CHECKPOINT_PATTERN,
    MODEL_FILE,
    FitState,
    check_identity,
    find_checkpoint,
)
from gmmpipe.fit.event_files import EVENT_FILES, EventFiles, load_writer
from gmmpipe.fit.options import FitOptions
from gmmpipe.fit.update_metrics import write_metrics
from gmmpipe.store.feature_store import FeatureStore

log = logging.getLogger(__name__)
OPTIONS_FILE = "options.yaml"
FIT_FILES = (MODEL_FILE, CHECKPOINT_PATTERN)


class FitFolder:
    """Where a fit's files go. All ranks call its methods alike; rank 0 alone reads and writes.

    Args:
        options: what the fit is asked to do.
        store: the frames.
        identity: what a fit cannot be resumed with another value of.
        world: the ranks.
    """

    def __init__(
        self, options: FitOptions, store: FeatureStore, identity: dict[str, Any], world: World
    ) -> None:
        self._options = options
        self._store = store
        self._identity = identity
        self._world = world
        self.path = options.output_dir
        self._resumed_from: Path | None = None  # known to rank 0, as is:
        self._to_delete: list[Path] = []

    def prepare(self) -> dict[str, Any] | None:
        """Make the folder ready; the content of the checkpoint to go on from, if any.

        Raises:
            StoreError: the store lacks a shard.
            CheckpointError: there is no such checkpoint, or it is another fit's.
            GmmpipeError: the folder holds a fit, and nothing says what is to become of it; or
                tensorboard is wanted and not installed.
        """
        return self._world.on_first_rank(self._prepare)

    def _prepare(self) -> dict[str, Any] | None:
        folder, options = self.path, self._options
        self._store.check_files()
        if options.tensorboard:
            load_writer()  # or say now that it is missing
        folder.mkdir(parents=True, exist_ok=True)
        earlier = [p for pattern in FIT_FILES for p in folder.glob(pattern) if p.is_file()]
        found = find_checkpoint(options.resume, folder) if options.resume else None
        if found:
            check_identity(*found, self._identity)
            self._resumed_from = found[0]
            log.info("going on from %s", found[0])
        elif options.resume:
            log.info("%s holds no checkpoint: starting afresh", folder)
        elif options.overwrite:
            self._to_delete = [*earlier, *folder.glob(EVENT_FILES)]
        elif earlier:
            raise GmmpipeError(
                f"{folder}: holds a fit already ({earlier[0].name}); --resume auto goes on with "
                "it, --overwrite starts afresh"
            )
        remove_temporaries(folder)
        return found[1] if found else None

    def begin(self, state: FitState) -> None:
        """Say what is fitted here; only now, when all is ready for steps, does an old fit go."""
        self._world.on_first_rank(self._begin)
        self.write_metrics(state)

    def _begin(self) -> None:
        for path in self._to_delete:
            path.unlink()
        write_atomic(self.path / OPTIONS_FILE, self._options.to_yaml().encode())

    def holds_model(self) -> bool:
        """Whether the finished fit's file is there, and whole: then that is what was resumed."""
        return self._world.on_first_rank(lambda: self._resumed_from == self.path / MODEL_FILE)

    def save_model(self, state: FitState) -> None:
        """Write the finished fit's file."""
        self._save(state, MODEL_FILE)

    def save_checkpoint(self, state: FitState) -> None:
        """Write a checkpoint, named after its position."""
        self._save(state, state.checkpoint_name())

    def _save(self, state: FitState, name: str) -> None:
        path = self.path / name
        self._world.on_first_rank(lambda: state.save(path, self._identity, self._store.features))
        log.info("wrote %s", path)

    def open_events(self, frames: int) -> EventFiles:
        """TensorBoard's files, if they are wanted, to go on with after `frames` frames."""
        wanted = self._options.tensorboard and self._world.rank == 0
        return EventFiles(self.path if wanted else None, frames)

    def write_metrics(self, state: FitState) -> None:
        """Write ``metrics.tsv``."""
        self._world.on_first_rank(lambda: write_metrics(self.path, state.metrics))

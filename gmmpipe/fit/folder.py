"""The output folder of a fit: what is written there, and when a fit may begin in it."""

import logging
from pathlib import Path
from typing import Any

from gmmpipe.distributed import World
from gmmpipe.errors import CheckpointError, GmmpipeError
from gmmpipe.files import remove_temporaries, write_atomic
from gmmpipe.fit.checkpoint import (
    CHECKPOINT_PATTERN,
    MODEL_FILE,
    FitState,
    check_identity,
    find_checkpoint,
    position,
    read_checkpoint,
)
from gmmpipe.fit.event_files import EVENT_FILES, EventFiles, load_writer
from gmmpipe.fit.options import FitOptions
from gmmpipe.fit.update_metrics import write_metrics
from gmmpipe.store.feature_store import FeatureStore

log = logging.getLogger(__name__)
OPTIONS_FILE = "options.yaml"


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
        earlier = self._earlier()
        found = find_checkpoint(options.resume, folder) if options.resume else None
        if found:
            check_identity(*found, self._identity)
            log.info("going on from %s", found[0])
        elif options.resume:
            log.info("%s holds no checkpoint: starting afresh", folder)
        elif earlier and not options.overwrite:
            raise GmmpipeError(
                f"{folder}: holds a fit already ({earlier[0].name}); --resume auto goes on with "
                "it, --overwrite starts afresh"
            )
        remove_temporaries(folder)
        return found[1] if found else None

    def begin(self, state: FitState) -> None:
        """Delete an old fit that is to be overwritten; write ``options.yaml`` and the metrics.

        Only when steps can begin: a fit that comes to none leaves the folder as it was.
        """
        self._world.on_first_rank(self._begin)
        self.write_metrics(state)

    def _begin(self) -> None:
        if self._options.overwrite:
            for path in [*self._earlier(), *self.path.glob(EVENT_FILES)]:
                path.unlink(missing_ok=True)
        write_atomic(self.path / OPTIONS_FILE, self._options.to_yaml().encode())

    def _earlier(self) -> list[Path]:
        """The models and checkpoints that are there."""
        return [p for pattern in (MODEL_FILE, CHECKPOINT_PATTERN) for p in self.path.glob(pattern)]

    def holds_model(self) -> bool:
        """Whether the finished fit's file is there, whole, and not an older one."""
        return self._world.on_first_rank(self._holds_model)

    def _holds_model(self) -> bool:
        try:
            model = read_checkpoint(self.path / MODEL_FILE)
        except CheckpointError:
            return False
        return bool(model["frames"] >= self._options.target_frames)

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

    def keep(self, state: FitState) -> Path | None:
        """Write a checkpoint by this rank alone, if that is still of use to anybody.

        It is not where the folder holds one as far already, of a rank that was faster or of a fit
        that went on without this one; nor where it holds another fit by now.

        Returns:
            What to go on from; None where there is nothing.
        """
        found = find_checkpoint("auto", self.path)
        if found and found[1]["resume"]["identity"] != self._identity:
            return None
        if found and position(found[1]) >= (state.frames, state.step):
            return found[0]
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / state.checkpoint_name()
        state.save(path, self._identity, self._store.features)
        return path

    def open_events(self, frames: int) -> EventFiles:
        """TensorBoard's files, if they are wanted, to go on with after `frames` frames."""
        wanted = self._options.tensorboard and self._world.rank == 0
        return EventFiles(self.path if wanted else None, frames)

    def write_metrics(self, state: FitState) -> None:
        """Write ``metrics.tsv``."""
        self._world.on_first_rank(lambda: write_metrics(self.path, state.metrics))

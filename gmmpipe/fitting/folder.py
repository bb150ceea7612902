"""The output folder of a fit: what is written there, and when a fit may begin in it."""

import logging
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

from gmmpipe.claim import Claim
from gmmpipe.errors import CheckpointError, ClaimError, GmmpipeError
from gmmpipe.files import write_atomic
from gmmpipe.fitting.checkpoint import (
    MODEL_FILE,
    FitState,
    check_identity,
    find_checkpoint,
    is_model,
    models_in,
    position,
    read_checkpoint,
)
from gmmpipe.fitting.event_files import EVENT_FILES, EventFiles, load_writer
from gmmpipe.fitting.options import FitOptions
from gmmpipe.fitting.update_metrics import METRICS_FILE, holds_metrics, write_metrics
from gmmpipe.run.run_folder import (
    Stamp,
    claim_run,
    name_next,
    next_path,
    refuse_folders,
    replace_run,
    stamps_of,
    waiting_in,
)
from gmmpipe.run.world import World
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
        self._claims = ExitStack()
        self._replaced: list[Stamp] = []  # models of an earlier fit, until this one replaces them

    def close(self) -> None:
        """Let other processes have the folder."""
        self._claims.close()

    def prepare(self) -> dict[str, Any] | None:
        """Claim the folder and make it ready; the content of the checkpoint to go on from, if any.

        Raises:
            StoreError: the store lacks a shard.
            CheckpointError: there is no such checkpoint, or it is another fit's.
            ClaimError: another process is at work there, on something else.
            GmmpipeError: the folder holds a fit, and nothing says what is to become of it; or
                tensorboard is wanted and not installed.
        """
        content, self._replaced = self._world.on_first_rank(self._prepare)
        return content

    def _prepare(self) -> tuple[dict[str, Any] | None, list[Stamp]]:
        folder, options = self.path, self._options
        self._store.check_files()
        if options.tensorboard:
            load_writer()  # or say now that it is missing
        claim = self._claims.enter_context(self._claim(options.overwrite))
        refuse_folders(self._files())
        claim.tidy()
        replace_run(folder, self._files(), is_model, claim)
        earlier = models_in(folder)
        found = find_checkpoint(options.resume, folder) if options.resume else None
        if found:
            check_identity(*found, self._identity)
            if options.resume != "auto" and not options.overwrite and self._holds_another(earlier):
                raise GmmpipeError(
                    f"{folder}: holds another fit ({earlier[0].name}) than {found[0]}; use another "
                    "--output_dir, or --overwrite to replace it"
                )
            log.info("going on from %s", found[0])
        elif options.resume:
            log.info("%s holds no checkpoint: starting afresh", folder)
        elif earlier and not options.overwrite:
            raise GmmpipeError(
                f"{folder}: holds a fit already ({earlier[0].name}); --resume auto goes on with "
                "it, --overwrite starts afresh"
            )
        return found[1] if found else None, stamps_of(earlier) if options.overwrite else []

    def _files(self) -> list[Path]:
        """All that a fit may have written."""
        others = [self.path / METRICS_FILE, self.path / OPTIONS_FILE]
        return [*models_in(self.path), *others, *self.path.glob(EVENT_FILES)]

    def _claim(self, overwrite: bool = False) -> AbstractContextManager[Claim]:
        options = self._options
        decides = [self._identity, options.target_frames, options.eval_data_dir]
        what = f"gmmpipe fit, K {options.K}, seed {options.seed}"
        return claim_run(self.path, decides, what, overwrite=overwrite)

    def _holds_another(self, earlier: list[Path]) -> bool:
        """Whether some of these files are of another fit, or none can be read."""
        identities = []
        for path in earlier:
            with suppress(CheckpointError):
                identities.append(read_checkpoint(path)["resume"]["identity"])
        same = [identity == self._identity for identity in identities]
        return bool(earlier) and not (same and all(same))

    def begin(self, state: FitState) -> None:
        """Write ``options.yaml`` and the metrics, unless there is a fit to be replaced.

        Only when steps can begin: a fit that comes to none leaves the folder as it was. One that
        replaces another leaves that until it has a checkpoint.
        """
        if not self._replaced:
            self._world.on_first_rank(lambda: self._begin(state))

    def _begin(self, state: FitState) -> None:
        write_atomic(self.path / OPTIONS_FILE, self._options.to_yaml().encode())
        write_metrics(self.path, state.metrics)

    def holds_result(self, state: FitState) -> bool:
        """Whether a finished fit's files are there and whole, and the model not an older one."""
        return self._world.on_first_rank(lambda: self._holds_result(state))

    def _holds_result(self, state: FitState) -> bool:
        if not holds_metrics(self.path, state.metrics):
            return False
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
        self._world.on_first_rank(lambda: self._write(state, path))
        self._replaced = []
        log.info("wrote %s", path)

    def _write(self, state: FitState, path: Path) -> None:
        unnamed = next_path(path) if self._replaced else path
        state.save(unnamed, self._identity, self._store.features)
        if self._replaced:
            name_next(self.path, self._files(), is_model)
            self._begin(state)

    def keep(self, state: FitState) -> Path | None:
        """Write a checkpoint by this rank alone, if that is still of use to anybody.

        It is not where the folder holds one as far already, of a rank that was faster or of a fit
        that went on without this one; nor where it holds another fit by now.

        Returns:
            What to go on from; None where there is nothing.
        """
        try:
            with self._claim():
                return self._keep(state)
        except ClaimError as error:
            log.error("%s", error)
            return None

    def _keep(self, state: FitState) -> Path | None:
        path = self.path / state.checkpoint_name()
        # A rank that was asleep may find that the earlier fit has been replaced by now.
        replacing = bool(self._replaced) and stamps_of(models_in(self.path)) == self._replaced
        if replacing:
            path = next_path(path)  # it is named by whoever is alone next
            there = waiting_in(self.path, is_model)
        else:
            found = find_checkpoint("auto", self.path)
            there = [found[0]] if found else []
        for other in there:
            try:
                content = read_checkpoint(other)
            except CheckpointError:
                continue
            if content["resume"]["identity"] != self._identity:
                return None
            if position(content) >= (state.frames, state.step):
                return other
        state.save(path, self._identity, self._store.features)
        return path

    def open_events(self, frames: int) -> EventFiles:
        """TensorBoard's files, if they are wanted, to go on with after `frames` frames."""
        wanted = self._options.tensorboard and self._world.rank == 0
        return EventFiles(self.path if wanted else None, frames)

    def write_metrics(self, state: FitState) -> None:
        """Write ``metrics.tsv``; the first time in a fit that replaces another, a checkpoint."""
        if self._replaced:
            self.save_checkpoint(state)
        else:
            self._world.on_first_rank(lambda: write_metrics(self.path, state.metrics))

"""The output folder of a run: checkpoints, metrics, and the finished encoder."""

import logging
import math
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gmmpipe.claim import Claim
from gmmpipe.errors import CheckpointError, ClaimError, GmmpipeError
from gmmpipe.files import write_atomic
from gmmpipe.fitting.checkpoint import check_identity
from gmmpipe.mixture.model_file import write_model
from gmmpipe.run.run_folder import claim_run, name_next, next_path, refuse_folders, replace_run
from gmmpipe.run.world import World
from pipelines.jepa.checkpoint import TrainState, read_run
from pipelines.jepa.options import JEPAOptions

log = logging.getLogger("gmmpipe.pipelines.jepa")
MODEL_FILE, METRICS_FILE, OPTIONS_FILE = "jepa.pt", "metrics.tsv", "options.yaml"
CHECKPOINT = re.compile(r"jepa_ckpt_(\d+)\.pt")


def is_model(name: str) -> bool:
    """Whether a file of that name is a finished run's, or a checkpoint of one."""
    return name == MODEL_FILE or CHECKPOINT.fullmatch(name) is not None


class RunFolder:
    """Where a run's files go. All ranks call its methods alike; rank 0 alone reads and writes.

    Args:
        options: what the run is asked to do.
        identity: what it cannot be resumed with another value of.
        world: the ranks.
    """

    def __init__(self, options: JEPAOptions, identity: dict[str, Any], world: World) -> None:
        self.path = options.output_dir
        self.replacing = False
        self._options, self._identity, self._world = options, identity, world
        self._claim: Claim | None = None

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """For the length of the block, no other run writes into the folder.

        Raises:
            ClaimError: another run does so already.
        """
        overwrite = self._options.overwrite
        with ExitStack() as held:

            def claim() -> None:
                claimed = claim_run(self.path, self._identity, "train.py", overwrite=overwrite)
                self._claim = held.enter_context(claimed)

            self._world.on_first_rank(claim)
            yield

    def prepare(self, state: TrainState) -> None:
        """Make the folder ready, and take over the checkpoint to go on from, if any.

        Raises:
            CheckpointError: there is no such checkpoint, or it is another run's.
            GmmpipeError: the folder holds a run, and nothing says what is to become of it; or a
                folder is where a file of the run is to be.
        """
        content, self.replacing = self._world.on_first_rank(lambda: self._prepare(state))
        if content:
            state.load(content)
        if not self.replacing:
            self._world.on_first_rank(lambda: self._begin(state))

    def _prepare(self, state: TrainState) -> tuple[dict[str, Any] | None, bool]:
        folder, options = self.path, self._options
        assert self._claim, "the folder is claimed before it is made ready"
        refuse_folders(self._files())
        replace_run(folder, self._files(), is_model, self._claim)
        earlier = self._checkpoints()
        found = None
        if options.resume:
            found = self._find(options.resume, earlier, state)
            if found:
                check_identity(*found, self._identity, "run")
            log.info(*(("going on from %s", found[0]) if found else ("starting afresh",)))
        others = [path for path in earlier if not (found and self._is_this_run(path))]
        if others and options.resume != "auto" and not options.overwrite:
            kind, way = ("a", "--resume auto goes on with it, ") if not found else ("another", "")
            raise GmmpipeError(
                f"{folder}: holds {kind} run already ({others[0].name}); {way}--overwrite replaces "
                "it, another --output_dir keeps it"
            )
        return found[1] if found else None, bool(others) and options.overwrite

    def _begin(self, state: TrainState) -> None:
        """Write what a run has from its first moment."""
        write_atomic(self.path / OPTIONS_FILE, self._options.to_yaml().encode())
        path, metrics = self.path / METRICS_FILE, state.metrics_file()
        if state.step >= self._options.max_steps and not _holds(path, metrics):
            log.warning("warning: %s is not what the run wrote: made again", path)
        write_atomic(path, metrics)

    def _checkpoints(self) -> list[Path]:
        """Of the runs in the folder, and their ends, which come first; then the furthest."""
        found = [path for path in self.path.glob("jepa*.pt") if is_model(path.name)]
        return sorted(found, key=_named_step, reverse=True)

    def _files(self) -> list[Path]:
        """All that a run may have written."""
        return [*self._checkpoints(), self.path / METRICS_FILE, self.path / OPTIONS_FILE]

    def _is_this_run(self, path: Path) -> bool:
        """Whether a checkpoint in the folder is of this very run; a damaged one is nobody's."""
        try:
            return bool(read_run(path)["resume"]["identity"] == self._identity)
        except CheckpointError as error:
            log.warning("warning: passed over: %s", error)
            return True

    def _find(
        self, resume: str, earlier: list[Path], state: TrainState
    ) -> tuple[Path, dict[str, Any]] | None:
        if resume != "auto":
            content = read_run(Path(resume))
            check_identity(Path(resume), content, self._identity, "run")
            state.check(Path(resume), content)
            return Path(resume), content
        best: tuple[Path, dict[str, Any]] | None = None
        for path in earlier:
            try:
                content = read_run(path)
                if content["resume"]["identity"] == self._identity:
                    state.check(path, content)
            except CheckpointError as error:
                log.warning("warning: passed over: %s", error)
                continue
            if best is None or content["step"] > best[1]["step"]:
                best = (path, content)
            if path.name != MODEL_FILE:
                break  # those that follow are less far
        return best

    def holds_model(self) -> bool:
        """Whether the finished run's file is there, whole, and not an older one."""
        return self._world.on_first_rank(self._holds_model)

    def _holds_model(self) -> bool:
        try:
            return bool(read_run(self.path / MODEL_FILE)["step"] >= self._options.max_steps)
        except CheckpointError:
            return False

    def save(self, state: TrainState, finished: bool = False) -> None:
        """Write a checkpoint, or the finished run's file, which holds the same.

        The first of a run that replaces another is what the other goes for.
        """
        path = self.path / (MODEL_FILE if finished else state.checkpoint_name())
        self._world.on_first_rank(lambda: self._save(state, path))
        self.replacing = False
        log.info("wrote %s", path)

    def _save(self, state: TrainState, path: Path) -> None:
        content = state.to_dict(self._identity)
        if not self.replacing:
            write_model(path, content)
            return
        write_model(next_path(path), content)
        name_next(self.path, self._files(), is_model)
        self._begin(state)

    def keep(self, state: TrainState) -> None:
        """Leave a checkpoint by this rank alone, as another is gone.

        There is none of use where the folder holds one as far, or another run by now.
        """
        if not state.step or self.replacing:
            return
        try:
            with claim_run(self.path, self._identity, "train.py"):
                self._keep(state)
        except ClaimError as error:
            log.error("%s", error)

    def _keep(self, state: TrainState) -> None:
        path = self.path / state.checkpoint_name()
        for other in self._checkpoints():
            try:
                content = read_run(other)
                if content["resume"]["identity"] != self._identity:
                    return
                state.check(other, content)
            except CheckpointError:
                continue
            if content["step"] >= state.step:
                return
            if other.name != MODEL_FILE:
                break  # those that follow are less far
        write_model(path, state.to_dict(self._identity))
        log.info("wrote %s; --resume auto goes on from there", path)

    def write_metrics(self, state: TrainState) -> None:
        """Write ``metrics.tsv`` anew, whole or not at all: no step is ever there twice."""
        if not self.replacing:
            path = self.path / METRICS_FILE
            self._world.on_first_rank(lambda: write_atomic(path, state.metrics_file()))


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content


def _named_step(path: Path) -> float:
    named = CHECKPOINT.fullmatch(path.name)
    return float(named[1]) if named else math.inf

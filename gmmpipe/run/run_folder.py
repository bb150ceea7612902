"""The output folder of a run: when the run may begin there, where it goes on, what it writes."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from gmmpipe.errors import CheckpointError, ClaimError, GmmpipeError
from gmmpipe.files import write_atomic
from gmmpipe.run.metrics_file import METRICS_FILE, holds_metrics, write_metrics
from gmmpipe.run.replacement import (
    Stamp,
    claim_run,
    finish_replacement,
    next_path,
    replace_run,
    stamps_of,
    waiting_in,
)
from gmmpipe.run.run_files import (
    OPTIONS_FILE,
    Content,
    Position,
    RunFiles,
    RunOptions,
    RunState,
    check_identity,
    identity_of_content,
)
from gmmpipe.run.world import World

log = logging.getLogger(__name__)


class RunFolder:
    """Where a run's files go. All ranks call its methods alike; rank 0 alone reads and writes.

    Args:
        options: where the folder is, and what to do with an earlier run there.
        files: what the run's files are called.
        write: writes a state as a model file, whole or not at all.
        identity: the values that must be the same for a run to go on from a checkpoint.
        claimed_as: plain values that decide the run's files, and the run in words: processes with
            equal values may share the folder, and another one is told the words.
        world: the ranks.
    """

    def __init__(
        self,
        options: RunOptions,
        files: RunFiles,
        write: Callable[[Path, Any], None],
        identity: Content,
        claimed_as: tuple[Any, str],
        world: World,
    ) -> None:
        self.path = options.output_dir
        self._options, self._files, self._write = options, files, write
        self._identity, self._claimed_as, self._world = identity, claimed_as, world
        self._replaced: list[Stamp] = []  # models of an earlier run, until this one replaces them
        self._whole: set[Stamp] = set()  # checkpoints that need not be read again

    @property
    def replacing(self) -> bool:
        """Whether an earlier run is there, which goes with this one's first checkpoint."""
        return bool(self._replaced)

    @contextmanager
    def prepared(self) -> Iterator[Content | None]:
        """Claim the folder for the length of the block; gives the content to go on from, if any.

        Raises:
            CheckpointError: there is no such checkpoint, or it is another run's.
            ClaimError: another process is at work there, on something else.
            GmmpipeError: the folder holds a run, and nothing says what is to become of it; or a
                folder is where a file of the run is to be.
        """
        with ExitStack() as claims:
            content, self._replaced = self._world.on_first_rank(lambda: self._prepare(claims))
            yield content

    def _prepare(self, claims: ExitStack) -> tuple[Content | None, list[Stamp]]:
        folder, files, options = self.path, self._files, self._options
        claim = claims.enter_context(
            claim_run(folder, *self._claimed_as, overwrite=options.overwrite)
        )
        for path in files.all_in(folder):
            if path.is_dir():
                raise GmmpipeError(
                    f"{path}: is a folder, where a file is to be written: move it away"
                )
        claim.tidy()
        finish_replacement(folder, files, claim)
        earlier = files.models_in(folder)
        found = self._find()
        if found:
            check_identity(*found, self._identity, files.what)
            if options.resume != "auto" and not options.overwrite:
                self._refuse_another(earlier, found[0])
            log.info("going on from %s", found[0])
        elif options.resume:
            log.info("%s holds no checkpoint: starting afresh", folder)
        elif earlier and not options.overwrite:
            raise GmmpipeError(
                f"{folder}: holds a {files.what} already ({earlier[0].name}); --resume auto goes "
                "on with it, --overwrite starts afresh"
            )
        return found[1] if found else None, stamps_of(earlier) if options.overwrite else []

    def _find(self) -> tuple[Path, Content] | None:
        """The checkpoint that ``--resume`` means."""
        resume = self._options.resume
        if resume is None:
            return None
        if resume == "auto":
            return self._files.furthest_in(self.path)
        return Path(resume), self._files.read(Path(resume))

    def _refuse_another(self, earlier: list[Path], found: Path) -> None:
        """Refuse a folder that holds a model of another run, or models but none to be read."""
        identities = {}
        for path in earlier:
            with suppress(CheckpointError):
                identities[path] = identity_of_content(self._files.read(path))
        others = [path for path, identity in identities.items() if identity != self._identity]
        if others or (earlier and not identities):
            raise GmmpipeError(
                f"{self.path}: holds another {self._files.what} ({[*others, *earlier][0].name}) "
                f"than {found}; use another --output_dir, or --overwrite to replace it"
            )

    def begin(self, state: RunState) -> None:
        """Write ``options.yaml`` and the metrics, unless there is a run to be replaced.

        It is called when steps can begin, so a run that comes to none leaves the folder as it was.
        A run that replaces another one changes nothing of it before it has a checkpoint.
        """
        if not self.replacing:
            self._world.on_first_rank(lambda: self._begin(state))

    def _begin(self, state: RunState) -> None:
        write_atomic(self.path / OPTIONS_FILE, self._options.to_yaml().encode())
        write_metrics(self.path, state.metrics_text())

    def write_metrics(self, state: RunState) -> None:
        """Write ``metrics.tsv``, unless there is a run to be replaced."""
        if not self.replacing:
            self._world.on_first_rank(lambda: write_metrics(self.path, state.metrics_text()))

    def save(self, state: RunState, *, finished: bool = False) -> None:
        """Write a checkpoint, or the finished run's file, which holds the same.

        The first one of a run that replaces another deletes the other's files, too. Checkpoints
        beyond those that are to be kept are deleted.
        """
        path = self.path / (self._files.model if finished else state.checkpoint_name())
        self._world.on_first_rank(lambda: self._save(state, path))
        self._replaced = []
        log.info("wrote %s", path)

    def _save(self, state: RunState, path: Path) -> None:
        self._write(next_path(path) if self.replacing else path, state)
        if self.replacing:
            replace_run(self.path, self._files)
            self._begin(state)
        self._whole.update(stamps_of([path]))
        self._delete_others(path)

    def _delete_others(self, written: Path | None = None) -> None:
        """Delete the checkpoints that are less far than the furthest whole ones, `keep` of them.

        Damaged ones do not count. What was `written` just now stays, however far others are.
        """
        keep, num_whole = self._options.keep, 0
        if keep is None:
            return
        for path in self._files.checkpoints_in(self.path):
            if num_whole < keep:
                num_whole += self._is_whole(path)
            elif path != written:
                path.unlink(missing_ok=True)

    def _is_whole(self, path: Path) -> bool:
        """Whether a checkpoint is one that this run can go on from; each is read once."""
        stamps = set(stamps_of([path]))
        if not stamps <= self._whole and self._read_own(path):
            self._whole |= stamps
        return bool(stamps & self._whole)

    def _read_own(self, path: Path) -> Content | None:
        """The content of a checkpoint; None where it cannot be read, or is another run's."""
        try:
            content = self._files.read(path)
        except CheckpointError:
            return None
        return content if identity_of_content(content) == self._identity else None

    def mend(self, state: RunState, target: Position) -> None:
        """Make a finished run's files again where they are not whole; delete checkpoints as `save`.

        Args:
            state: of the finished run.
            target: what the run was to come to; a model that is less far is an older one.
        """
        if self._world.on_first_rank(lambda: self._holds_result(state, target)):
            self._world.on_first_rank(self._delete_others)
            return
        if not self.replacing:
            log.info("%s or %s is damaged or missing: made again", self._files.model, METRICS_FILE)
        self.begin(state)
        self.save(state, finished=True)

    def _holds_result(self, state: RunState, target: Position) -> bool:
        model = self._read_own(self.path / self._files.model)
        reached = model is not None and self._files.position(model) >= target
        return reached and holds_metrics(self.path, state.metrics_text())

    def keep_alone(self, state: RunState) -> Path | None:
        """Write a checkpoint by this rank alone, if that is still of use to anybody.

        It is of no use where the folder holds one that is as far (a faster rank's, or that of a run
        that went on without this rank), or another run.

        Returns:
            What to go on from; None where there is nothing.
        """
        try:
            with claim_run(self.path, *self._claimed_as):
                return self._keep_alone(state)
        except ClaimError as error:
            log.error("%s", error)
            return None

    def _keep_alone(self, state: RunState) -> Path | None:
        files, path = self._files, self.path / state.checkpoint_name()
        # A rank that was asleep may find that the earlier run has been replaced by now.
        if self.replacing and stamps_of(files.models_in(self.path)) == self._replaced:
            path = next_path(path)  # it is named by whoever is alone next
            there = waiting_in(self.path, files)
        else:
            found = files.furthest_in(self.path)
            there = [found[0]] if found else []
        for other in there:
            try:
                content = files.read(other)
            except CheckpointError:
                continue
            if identity_of_content(content) != self._identity:
                return None
            if files.position(content) >= state.position():
                return other
        self._write(path, state)
        return path

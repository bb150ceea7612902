"""What a run's folder must know of the run: its options, its state, and what its files are."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gmmpipe.errors import CheckpointError, OptionError
from gmmpipe.options import Options
from gmmpipe.run.metrics_file import METRICS_FILE

log = logging.getLogger(__name__)
OPTIONS_FILE = "options.yaml"
Content = dict[str, Any]
"""What a checkpoint holds; ``resume`` has the run's ``identity`` among others."""
Position = tuple[int, ...]
"""How far a run is: what comes first counts most."""


class RunOptions(Options):
    """The options of a run; its folder follows those that are named here.

    Attributes:
        output_dir: the folder.
        resume: a checkpoint to go on from, ``auto`` for the furthest in the folder, or None.
        overwrite: whether an earlier run in the folder is to be replaced.
        keep: how many checkpoints to keep; None: all.
    """

    output_dir: Path
    resume: str | None
    overwrite: bool
    keep: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume == "none":
            object.__setattr__(self, "resume", None)
        if self.resume == "auto" and self.overwrite:
            raise OptionError(
                "--resume auto goes on with the run in --output_dir and --overwrite replaces it: "
                "choose one"
            )


class RunState(Protocol):
    """The part of a run's state that its folder asks for."""

    def position(self) -> Position:
        """How far the run is."""

    def checkpoint_name(self) -> str:
        """The name of a checkpoint of it."""

    def metrics_text(self) -> bytes:
        """The content of ``metrics.tsv``."""


@dataclass(frozen=True)
class RunFiles:
    """The files of a kind of run.

    Args:
        what: a run of this kind in a word, for messages.
        model: the name of the finished run's file.
        named_position: how far a checkpoint of that name is; None where the name is no
            checkpoint's.
        read: the content of a checkpoint, or of the finished run's file, that a run can go on
            from; raises CheckpointError.
        position: how far a content is.
        also: patterns of what else a run writes, beside its metrics and options.
    """

    what: str
    model: str
    named_position: Callable[[str], Position | None]
    read: Callable[[Path], Content]
    position: Callable[[Content], Position]
    also: tuple[str, ...] = ()

    def is_model(self, name: str) -> bool:
        """Whether a file of that name is a finished run's, or a checkpoint of one."""
        return name == self.model or self.named_position(name) is not None

    def checkpoints_in(self, folder: Path) -> list[Path]:
        """The checkpoints in a folder, by their names, the furthest first."""
        named = [(self.named_position(path.name), path) for path in folder.glob("*.pt")]
        found = [(position, path) for position, path in named if position is not None]
        return [path for _, path in sorted(found, reverse=True)]

    def models_in(self, folder: Path) -> list[Path]:
        """The finished run's file, whose name does not say how far it is, and the checkpoints."""
        model = [path for path in folder.glob("*.pt") if path.name == self.model]
        return [*model, *self.checkpoints_in(folder)]

    def all_in(self, folder: Path) -> list[Path]:
        """All that a run may have written; metrics and options are named, there or not."""
        others = [path for pattern in self.also for path in folder.glob(pattern)]
        tables = [folder / METRICS_FILE, folder / OPTIONS_FILE]
        return [*self.models_in(folder), *tables, *others]

    def furthest_in(self, folder: Path) -> tuple[Path, Content] | None:
        """The furthest valid checkpoint, and its content; damaged ones are passed over with a word.

        The finished run's file is read, and checkpoints from the furthest on by name, until one
        is valid.
        """
        best: tuple[Path, Content] | None = None
        for path in self.models_in(folder):
            try:
                content = self.read(path)
            except CheckpointError as error:
                if path not in self.models_in(folder):
                    return self.furthest_in(folder)  # the same run beside this one is further now
                log.warning("warning: passed over: %s", error)
                continue
            if best is None or self.position(content) > self.position(best[1]):
                best = (path, content)
            if path.name != self.model:
                break  # those that follow are less far
        return best


def identity_of_content(content: Content) -> Content:
    """The values that must be the same for a run to go on from a checkpoint."""
    identity: Content = content["resume"]["identity"]
    return identity


def check_identity(path: Path, content: Content, identity: Content, what: str) -> None:
    """Refuse to go on with another run.

    Args:
        path: of the checkpoint.
        content: of the checkpoint.
        identity: of this run.
        what: a run of this kind in a word.

    Raises:
        CheckpointError: naming every option that differs.
    """
    there = identity_of_content(content)
    differences = [
        f"{name} is {there.get(name)} there and {here} here"
        for name, here in identity.items()
        if there.get(name) != here
    ]
    if differences:
        raise CheckpointError(f"{path}: another {what}: {'; '.join(differences)}")

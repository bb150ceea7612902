"""The output folder of a run: checkpoints, metrics, and the finished encoder."""

import re
from pathlib import Path
from typing import Any

from gmmpipe.mixture.model_file import write_model
from gmmpipe.run.run_files import Position, RunFiles
from gmmpipe.run.run_folder import RunFolder
from gmmpipe.run.world import World
from pipelines.jepa.checkpoint import TrainState, position_of, read_run
from pipelines.jepa.options import JEPAOptions

MODEL_FILE = "jepa.pt"
_CHECKPOINT = re.compile(r"jepa_ckpt_(\d+)\.pt")


def jepa_folder(
    options: JEPAOptions, identity: dict[str, Any], state: TrainState, world: World
) -> RunFolder:
    """Where a run's files go.

    Args:
        options: what the run is asked to do.
        identity: the values that must be the same for it to go on.
        state: of such a run, to compare checkpoints with.
        world: the ranks.
    """

    def read(path: Path) -> dict[str, Any]:
        content = read_run(path)
        if content["resume"]["identity"] == identity:
            state.check(path, content)
        return content

    def write(path: Path, state: TrainState) -> None:
        write_model(path, state.to_dict(identity))

    files = RunFiles("run", MODEL_FILE, named_position, read, position_of)
    return RunFolder(options, files, write, identity, (identity, "train.py"), world)


def named_position(name: str) -> Position | None:
    """Steps that a checkpoint of that name holds; None where it is no checkpoint's."""
    named = _CHECKPOINT.fullmatch(name)
    return (int(named[1]),) if named else None

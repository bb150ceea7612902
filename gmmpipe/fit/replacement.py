"""A fit that replaces another: the old one's files go when the new one has a checkpoint.

The checkpoint is made whole under a hidden name, the old fit's files are deleted, and then it gets
its name. Whoever finds a hidden one finishes that, so a kill anywhere leaves one fit or the other.
"""

import re
from pathlib import Path

from gmmpipe.files import sync
from gmmpipe.fit.event_files import EVENT_FILES
from gmmpipe.fit.update_metrics import METRICS_FILE

MODEL_FILE = "gmm.pt"
OPTIONS_FILE = "options.yaml"
_HIDDEN_PREFIX = ".next-"
_CHECKPOINT_NAME = re.compile(r"gmm_ckpt_(\d+(?:\.\d+)?)M(?:-s(\d+))?\.pt")


def models_in(folder: Path) -> list[Path]:
    """The finished model and the checkpoints of a folder, by their names."""
    model = [folder / MODEL_FILE] if (folder / MODEL_FILE).exists() else []
    return model + sorted(p for p in folder.glob("*.pt") if _CHECKPOINT_NAME.fullmatch(p.name))


def hidden_path(path: Path) -> Path:
    """The hidden name of a checkpoint that is to stand at `path`."""
    return path.with_name(_HIDDEN_PREFIX + path.name)


def finish_replacing(folder: Path) -> Path | None:
    """Let the furthest hidden checkpoint, if there is one, take the place of the fit there.

    Returns:
        The checkpoint, under its name now.
    """
    hidden = sorted(folder.glob(f"{_HIDDEN_PREFIX}*.pt"), key=_position)
    if not hidden:
        return None
    others = [folder / METRICS_FILE, folder / OPTIONS_FILE, *folder.glob(EVENT_FILES)]
    for path in [*models_in(folder), *others, *hidden[:-1]]:
        path.unlink(missing_ok=True)
    sync(folder)  # the new name may not reach the disk before the old files are gone
    named = folder / hidden[-1].name.removeprefix(_HIDDEN_PREFIX)
    hidden[-1].rename(named)
    sync(folder)
    return named


def _position(hidden: Path) -> tuple[float, int]:
    found = _CHECKPOINT_NAME.fullmatch(hidden.name.removeprefix(_HIDDEN_PREFIX))
    return (float(found[1]), int(found[2] or 0)) if found else (float("inf"), 0)

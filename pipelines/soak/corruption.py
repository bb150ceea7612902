"""Damaged files under every reader: found and named, or without effect and found by ``verify``."""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.soak.child import command, file_bytes, run
from pipelines.soak.damage import DAMAGES
from pipelines.soak.readers import (
    OF_FEATURES,
    OF_FITS,
    OF_LABELS,
    OF_MODELS,
    Reader,
    label_again,
    resume,
)
from pipelines.soak.stage import Stage
from pipelines.soak.verdict import WRONG, Outcome, held, refused


@dataclass(frozen=True)
class Target:
    """A folder that may be damaged.

    Args:
        folder: its name on the stage.
        readers: by name.
        finished: ``verify`` can judge it.
        redo: what completes it where it is not finished; its files are then those of `whole`.
        whole: the folder that it becomes.
    """

    folder: str
    readers: dict[str, Reader]
    finished: bool = True
    whole: str = ""


TARGETS = {
    "tar store": Target("tar", OF_FEATURES),
    "zarr store": Target("zarr", OF_FEATURES),
    "tar store begun": Target("tar begun", {"featurize": resume}, False, "tar"),
    "zarr store begun": Target("zarr begun", {"featurize": resume}, False, "zarr"),
    "label store": Target("labels", OF_LABELS),
    "label store begun": Target("labels begun", {"label": label_again}, False, "labels"),
    "fit": Target("fit", {**OF_FITS, **OF_MODELS}, finished=False),
    "fit begun": Target("fit begun", OF_FITS, finished=False),
}
_UNREAD = ("options.yaml",)
"""What a fit writes for people: no command reads it back unless ``--config`` names it."""
_expected: dict[tuple[int, str, str, str], Any] = {}


def corrupt(stage: Stage, rng: random.Random, target: str = "", damage: str = "") -> Outcome:
    """Damage one file of a copy, read it, and judge what came of it.

    Args:
        stage: what there is to copy.
        rng: draws what is not given.
        target: a name of `TARGETS`.
        damage: a name of `DAMAGES`.
    """
    target = target or rng.choice(list(TARGETS))
    there = TARGETS[target]
    damages = [d for d in DAMAGES if d != "extra shard" or "fit" not in target]
    damage = damage if damage in damages else rng.choice(damages)
    with stage.scratch() as scratch:
        folder, out = scratch / there.folder.split()[0], scratch / "out"
        shutil.copytree(stage.folder / there.folder, folder)
        before = file_bytes(folder)
        path = folder / rng.choice([name for name in before if name not in _UNREAD])
        reader = rng.choice([r for r in there.readers if _may_judge(r, damage, path)])
        expected = _undamaged(stage, there, reader, path, out)
        names = DAMAGES[damage](folder, path, rng)
        words = (
            f"{target}: {damage} of {path.relative_to(folder)} ({', '.join(names)}) under {reader}"
        )
        if file_bytes(folder) == before:
            return held(f"{words}: the bytes are the same", "")
        names = _names_of(folder, path, names)
        job = there.readers[reader](stage, folder, path, out)
        ended = run(job)
        if ended.status != 0 or ended.excess:
            return refused(words, ended.fault(names))
        value, stdout = expected
        silent = reader in ("featurize", "repair")  # whether it had work to do is told on stdout
        same = ended.value == value and (silent or ended.stdout == stdout)
        if there.whole and file_bytes(folder) == file_bytes(stage.folder / there.whole):
            return held(words, "")
        if reader == "inspect" and '"finished": false' in ended.stdout and there.finished:
            return refused(words, "")  # without a store.json, that is what it is
        if not same:
            return Outcome(
                WRONG, f"{words}: other values, and nothing said: {ended.stderr.strip()[-300:]}"
            )
        if (there.finished and reader != "repair") or there.whole:
            verified = run(command("verify", folder))
            fault = verified.fault(names)
            words += ", verify"
            return refused(words, fault) if there.whole else held(words, fault)
        return held(words, "")


def _may_judge(reader: str, damage: str, path: Path) -> bool:
    """Whether a reader has to do with such a damage."""
    if reader in OF_MODELS:  # it takes any model, and no model is wrong usage
        return path.suffix == ".pt" and damage not in ("swap", "delete", "folder")
    return reader != "repair" or damage != "extra shard"  # whose that is, nobody says: it stays


def _names_of(folder: Path, path: Path, names: list[str]) -> list[str]:
    """What an error may call the damage: the file, or the shard that it belongs to."""
    shards = {
        part.split(".")[0] for part in path.relative_to(folder).parts if part.startswith("shard-")
    }
    if not path.exists() and path.name in ("store.json", "plan.npz", "plan.json"):
        names = [*names, "holds shards but no plan"]  # nothing else says whose they are
    return [*names, *shards, *(name.split(".")[0] for name in names if name.startswith("shard-"))]


def _undamaged(stage: Stage, target: Target, reader: str, path: Path, out: Path) -> Any:
    """What the reader gives of the undamaged copy, which is then made anew."""
    name = path.name if reader in OF_MODELS or reader == "fit elsewhere" else ""
    key = (id(stage), target.folder, reader, name)
    if key not in _expected:
        folder = out.parent / target.folder.split()[0]
        ended = run(target.readers[reader](stage, folder, path, out))
        assert ended.status == 0, ended
        _expected[key] = (ended.value, ended.stdout)
        for used in (folder, out):
            shutil.rmtree(used, ignore_errors=True)
        shutil.copytree(stage.folder / target.folder, folder)
    return _expected[key]

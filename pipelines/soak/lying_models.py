"""Model files that say what cannot be: shapes, counters, types, and zeros without end."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.soak.case import case
from pipelines.soak.child import Job, command
from pipelines.soak.stage import Stage


def _model(stage: Stage, scratch: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    import torch

    content = torch.load(stage.model, weights_only=True)
    change(content)
    torch.save(content, scratch / "lying.pt")
    return scratch / "lying.pt"


def _monstrous(content: dict[str, Any]) -> None:
    import torch

    rows = torch.zeros(1, 1).expand(10**6, 10**6)
    column = torch.zeros(1).expand(10**6)
    content.update(means=rows, covariances=rows, log_vars=rows, weights=column, log_weights=column)
    content.update(K=10**6, dim=10**6)


@case
def model_of_a_trillion_parameters(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    path = _model(stage, scratch, _monstrous)
    return path, command("evaluate", stage.store, "--gmm_path", path)


@case
def checkpoint_of_a_trillion_parameters(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    path = _model(stage, scratch, _monstrous)
    return path, command(*stage.fit(scratch / "out", resume=path))


@case
def checkpoint_with_negative_counters(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    path = _model(stage, scratch, lambda content: content["resume"].update(updates=-3, step=-1))
    return path, command(*stage.fit(scratch / "out", resume=path))


@case
def checkpoint_with_huge_counters(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    path = _model(stage, scratch, lambda content: content.update(frames=10**30))
    return path, command(*stage.fit(scratch / "out", resume=path))


@case
def checkpoint_whose_moments_have_another_shape(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    def change(content: dict[str, Any]) -> None:
        content["resume"]["flat"] = content["resume"]["flat"][:-1].clone()

    path = _model(stage, scratch, change)
    return path, command(*stage.fit(scratch / "out", resume=path))


@case
def checkpoint_of_another_dtype(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    def change(content: dict[str, Any]) -> None:
        content["resume"]["flat"] = content["resume"]["flat"].double()

    path = _model(stage, scratch, change)
    return path, command(*stage.fit(scratch / "out", resume=path))


@case
def model_that_is_not_finite(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    def change(content: dict[str, Any]) -> None:
        content["means"][0, 0] = float("nan")

    path = _model(stage, scratch, change)
    return path, command(*stage.label(scratch / "out", gmm=path))


@case
def model_that_is_a_zip_bomb(stage: Stage, scratch: Path) -> tuple[Path, Job]:
    path = scratch / "lying.pt"
    with (
        zipfile.ZipFile(stage.model) as there,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as here,
    ):
        for name in there.namelist():
            data = there.read(name)
            with here.open(name, "w", force_zip64=True) as file:
                file.write(data)
                if name.endswith("/data/0"):
                    for _ in range(1 << 10):
                        file.write(bytes(1 << 20))
    return path, command("evaluate", stage.store, "--gmm_path", path)

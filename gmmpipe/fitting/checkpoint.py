"""A fit's state, and the files that hold it."""

import logging
import re
from dataclasses import dataclass, field
from decimal import Decimal
from operator import index
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmmpipe.errors import CheckpointError
from gmmpipe.features.spec import FrameSpec
from gmmpipe.fitting.resume_state import check_state
from gmmpipe.fitting.update_metrics import completed, metric_columns, without_eval
from gmmpipe.mixture.floors import VarFloor, floor_from_content, floor_to_content, on_device
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.mixture.model_file import read_model
from gmmpipe.mixture.optimizer import Optimizer, StepConstants
from gmmpipe.mixture.optimizers import optimizer_of
from gmmpipe.mixture.parameters import Parameters
from gmmpipe.run.metrics_file import metrics_text
from gmmpipe.run.run_files import Position, RunFiles
from gmmpipe.tracking.tracker import TRACKING_FILES

log = logging.getLogger(__name__)
_CHECKPOINT_NAME = re.compile(r"gmm_ckpt_(\d+(?:\.\d+)?)M(?:-s(\d+))?\.pt")


@dataclass
class FitState:
    """All that a fit needs to go on exactly; the data's position is `frames`, `updates`, `step`.

    Args:
        parameters: of the mixture.
        optimizer: with its moments.
        center: [D], what the statistics are centred by.
        var_floor: the least variance that is allowed, a number or float64 [D].
        model: ``diag`` or ``kmeans``.
        frames: frames of finished updates.
        updates: finished updates.
        step: finished steps of the update that is under way.
        loss_sum, loss_count: the losses evaluated in it.
        at_start: the parameters at its start.
        update_stop: the frames that are done when it ends.
        metrics: rows of ``metrics.tsv``, one a finished update.
        eval_stores: digests of the held-out stores that rows were evaluated on; empty: none were.
    """

    parameters: Parameters
    optimizer: Optimizer
    center: Tensor
    var_floor: VarFloor
    model: str = "diag"
    frames: int = 0
    updates: int = 0
    step: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    at_start: Parameters | None = None
    update_stop: int = 0
    metrics: list[str] = field(default_factory=list)
    eval_stores: list[str] = field(default_factory=list)

    def begin_update(self, stop: int) -> Parameters:
        """Open the update that ends at `stop` frames, or go on with it; the parameters before it.

        Raises:
            CheckpointError: the one under way ends elsewhere.
        """
        if self.at_start is None:
            self.at_start = self.parameters.clone()
            self.update_stop = stop
        elif self.update_stop != stop:
            raise self.unfinished()
        return self.at_start

    def unfinished(self) -> CheckpointError:
        """What to say where the update under way is not the one to go on with."""
        return CheckpointError(
            f"the fit was stopped inside an update that ends at {self.update_stop} frames; finish "
            f"that with --target_frames {self.update_stop} before choosing another"
        )

    def end_update(self, frames: int, row: str) -> None:
        """Close the update under way: `frames` are done, and this is its row of metrics."""
        self.frames = frames
        self.updates += 1
        self.step = 0
        self.loss_sum, self.loss_count = 0.0, 0
        self.at_start = None
        self.metrics.append(row)

    def evaluate_on(self, stores: list[str]) -> None:
        """Let further rows be evaluated on `stores` (digests), and none speak of others."""
        if self.eval_stores not in ([], stores):
            log.warning("warning: --eval_data_dir holds other frames now; eval_nll starts afresh")
            self.metrics = [without_eval(row, self.model) for row in self.metrics]
        self.eval_stores = stores

    def to_dict(self, identity: dict[str, Any], features: FrameSpec) -> dict[str, Any]:
        """A model file's content that `from_dict` can go on from."""
        model = GradientGMM.of(
            self.parameters.mixture,
            info={
                "features": {**features.to_json(), "fingerprint": features.fingerprint},
                **floor_to_content(identity["var_floor"], self.var_floor),
                "seed": identity["seed"],
                "frames": self.frames,
                "resume": {
                    "identity": identity,
                    "updates": self.updates,
                    "step": self.step,
                    "loss_sum": self.loss_sum,
                    "loss_count": self.loss_count,
                    "update_stop": self.update_stop,
                    "metrics": list(self.metrics),
                    "eval_stores": self.eval_stores,
                    "center": self.center.cpu(),
                    "flat": self.parameters.flat.cpu(),
                    "at_start": None if self.at_start is None else self.at_start.flat.cpu(),
                    "optimizer": self.optimizer.state_dict(),
                },
            },
        )
        return model.to_dict()

    @classmethod
    def from_dict(cls, content: dict[str, Any], device: torch.device) -> "FitState":
        """The inverse of `to_dict`; raises KeyError where the file holds no fit's state."""
        resume, identity = content["resume"], content["resume"]["identity"]
        num_components, dim = content["K"], content["dim"]
        var_floor = floor_from_content(content)
        if var_floor is None:
            raise ValueError("it has no var_floor")
        optimizer = optimizer_of(identity["model"], identity["optimizer"])
        constants = StepConstants(
            center=resume["center"].to(device),
            frames=identity["sgd_batch_size"],
            lr=identity["lr"],
            var_floor=on_device(resume["optimizer"]["var_floor"], device),
        )

        def view(flat: Tensor) -> Parameters:
            return Parameters.view(flat.to(device, copy=True), num_components, dim)

        return cls(
            parameters=view(resume["flat"]),
            optimizer=optimizer.from_state(resume["optimizer"], constants),
            center=constants.center,
            var_floor=on_device(var_floor, device),
            model=identity["model"],
            frames=content["frames"],
            updates=resume["updates"],
            step=resume["step"],
            loss_sum=resume["loss_sum"],
            loss_count=resume["loss_count"],
            update_stop=resume["update_stop"],
            at_start=None if resume["at_start"] is None else view(resume["at_start"]),
            metrics=[completed(row) for row in resume["metrics"]],
            eval_stores=resume["eval_stores"],
        )

    def position(self) -> Position:
        """Frames of finished updates, and steps of the one under way."""
        return self.frames, self.step

    def metrics_text(self) -> bytes:
        """The content of ``metrics.tsv``."""
        columns = metric_columns(self.model, with_eval=True)
        return metrics_text(columns, [row.split("\t") for row in self.metrics])

    def checkpoint_name(self) -> str:
        """``gmm_ckpt_{frames in millions}M.pt``, with ``-s{step}`` inside an update."""
        millions = format(Decimal(self.frames).scaleb(-6).normalize(), "f")
        return f"gmm_ckpt_{millions}M{f'-s{self.step}' if self.step else ''}.pt"


def named_position(name: str) -> Position | None:
    """Frames and steps that a checkpoint of that name holds; None where it is no checkpoint's."""
    named = _CHECKPOINT_NAME.fullmatch(name)
    return (int(Decimal(named[1]).scaleb(6)), int(named[2] or 0)) if named else None


def position_of(content: dict[str, Any]) -> Position:
    """How far a checkpoint is: frames of finished updates, and steps of the one under way."""
    return index(content["frames"]), index(content["resume"]["step"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint that a fit can go on from.

    Raises:
        CheckpointError: it is not one.
    """
    content = read_model(path)
    try:
        content["resume"]["identity"].setdefault("model", "diag")  # before there was another
        check_state(content)
        GradientGMM.from_dict(content, path)
        FitState.from_dict(content, torch.device("cpu"))
    except ValueError as error:
        raise CheckpointError(f"{path}: holds no fit's state to go on from: {error}") from error
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: holds no fit's state to go on from: {error!r}") from error
    return content


FIT_FILES = RunFiles(
    what="fit",
    model="gmm.pt",
    named_position=named_position,
    read=read_checkpoint,
    position=position_of,
    also=TRACKING_FILES,
)

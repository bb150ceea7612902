"""A run's state, and the files that hold it."""

import copy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmmpipe.errors import CheckpointError
from gmmpipe.mixture.model_file import FORMAT_VERSION, read_model
from gmmpipe.run.metrics_file import metrics_text
from gmmpipe.run.run_files import Position
from pipelines.jepa.losses import RunningLosses
from pipelines.jepa.model import JEPA, Encoder, Sizes

BETAS, WEIGHT_DECAY = (0.9, 0.98), 0.01
LOSSES = {"jepa_loss", "cluster_loss", "marginal_loss"}


@dataclass
class TrainState:
    """All that a run needs to go on exactly; the data's position is `step`.

    Args:
        jepa: what is trained.
        target: the target encoder.
        optimizer: with its moments.
        running: losses since the last row of metrics.
        step: steps done.
        metrics: rows of ``metrics.tsv``, each with its column names.
    """

    jepa: JEPA
    target: Encoder
    optimizer: torch.optim.Optimizer
    running: RunningLosses
    step: int = 0
    metrics: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def begin(
        cls, sizes: Sizes, seed: int, moments: tuple[Tensor, Tensor], device: torch.device
    ) -> "TrainState":
        """Before the first step, the target encoder is the online one."""
        jepa = JEPA(sizes, seed, moments).to(device)
        target = copy.deepcopy(jepa.encoder).requires_grad_(False)
        groups = [
            {"params": parameters, "weight_decay": WEIGHT_DECAY if decays else 0.0}
            for decays, parameters in jepa.groups()
        ]
        optimizer = torch.optim.AdamW(groups, betas=BETAS)
        return cls(jepa, target, optimizer, RunningLosses.empty(sizes.num_components))

    def load(self, content: dict[str, Any]) -> None:
        """Take over a checkpoint's content."""
        resume = content["resume"]
        self.jepa.load_state_dict(content["jepa"])
        self.target.load_state_dict(content["target_encoder"])
        self.optimizer.load_state_dict(resume["optimizer"])
        self.running = RunningLosses(resume["running"])
        self.step, self.metrics = content["step"], resume["metrics"]

    def to_dict(self, identity: dict[str, Any]) -> dict[str, Any]:
        """What `load` takes: tensors and plain values only."""
        return {
            "format_version": FORMAT_VERSION,
            "sizes": asdict(self.jepa.sizes),
            "step": self.step,
            "jepa": self.jepa.state_dict(),
            "target_encoder": self.target.state_dict(),
            "resume": {
                "identity": identity,
                "optimizer": self.optimizer.state_dict(),
                "running": self.running.values,
                "metrics": self.metrics,
            },
        }

    def check(self, path: Path, content: dict[str, Any]) -> None:
        """Refuse a checkpoint that is of this run by its identity, and cannot be by its content.

        Raises:
            CheckpointError: naming what is wrong.
        """
        try:
            wrong = self._differences(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            wrong = [repr(error)]
        if wrong:
            raise CheckpointError(f"{path}: damaged: not what this run writes: {', '.join(wrong)}")

    def _differences(self, content: dict[str, Any]) -> list[str]:
        step, resume, groups = content["step"], content["resume"], self.optimizer.param_groups
        max_steps, log_every = (resume["identity"][name] for name in ("max_steps", "log_every"))
        if not 1 <= step <= max_steps:
            return ["step"]
        logged = [*range(log_every, step + 1, log_every)]
        if step == max_steps and step % log_every:
            logged.append(step)
        parameters = dict(enumerate(p for group in groups for p in group["params"]))
        optimizer, moments = resume["optimizer"], resume["optimizer"]["state"]
        trained = {number: parameters[number] for number in moments}
        columns = [row.keys() for row in resume["metrics"]]
        numbers = [value for row in resume["metrics"] for value in row.values()]
        right = {
            "optimizer": _grouped(optimizer) == _grouped(self.optimizer.state_dict()),
            "jepa": _alike(self.jepa.state_dict(), content["jepa"]),
            "target_encoder": _alike(self.target.state_dict(), content["target_encoder"]),
            "running": _alike({0: self.running.values}, {0: resume["running"]}),
            "metrics": [row["step"] for row in resume["metrics"]] == logged
            and columns == columns[:1] * len(columns)
            and all(names >= LOSSES for names in columns)
            and all(type(value) in (int, float) for value in numbers),
        }
        for name in ("exp_avg", "exp_avg_sq"):
            right[name] = _alike(trained, {n: moment[name] for n, moment in moments.items()})
        return [name for name, is_right in right.items() if not is_right]

    def checkpoint_name(self) -> str:
        """``jepa_ckpt_{step}.pt``."""
        return f"jepa_ckpt_{self.step}.pt"

    def position(self) -> Position:
        """Steps done."""
        return (self.step,)

    def metrics_text(self) -> bytes:
        """The content of ``metrics.tsv``."""
        columns = [*self.metrics[0]] if self.metrics else []
        rows = [[f"{value:.6g}" for value in row.values()] for row in self.metrics]
        return metrics_text(columns, rows)

    def last_losses(self) -> str:
        """The latest row's, for people."""
        if not self.metrics:
            return "no losses yet"
        row = self.metrics[-1]
        return f"jepa_loss {row['jepa_loss']:.4f}, cluster_loss {row['cluster_loss']:.4f}"


def position_of(content: dict[str, Any]) -> Position:
    """How far a checkpoint is: steps done."""
    return (content["step"],)


def load_jepa(path: Path) -> tuple[JEPA, Encoder]:
    """A run's trained JEPA and its target encoder, from ``jepa.pt`` or a checkpoint.

    Raises:
        CheckpointError: the file cannot be read, or is none of this recipe's.
    """
    content = read_run(path)
    jepa = JEPA(Sizes(**content["sizes"]))
    jepa.load_state_dict(content["jepa"])
    target = copy.deepcopy(jepa.encoder)
    target.load_state_dict(content["target_encoder"])
    return jepa, target


def read_run(path: Path) -> dict[str, Any]:
    """The content of ``jepa.pt`` or of a checkpoint.

    Raises:
        CheckpointError: the file cannot be read, or is none of this recipe's.
    """
    content = read_model(path)
    missing = {"sizes", "step", "jepa", "target_encoder", "resume"} - content.keys()
    if missing:
        raise CheckpointError(
            f"{path}: not a run of this recipe: lacks {', '.join(sorted(missing))}"
        )
    if type(content["step"]) is not int or not isinstance(content["resume"], dict):
        raise CheckpointError(f"{path}: damaged: no step, or nothing to resume from")
    if not isinstance(content["resume"].get("identity"), dict):
        raise CheckpointError(f"{path}: damaged: does not say which run it is of")
    _rename(content)
    return content


def _rename(content: dict[str, Any]) -> None:
    """Give what earlier versions of this recipe wrote its present names and options."""
    sizes, identity = content["sizes"], content["resume"]["identity"]
    for name, value in (("max_seconds", None), ("mix_prob", 0.0), ("noise_prob", 0.0)):
        identity.setdefault(name, value)
    if isinstance(sizes, dict) and "num_mels" in sizes:
        sizes["input_dim"] = sizes.pop("num_mels")
    for values in (sizes, identity):
        if isinstance(values, dict) and values.get("input") == "log_mel":
            values["input"] = "features"


def _grouped(optimizer: dict[str, Any]) -> list[list[int]]:
    """The numbers of an optimizer's parameters, by its groups."""
    return [group["params"] for group in optimizer["param_groups"]]


def _alike(here: dict[Any, Tensor], there: Any) -> bool:
    """Whether `there` has tensors of the same names, shapes and dtypes, all finite."""
    return (
        isinstance(there, dict)
        and here.keys() == there.keys()
        and all(
            isinstance(value, Tensor)
            and (value.shape, value.dtype) == (here[name].shape, here[name].dtype)
            and bool(value.isfinite().all())
            for name, value in there.items()
        )
    )

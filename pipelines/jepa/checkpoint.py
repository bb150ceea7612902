"""A run's state and its files: checkpoints, metrics, and the finished encoder."""

import copy
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from gmmpipe.distributed import World
from gmmpipe.errors import CheckpointError, GmmpipeError
from gmmpipe.files import remove_temporaries, write_atomic
from gmmpipe.fit.checkpoint import check_identity
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.mixture.model_file import FORMAT_VERSION, read_model, write_model
from pipelines.jepa.losses import RunningLosses
from pipelines.jepa.model import JEPA, Encoder, Sizes
from pipelines.jepa.options import JEPAOptions

log = logging.getLogger("gmmpipe.pipelines.jepa")
MODEL_FILE, METRICS_FILE, OPTIONS_FILE = "jepa.pt", "metrics.tsv", "options.yaml"
CHECKPOINT_PATTERN = "jepa_ckpt_*.pt"
BETAS, WEIGHT_DECAY = (0.9, 0.98), 0.01


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
    def begin(cls, sizes: Sizes, seed: int, gmm: GradientGMM, device: torch.device) -> "TrainState":
        """Before the first step, the target encoder is the online one."""
        jepa = JEPA(sizes, seed, gmm).to(device)
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

    def last_losses(self) -> str:
        """The latest row's, for people."""
        if not self.metrics:
            return "no losses yet"
        row = self.metrics[-1]
        return f"jepa_loss {row['jepa_loss']:.4f}, cluster_loss {row['cluster_loss']:.4f}"


class RunFolder:
    """Where a run's files go. All ranks call its methods alike; rank 0 alone reads and writes.

    Args:
        options: what the run is asked to do.
        identity: what it cannot be resumed with another value of.
        world: the ranks.
    """

    def __init__(self, options: JEPAOptions, identity: dict[str, Any], world: World) -> None:
        self.path = options.output_dir
        self._options, self._identity, self._world = options, identity, world

    def prepare(self) -> dict[str, Any] | None:
        """Make the folder ready; the content of the checkpoint to go on from, if any.

        Raises:
            CheckpointError: there is no such checkpoint, or it is another run's.
            GmmpipeError: the folder holds a run, and nothing says what is to become of it.
        """
        return self._world.on_first_rank(self._prepare)

    def _prepare(self) -> dict[str, Any] | None:
        folder, options = self.path, self._options
        folder.mkdir(parents=True, exist_ok=True)
        earlier = [*folder.glob(MODEL_FILE), *folder.glob(CHECKPOINT_PATTERN)]
        found = None
        if options.resume:
            found = self._find(options.resume, earlier)
            if found:
                check_identity(*found, self._identity)
            log.info(*(("going on from %s", found[0]) if found else ("starting afresh",)))
        elif options.overwrite:
            for path in earlier:
                path.unlink()
        elif earlier:
            raise GmmpipeError(
                f"{folder}: holds a run already ({earlier[0].name}); --resume auto goes on with "
                "it, --overwrite starts afresh"
            )
        remove_temporaries(folder)
        write_atomic(folder / OPTIONS_FILE, options.to_yaml().encode())
        return found[1] if found else None

    def _find(self, resume: str, earlier: list[Path]) -> tuple[Path, dict[str, Any]] | None:
        if resume != "auto":
            return Path(resume), _read(Path(resume))
        best: tuple[Path, dict[str, Any]] | None = None
        for path in earlier:
            try:
                content = _read(path)
            except CheckpointError as error:
                log.warning("warning: passed over: %s", error)
                continue
            if best is None or content["step"] > best[1]["step"]:
                best = (path, content)
        return best

    def holds_model(self) -> bool:
        """Whether the finished run's file is there, whole, and not an older one."""
        return self._world.on_first_rank(self._holds_model)

    def _holds_model(self) -> bool:
        try:
            return bool(_read(self.path / MODEL_FILE)["step"] >= self._options.max_steps)
        except CheckpointError:
            return False

    def save(self, state: TrainState, finished: bool = False) -> None:
        """Write a checkpoint, or the finished run's file, which holds the same."""
        path = self.path / (MODEL_FILE if finished else f"jepa_ckpt_{state.step}.pt")
        self._world.on_first_rank(lambda: write_model(path, state.to_dict(self._identity)))
        log.info("wrote %s", path)

    def write_metrics(self, state: TrainState) -> None:
        """Write ``metrics.tsv`` anew, whole or not at all: no step is ever there twice."""
        lines = [state.metrics[0].keys()] if state.metrics else []
        rows = [[f"{value:.6g}" for value in row.values()] for row in state.metrics]
        content = "".join("\t".join(line) + "\n" for line in [*lines, *rows])
        path = self.path / METRICS_FILE
        self._world.on_first_rank(lambda: write_atomic(path, content.encode()))


def load_jepa(path: Path) -> tuple[JEPA, Encoder]:
    """A run's trained JEPA and its target encoder, from ``jepa.pt`` or a checkpoint.

    Raises:
        CheckpointError: the file cannot be read, or is none of this recipe's.
    """
    content = _read(path)
    jepa = JEPA(Sizes(**content["sizes"]))
    jepa.load_state_dict(content["jepa"])
    target = copy.deepcopy(jepa.encoder)
    target.load_state_dict(content["target_encoder"])
    return jepa, target


def _read(path: Path) -> dict[str, Any]:
    content = read_model(path)
    missing = {"sizes", "step", "jepa", "target_encoder", "resume"} - content.keys()
    if missing:
        raise CheckpointError(
            f"{path}: not a run of this recipe: lacks {', '.join(sorted(missing))}"
        )
    return content

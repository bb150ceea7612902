"""What `gmmpipe fit` is asked to do."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from gmmpipe.errors import GmmpipeError, OptionError
from gmmpipe.fitting.schedule import Schedule
from gmmpipe.mixture.optimizers import OPTIMIZERS
from gmmpipe.mixture.seeding import INITS
from gmmpipe.mixture.var_floor import parse_var_floor
from gmmpipe.run.world import EXCHANGE_TIMEOUT, MEETING_TIMEOUT
from gmmpipe.store.feature_store import FeatureStore

MAX_LR = 1e30
"""Beyond it, a step of Adam is beyond float32."""


@dataclass(frozen=True)
class FitOptions:
    """The command's options, under their names; its help explains each one."""

    data_dir: str
    output_dir: Path
    K: int = 1024
    target_frames: int = 100_000_000
    batch_update_size: int = 5_000_000
    max_samples: int = 50_000_000
    n_sgd_steps: int = 2000
    sgd_batch_size: int = 16384
    lr: float = 1e-2
    optimizer: str = "adam"
    init: str = "kmeans"
    var_floor: float | str = 0.1
    save_every: int = 50_000_000
    resume: str | None = None
    eval_data_dir: str | None = None
    seed: int = 0
    device: str = "auto"
    num_workers: int = 2
    tensorboard: bool = False
    keep: int | None = None
    exchange_timeout: float = EXCHANGE_TIMEOUT
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.resume == "auto" and self.overwrite:
            raise OptionError(
                "--resume auto goes on with the fit in --output_dir and --overwrite deletes it: "
                "choose one"
            )
        if not 0 < self.lr <= MAX_LR:
            raise OptionError(f"--lr is {self.lr}, but must be above 0 and at most {MAX_LR:g}")
        if not 1 <= self.exchange_timeout <= MEETING_TIMEOUT:
            raise OptionError(
                f"--exchange_timeout is {self.exchange_timeout}, but must be from 1 to "
                f"{MEETING_TIMEOUT:.0f} s"
            )
        if self.keep is not None and self.keep < 1:
            raise OptionError(f"--keep is {self.keep}, but must be 1 or more")
        for name, known in (("optimizer", [*OPTIMIZERS]), ("init", [*INITS])):
            if getattr(self, name) not in known:
                raise OptionError(f"--{name} is {getattr(self, name)}, not one of {known}")
        try:
            object.__setattr__(self, "var_floor", parse_var_floor(self.var_floor))
        except ValueError as error:
            raise OptionError(f"--var_floor: {error}") from None

    def schedule(self, store: FeatureStore) -> Schedule:
        """The rules of the fit on the frames of `store`.

        Raises:
            GmmpipeError: there are fewer frames than components.
        """
        update_frames = min(self.batch_update_size, self.max_samples, store.num_frames)
        first = min(update_frames, self.target_frames)
        if first < self.K:
            raise GmmpipeError(
                f"K is {self.K}, but the first update has only {first} frames (the smallest of "
                "batch_update_size, max_samples, target_frames and the frames in the stores)"
            )
        return Schedule(
            seed=self.seed,
            update_frames=update_frames,
            target_frames=self.target_frames,
            steps_per_update=self.n_sgd_steps,
            frames_per_step=self.sgd_batch_size,
        )

    def identity(self, store: FeatureStore, schedule: Schedule) -> dict[str, Any]:
        """What a fit cannot be resumed with another value of."""
        return {
            "K": self.K,
            "dim": store.dim,
            "seed": self.seed,
            "stores": store.digests,
            "batch_update_size": schedule.update_frames,
            "n_sgd_steps": self.n_sgd_steps,
            "sgd_batch_size": self.sgd_batch_size,
            "lr": self.lr,
            "optimizer": self.optimizer,
            "init": self.init,
            "var_floor": self.var_floor,
        }

    def to_yaml(self) -> str:
        """The options as a file that ``--config`` accepts."""
        values = {**asdict(self), "output_dir": str(self.output_dir)}
        # How this run was started says nothing about the fit, and would be wrong for the next.
        for name in ("resume", "overwrite"):
            del values[name]
        return yaml.safe_dump(values, sort_keys=False)

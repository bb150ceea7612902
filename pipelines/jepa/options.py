"""What the recipe is asked to do."""

import hashlib
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from gmmpipe.errors import CheckpointError, OptionError
from gmmpipe.store.feature_store import FeatureStore
from pipelines.jepa.model import HOP_SAMPLES, Sizes

NOT_IDENTITY = (
    *("data_dir", "gmm_path", "output_dir", "num_workers", "save_every"),
    *("keep", "resume", "overwrite", "device"),
)
"""What a run may be gone on with other values of; the first two by their contents."""


@dataclass(frozen=True)
class JEPAOptions:
    """The command's options, under their names; its help explains each one."""

    data_dir: str
    gmm_path: Path
    output_dir: Path
    max_steps: int = 1000
    batch_size: int = 16
    lr: float = 1e-3
    ema_decay: float = 0.996
    cluster_weight_start: float = 1.0
    cluster_weight_end: float = 0.01
    cluster_temperature: float = 1.0
    input: str = "log_mel"
    dim: int = 128
    layers: int = 4
    heads: int = 4
    predictor_layers: int = 2
    conv_dim: int = 64
    log_every: int = 20
    save_every: int = 200
    seed: int = 0
    num_workers: int = 1
    device: str = "auto"
    keep: int | None = None
    resume: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.resume == "auto" and self.overwrite:
            raise OptionError(
                "--resume auto goes on with a run and --overwrite replaces it: choose one"
            )
        if self.keep is not None and self.keep < 1:
            raise OptionError(f"--keep is {self.keep}, but must be 1 or more")
        numbers = (
            *("lr", "ema_decay"),
            *("cluster_weight_start", "cluster_weight_end", "cluster_temperature"),
        )
        for name in numbers:
            if not math.isfinite(getattr(self, name)):
                raise OptionError(f"--{name} is {getattr(self, name)}, but must be finite")
        if self.dim % (2 * self.heads):
            raise OptionError(
                f"--dim is {self.dim}, but must be a multiple of twice --heads {self.heads}: the "
                "predictor has as many heads, and half the width"
            )

    def sizes(self, store: FeatureStore, num_components: int) -> Sizes:
        """Sizes of the model.

        Raises:
            OptionError: a waveform is to be the input, and the store's frames have another hop
                than the convolutions.
        """
        hop = store.features.hop_length
        if self.input == "wav" and hop != HOP_SAMPLES:
            raise OptionError(
                f"--input wav makes a frame every {HOP_SAMPLES} samples, but the store every {hop}"
            )
        names = ("input", "dim", "layers", "heads", "predictor_layers", "conv_dim")
        chosen = {name: getattr(self, name) for name in names}
        return Sizes(num_mels=store.dim, num_components=num_components, **chosen)

    def identity(self, store: FeatureStore) -> dict[str, Any]:
        """What a run cannot be resumed with another value of.

        Raises:
            CheckpointError: the mixture's file cannot be read.
        """
        try:
            with open(self.gmm_path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"{self.gmm_path}: {error.strerror}") from error
        chosen = {name: value for name, value in asdict(self).items() if name not in NOT_IDENTITY}
        return {**chosen, "stores": store.digests, "gmm_sha256": digest}

    def to_yaml(self) -> str:
        """The options as a file that ``--config`` accepts."""
        values = {**asdict(self), "output_dir": str(self.output_dir)}
        values["gmm_path"] = str(self.gmm_path)
        for name in ("resume", "overwrite"):
            del values[name]
        return yaml.safe_dump(values, sort_keys=False)

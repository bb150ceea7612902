"""What the recipe is asked to do."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gmmpipe.errors import CheckpointError, OptionError
from gmmpipe.features.spec import ComputedSpec, FrameSpec
from gmmpipe.files import listed_paths
from gmmpipe.option_types import Folder, Paths
from gmmpipe.options import option
from gmmpipe.run.run_files import RunOptions
from gmmpipe.run.timeouts import EXCHANGE_TIMEOUT, MEETING_TIMEOUT
from gmmpipe.store.names import STORE_FILE

if TYPE_CHECKING:
    from gmmpipe.jepa import Augmentation
    from gmmpipe.store.feature_store import FeatureStore
    from pipelines.jepa.model import Sizes

BATCH_SIZE = 16
"""Utterances of a step, where no size is given."""
NOT_IDENTITY = (
    *("data_dir", "gmm_path", "labels", "labels_of"),
    *("output_dir", "num_workers", "save_every"),
    *("keep", "resume", "overwrite", "device", "exchange_timeout"),
)
"""Options that may change when a run goes on. The first line is compared by contents."""


@dataclass(frozen=True)
class JEPAOptions(RunOptions):
    """The options of train.py, under their names; its help explains each one.

    Raises:
        OptionError: a value is not allowed, or two contradict each other.
    """

    data_dir: Paths = option(help="Comma-separated feature stores with equal fingerprints.")
    output_dir: Folder = option(help="Where jepa.pt, checkpoints, metrics.tsv and options.yaml go.")
    gmm_path: Path | None = option(
        None, help="The mixture whose posteriors are the targets; or else --labels."
    )
    labels: Paths | None = option(
        None,
        help="Label stores, whose top k, renormalised to sum to 1, are the targets instead.",
    )
    labels_of: Paths | None = option(
        None,
        help="The feature stores that --labels are of, where those are not --data_dir: other "
        "frames of the same utterances.",
    )
    max_steps: int = option(1000, help="Steps of the whole run; its schedules end there.", low=1)
    batch_size: int | None = option(
        None, help="Utterances of a step, over all ranks.", shown="16", low=1
    )
    max_seconds: float | None = option(
        None,
        help="Instead of --batch_size: seconds of a step, over all ranks and with its padding.",
        shown="none",
        above=0,
    )
    lr: float = option(1e-3, help="AdamW's highest rate, between a warm-up and a cosine.", above=0)
    ema_decay: float = option(
        0.996, help="Share of the target encoder that is kept at each step.", low=0, high=1
    )
    cluster_weight_start: float = option(
        1.0, help="Weight of the cluster loss in the first step.", low=0
    )
    cluster_weight_end: float = option(
        0.01, help="Weight in the last step; a straight line leads there.", low=0
    )
    cluster_temperature: float = option(
        1.0, help="Temperature of the mixture's posteriors.", above=0
    )
    input: Literal["features", "wav", "log_mel"] = option(
        "features",
        help="What the encoder hears: the store's frames, of any kind, or the waveform. log_mel is "
        "an earlier name of features.",
    )
    mix_prob: float = option(
        0.0,
        help="Share of the waveforms that a piece of another one is mixed into.",
        low=0,
        high=1,
    )
    noise_prob: float = option(
        0.0, help="Share of the waveforms that get white noise.", low=0, high=1
    )
    dim: int = option(128, help="Width of the encoder; the predictor's is half of it.", low=1)
    layers: int = option(4, help="Layers of the encoder.", low=1)
    heads: int = option(4, help="Attention heads of a layer.", low=1)
    predictor_layers: int = option(2, help="Layers of the predictor.", low=1)
    conv_dim: int = option(64, help="Channels of the convolutions of --input wav.", low=1)
    log_every: int = option(20, help="Steps from one row of metrics.tsv to the next.", low=1)
    save_every: int = option(200, help="Steps from one checkpoint to the next.", low=1)
    seed: int = option(
        0, help="Decides the first parameters, the order, the masks and the evaluation sample."
    )
    num_workers: int = option(1, help="Loader processes per rank.", low=0)
    exchange_timeout: float = option(
        EXCHANGE_TIMEOUT,
        help="Seconds that a rank waits for the others before it stops, with a checkpoint.",
        low=1,
        high=MEETING_TIMEOUT,
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", help="auto is cuda where there is one, else cpu."
    )
    keep: int | None = option(
        None, help="How many checkpoints to keep, the furthest ones.", shown="all", low=1
    )
    resume: str | None = option(
        None,
        help="A checkpoint, 'auto' (the furthest in --output_dir) or 'none'.",
        shown="none",
        this_run_only=True,
    )
    overwrite: bool = option(
        False,
        help="Replace the run in --output_dir as soon as the new run has done a step.",
        this_run_only=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input == "log_mel":
            object.__setattr__(self, "input", "features")
        if (self.gmm_path is None) == (self.labels is None):
            raise OptionError("give either --gmm_path or --labels: the targets are of one of them")
        if self.labels_of is not None and self.labels is None:
            raise OptionError("--labels_of says what --labels are of, but there are none")
        if self.labels is not None and self.cluster_temperature != 1:
            raise OptionError("--cluster_temperature is of a mixture's posteriors, not of --labels")
        if self.batch_size and self.max_seconds:
            raise OptionError("--batch_size and --max_seconds are given, but a step has one size")
        if not self.max_seconds and not self.batch_size:
            object.__setattr__(self, "batch_size", BATCH_SIZE)
        if self.augmentation and self.input != "wav":
            raise OptionError("--mix_prob and --noise_prob are of the waveforms of --input wav")
        if self.dim % (2 * self.heads):
            raise OptionError(
                f"--dim is {self.dim}, but must be a multiple of twice --heads {self.heads}: the "
                "predictor has as many heads, and half the width"
            )

    @property
    def augmentation(self) -> "Augmentation | None":
        """What is added to the waveforms.

        Raises:
            OptionError: the shares are together above 1.
        """
        if not self.mix_prob and not self.noise_prob:
            return None
        from gmmpipe.jepa import Augmentation

        return Augmentation(mix_prob=self.mix_prob, noise_prob=self.noise_prob)

    def sizes(self, store: "FeatureStore", num_components: int) -> "Sizes":
        """Sizes of the model.

        Raises:
            OptionError: a waveform is to be the input, and the store's frames are not computed
                from audio, or have another hop than the convolutions.
        """
        from pipelines.jepa.model import Sizes

        if self.input == "wav":
            _check_hop(store.features)
        names = ("input", "dim", "layers", "heads", "predictor_layers", "conv_dim")
        chosen = {name: getattr(self, name) for name in names}
        return Sizes(input_dim=store.dim, num_components=num_components, **chosen)

    def identity(self, store: "FeatureStore") -> dict[str, Any]:
        """The values that must be the same for a run to be resumed.

        Raises:
            CheckpointError: the mixture or the label store cannot be read.
        """
        chosen = {name: value for name, value in asdict(self).items() if name not in NOT_IDENTITY}
        identity = {**chosen, "stores": store.digests}
        if self.labels is not None:
            # A label store's document has the digest of every shard of it.
            documents = [folder / STORE_FILE for folder in listed_paths(self.labels)]
            return {**identity, "labels_sha256": [_sha256(path) for path in documents]}
        assert self.gmm_path is not None
        return {**identity, "gmm_sha256": _sha256(self.gmm_path)}


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error


def _check_hop(features: FrameSpec) -> None:
    from pipelines.jepa.model import HOP_SAMPLES

    if not isinstance(features, ComputedSpec):
        raise OptionError(f"--input wav needs audio, and frames of kind {features.kind} have none")
    if features.hop_length != HOP_SAMPLES:
        raise OptionError(
            f"--input wav makes a frame every {HOP_SAMPLES} samples, but the store every "
            f"{features.hop_length}"
        )

"""What `gmmpipe fit` is asked to do."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from gmmpipe.errors import GmmpipeError, OptionError
from gmmpipe.fitting.schedule import Schedule
from gmmpipe.mixture.var_floor import parse_var_floor
from gmmpipe.option_types import Folder, Frames, Notation, Paths
from gmmpipe.options import option
from gmmpipe.run.run_files import RunOptions
from gmmpipe.run.timeouts import EXCHANGE_TIMEOUT, MEETING_TIMEOUT
from gmmpipe.tracking.tracker import parse_kinds

if TYPE_CHECKING:
    from gmmpipe.store.feature_store import FeatureStore

TrackerKinds = Annotated[str, Notation("names", parse_kinds, is_list=True)]
VarFloor = Annotated[float | str, Notation("number|percent%", parse_var_floor)]

_OF_MIXTURES = ("optimizer", "lr", "var_floor", "kernel")
MAX_LR = 1e30
"""Beyond it, a step of Adam is beyond float32."""


@dataclass(frozen=True)
class FitOptions(RunOptions):
    """The options of ``gmmpipe fit``, under their names; its help explains each one.

    Raises:
        OptionError: a value is not allowed, or two contradict each other.
    """

    data_dir: Paths = option(help="Comma-separated feature stores with equal fingerprints.")
    output_dir: Folder = option(
        help="Where gmm.pt, checkpoints, metrics.tsv and options.yaml go.",
    )
    K: int = option(1024, help="Components.", low=1)
    target_frames: Frames = option(
        100_000_000, help="Frames to process, over as many epochs as that takes."
    )
    batch_update_size: Frames = option(5_000_000, help="Frames of an update cycle, over all ranks.")
    max_samples: Frames = option(50_000_000, help="Upper bound of --batch_update_size.")
    n_sgd_steps: int = option(
        2000, help="SGD steps of an update; a shorter last update takes fewer.", low=1
    )
    sgd_batch_size: Frames = option(16384, help="Frames of a step, over all ranks.")
    lr: float = option(
        1e-2,
        help="Adam's learning rate; within each update it falls to a hundredth, along a cosine.",
        above=0,
    )
    optimizer: Literal["adam", "em"] = option(
        "adam", help="Adam on the exact gradient, or stepwise EM."
    )
    init: Literal["kmeans", "kmeans++", "random"] = option(
        "kmeans",
        help="Where the components start: k-means++, Lloyd and EM passes; k-means++ alone; or "
        "random frames.",
    )
    var_floor: VarFloor = option(
        0.1,
        help="Lower bound of a variance: a number, or per cent of each dimension's own variance in "
        "the seeding sample (1%).",
    )
    model: Literal["diag", "kmeans"] = option(
        "diag",
        help="diag: a diagonal Gaussian mixture; or kmeans: hard assignments, variances of 1 and "
        "equal weights, fitted by mini-batch Lloyd (without --optimizer, --lr, --var_floor "
        "and --kernel of their own).",
    )
    save_every: Frames = option(
        50_000_000, help="Checkpoint after each update that crosses a multiple of this."
    )
    resume: str | None = option(
        None,
        help="A checkpoint, 'auto' (the furthest in --output_dir) or 'none'.",
        shown="none",
        this_run_only=True,
    )
    eval_data_dir: Paths | None = option(
        None,
        help="A held-out store; adds eval_nll, on its first 200,000 frames, to the metrics.",
    )
    seed: int = option(0, help="Decides every random draw.")
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", help="auto is cuda where there is one, else cpu."
    )
    kernel: Literal["auto", "all_pairs", "likely_pairs", "screened_pairs", "triton"] = option(
        "auto",
        help="What sums a step's statistics: matrix products of all pairs of a frame and a "
        "component; of the likely pairs alone (CPU), which a product in bfloat16 may screen; or a "
        "fused kernel (GPU). auto is screened_pairs, or likely_pairs without instructions for "
        "bfloat16, on a CPU with K of 256 and more, else all_pairs.",
    )
    matmul: Literal["highest", "tf32"] = option(
        "highest",
        help="Precision of a step's matrix products on a GPU: float32's, or TF32's 10 bits. "
        "Metrics and all that is returned do without TF32.",
    )
    num_workers: int = option(2, help="Reader threads per rank.", low=1)
    tensorboard: bool = option(False, help="The same as --track tensorboard.")
    track: TrackerKinds | None = option(
        None,
        help="Where the metrics also go, and the report's pictures at the end: tensorboard, wandb, "
        "trackio, separated by commas (each an extra of that name).",
    )
    keep: int | None = option(
        None, help="How many checkpoints to keep, the furthest ones.", shown="all", low=1
    )
    exchange_timeout: float = option(
        EXCHANGE_TIMEOUT,
        help="Seconds that a rank waits for the others in a step before it stops, with a "
        "checkpoint of its last whole step.",
        low=1,
        high=MEETING_TIMEOUT,
    )
    overwrite: bool = option(
        False,
        help="Replace the fit in --output_dir as soon as the new fit has a checkpoint.",
        this_run_only=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr > MAX_LR:
            raise OptionError(f"--lr is {self.lr}, but must be at most {MAX_LR:g}")
        if self.model == "kmeans":
            self._refuse_without_effect()

    def _refuse_without_effect(self) -> None:
        """Raise OptionError where an option of mixtures was given, and the model is k-means."""
        for one in fields(self):
            given = getattr(self, one.name)
            if one.name in _OF_MIXTURES and given != one.default:
                raise OptionError(
                    f"--{one.name} {given} has no meaning with --model kmeans, which moves centres "
                    "by mini-batch Lloyd under variances of 1"
                )

    @property
    def trackers(self) -> list[str]:
        """Where the metrics also go, each place once."""
        asked = ["tensorboard"] * self.tensorboard + (self.track.split(",") if self.track else [])
        return [*dict.fromkeys(asked)]

    @property
    def kernel_kind(self) -> str | None:
        """The kernel that is asked for; None for the fastest."""
        return None if self.kernel == "auto" else self.kernel

    def schedule(self, store: "FeatureStore") -> Schedule:
        """The schedule of the fit on the frames of `store`.

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

    def identity(self, store: "FeatureStore", schedule: Schedule) -> dict[str, Any]:
        """The values that must be the same for a fit to be resumed."""
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
            "model": self.model,
        }

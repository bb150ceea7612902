"""What `gmmpipe featurize` is asked to do."""

from dataclasses import dataclass, field
from pathlib import Path

from gmmpipe.errors import ManifestError, OptionError
from gmmpipe.features.log_mel_spec import LogMelSpec
from gmmpipe.features.spec import ComputedSpec
from gmmpipe.sources.line_fields import LONGEST_SECONDS
from gmmpipe.store.names import Format
from gmmpipe.store.schema import Dtype, LongAudio, PlanOptions, StoreAudio


@dataclass(frozen=True)
class FeaturizeOptions:
    """The command's options, under their names; its help explains each one."""

    data_dir: str
    output_dir: Path
    base_path: Path | None = None
    features: ComputedSpec = field(default_factory=LogMelSpec)
    max_seconds: float = 15.0
    long_audio: LongAudio = "crop"
    format: Format = "tar"
    dtype: Dtype = "float16"
    store_audio: StoreAudio = "none"
    utterances_per_shard: int = 1024
    shuffle: bool = True
    seed: int = 0
    num_workers: int | None = None
    task_index: int | None = None
    num_tasks: int | None = None
    max_reject_fraction: float = 0.1
    overwrite: bool = False
    retry_rejected: bool = False
    executor: str = "local"
    dask_scheduler: str | None = None

    def __post_init__(self) -> None:
        if self.dask_scheduler and self.executor != "dask":
            raise OptionError("--dask_scheduler needs --executor dask")
        if self.retry_rejected and (self.overwrite or self.num_tasks):
            raise OptionError("--retry_rejected goes with neither --overwrite nor slices")
        if (self.task_index is None) != (self.num_tasks is None):
            raise OptionError("--task_index and --num_tasks belong together")
        if self.task_index is not None and self.num_tasks is not None:
            if not 0 <= self.task_index < self.num_tasks:
                raise OptionError(
                    f"--task_index is {self.task_index}, outside 0 to {self.num_tasks - 1}"
                )
            if self.overwrite:
                raise OptionError("--overwrite would delete what the other slices have made")
        if not 0 <= self.max_reject_fraction <= 1:
            raise OptionError(f"max_reject_fraction is {self.max_reject_fraction}, not in 0 to 1")
        shortest = self.features.min_samples / self.features.sample_rate
        if not shortest <= self.max_seconds <= LONGEST_SECONDS:
            raise OptionError(
                f"max_seconds is {self.max_seconds}, but a frame needs {shortest:.4f} s"
            )

    def plan_options(self, manifest_sha256: str, lines: int) -> PlanOptions:
        """What decides the store's bytes beyond the features.

        Args:
            manifest_sha256: digest of the manifests.
            lines: how many of their lines are not blank.

        Raises:
            ManifestError: there are none.
        """
        if lines == 0:
            raise ManifestError(f"{self.data_dir}: no usable audio: the manifests hold no lines")
        return PlanOptions(
            manifest_sha256=manifest_sha256,
            lines=lines,
            max_seconds=self.max_seconds,
            utterances_per_shard=self.utterances_per_shard,
            shuffle=self.shuffle,
            seed=self.seed,
            dtype=self.dtype,
            format=self.format,
            long_audio=self.long_audio,
            store_audio=self.store_audio,
        )

"""What `gmmpipe featurize` is asked to do."""

from dataclasses import dataclass
from typing import Literal

from gmmpipe.errors import ManifestError, OptionError
from gmmpipe.features.kinds import computed_kinds
from gmmpipe.features.spec import ComputedSpec
from gmmpipe.option_types import Folder, Paths
from gmmpipe.options import Options, option, variant
from gmmpipe.sources.line_fields import LONGEST_SECONDS
from gmmpipe.sources.options import SOURCE_KIND_HELP, SourceKindName
from gmmpipe.sources.registry import AUTO
from gmmpipe.store.names import Format
from gmmpipe.store.plans import Dtype, LongAudio, PlanOptions, ShuffleBy, StoreAudio


@dataclass(frozen=True)
class FeaturizeOptions(Options):
    """The options of ``gmmpipe featurize``, under their names; its help explains each one.

    `features` holds those that define a frame.

    Raises:
        OptionError: a value is not allowed, or two contradict each other.
    """

    data_dir: Paths = option(
        help="Comma-separated sources: manifests (.jsonl, .ndjson, .json, also .gz), folders of "
        "them, or quoted patterns of paths."
    )
    output_dir: Folder = option(help="The feature store to write.")
    base_path: Folder | None = option(
        None, help="Prefix of relative audio paths.", shown="their manifest's folder"
    )
    source_kind: SourceKindName = option(AUTO, help=SOURCE_KIND_HELP)
    features: ComputedSpec = variant(computed_kinds, help="The kind of frames.")
    max_seconds: float = option(15.0, help="The longest utterance that is kept whole.", above=0)
    long_audio: LongAudio = option(
        "crop",
        help="What to do with a longer utterance: keep a crop of --max_seconds, split all of it "
        "into consecutive windows, or reject it.",
    )
    format: Format = option("tar", help="A shard is a WebDataset tar, or a Zarr v3 group.")
    dtype: Dtype = option("float16", help="The dtype of the stored frames.")
    store_audio: StoreAudio = option(
        "none",
        help="Keep the waveform beside the features: exact where the source is 16-bit mono at "
        "--sample_rate, else 24-bit.",
    )
    utterances_per_shard: int = option(
        1024, help="Utterances in a shard; with --long_audio split, windows.", low=1
    )
    shuffle: bool = option(
        True, help="Spread the utterances over the shards at random, or keep manifest order."
    )
    shuffle_by: Literal["auto", "utterances", "recordings"] = option(
        AUTO,
        help="What is spread: single utterances, or whole recordings, each with its utterances "
        "together in time order, so that it is decoded once. auto: utterances, but recordings "
        "where a source can only be read from front to end. With --no_shuffle, recordings only "
        "decides how a shard is read.",
    )
    seed: int = option(0, help="Decides the shuffle and where crops lie.")
    num_workers: int | None = option(None, help="Local processes.", shown="all cores", low=1)
    executor: Literal["local", "dask"] = option("local", help="Where the shards are made.")
    dask_scheduler: str | None = option(
        None,
        help="A Dask scheduler, as tcp://host:port.",
        shown="a cluster on this machine",
        metavar="ADDRESS",
    )
    task_index: int | None = option(
        None, help="Do only this slice of the shards, for array jobs; from 0."
    )
    num_tasks: int | None = option(None, help="How many slices there are.", low=1)
    max_reject_fraction: float = option(
        0.1,
        help="The largest share of the lines that may be rejected; beyond it the store is not "
        "finished.",
        low=0,
        high=1,
    )
    retry_rejected: bool = option(False, help="Make the shards that hold rejects again.")
    overwrite: bool = option(False, help="Replace the store in --output_dir.")

    def __post_init__(self) -> None:
        super().__post_init__()
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
        shortest = self.features.min_samples / self.features.sample_rate
        if not shortest <= self.max_seconds <= LONGEST_SECONDS:
            raise OptionError(
                f"--max_seconds is {self.max_seconds:g}, but must be from {shortest:.4f}, the "
                f"length of one frame, to {LONGEST_SECONDS:g}"
            )

    def chosen_shuffle_by(self, is_streamed: bool) -> ShuffleBy:
        """What ``--shuffle_by`` comes to.

        Args:
            is_streamed: whether a source can only be read from front to end.
        """
        if self.shuffle_by == "auto":
            return "recordings" if is_streamed else "utterances"
        return self.shuffle_by

    def refuse_empty(self, lines: int) -> None:
        """Raise ManifestError where the manifests have no line that is not blank."""
        if lines == 0:
            raise ManifestError(f"{self.data_dir}: no usable audio: the manifests hold no lines")

    def plan_options(
        self, manifest_sha256: str, lines: int, *, is_streamed: bool = False
    ) -> PlanOptions:
        """What decides the store's bytes beyond the features.

        Args:
            manifest_sha256: digest of the manifests.
            lines: how many of their lines are not blank.
            is_streamed: whether a source can only be read from front to end.

        Raises:
            ManifestError: there are none.
        """
        self.refuse_empty(lines)
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
            shuffle_by=self.chosen_shuffle_by(is_streamed),
        )

"""What decides a feature store's bytes beyond its frames: the field ``plan`` of its documents."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from gmmpipe.store.names import Format

DTYPES = ("float16", "float32")
Dtype = Literal["float16", "float32"]
LongAudio = Literal["crop", "split", "skip"]
StoreAudio = Literal["none", "flac"]
ShuffleBy = Literal["utterances", "recordings"]


@dataclass(frozen=True)
class PlanOptions:
    """The options, and the input, that decide a store's bytes beyond the features themselves.

    `windows_sha256` is of the number of windows of each line, where long audio is split. The
    numbers may come from the files' headers, and a plan that is made again must find the same ones.
    `shuffle_by` is in the documents of stores by recordings alone: earlier versions knew no others
    than those by utterances, and those keep their bytes.
    """

    manifest_sha256: str
    lines: int
    max_seconds: float
    utterances_per_shard: int
    shuffle: bool
    seed: int
    dtype: Dtype
    format: Format = "tar"
    long_audio: LongAudio = "crop"
    store_audio: StoreAudio = "none"
    windows_sha256: str = ""
    shuffle_by: ShuffleBy = "utterances"

    def to_json(self) -> dict[str, Any]:
        """Its fields of ``store.json`` and ``plan.npz``."""
        values = asdict(self)
        if self.shuffle_by == "utterances":
            del values["shuffle_by"]
        return values


@dataclass(frozen=True)
class WriterPlan:
    """The options of a `FeatureStoreWriter` that decide a store's bytes beyond the frames."""

    utterances_per_shard: int
    dtype: Dtype
    format: Format

    def to_json(self) -> dict[str, Any]:
        """Its fields of ``store.json``."""
        return asdict(self)


@dataclass(frozen=True)
class ImportPlan:
    """The options, and the source, that decide an imported store's bytes beyond the frames."""

    source_sha256: str
    lines: int
    utterances_per_shard: int
    shuffle: bool
    seed: int
    dtype: Dtype
    format: Format

    def to_json(self) -> dict[str, Any]:
        """Its fields of ``store.json``."""
        return asdict(self)

"""Reading every byte of a store: are the shards still what was recorded?"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from gmmpipe.errors import StoreError
from gmmpipe.store import shard_files
from gmmpipe.store.feature_store import FeatureStore, Shard
from gmmpipe.store.label_schema import ARRAY_DTYPES, LABELS, LabelPlan
from gmmpipe.store.label_shard import read_arrays
from gmmpipe.store.label_store import LabelReader, LabelShard, LabelStore
from gmmpipe.store.schema import ShardRow

_OTHER_SAMPLES = "its samples are not those of its index"


def verify(store: FeatureStore | LabelStore) -> Iterator[tuple[Path, str]]:
    """Check each shard's bytes against its SHA-256, and decode each of its samples.

    Yields:
        Each shard's path, with what is wrong with it, or an empty string.
    """
    if isinstance(store, FeatureStore):
        for shard in store.shards:
            decode = partial(_decode_features, shard, store.dim)
            yield shard.path, _fault(shard.path, shard.row, decode)
    else:
        for labels in store.shards:
            decode = partial(_decode_labels, labels, store.plan)
            yield labels.path, _fault(labels.path, labels.row, decode)


def _fault(path: Path, row: ShardRow, decode: Callable[[], str]) -> str:
    try:
        size, sha256 = shard_files.digest(path)
        if size != row.bytes:
            return f"{size} bytes where {row.bytes} are recorded"
        if sha256 != row.sha256:
            return "its SHA-256 is not the recorded one"
        return decode()
    except FileNotFoundError:
        return "missing"
    except (StoreError, OSError, KeyError) as error:
        return str(error)


def _decode_features(shard: Shard, dim: int) -> str:
    index = shard.sidecar().index
    frames = torch.empty(shard.row.frames, dim, dtype=shard.dtype)
    shard.read_rows(0, shard.row.frames, frames)
    found = [(key, values["num_frames"]) for key, values in shard_files.read_metadata(shard.path)]
    expected = list(zip(index.keys, index.num_frames.tolist(), strict=True))
    return "" if found == expected else _OTHER_SAMPLES


def _decode_labels(shard: LabelShard, plan: LabelPlan) -> str:
    reader = LabelReader(shard, plan)
    reader.read_arrays(0, shard.row.frames)
    expected = [
        (f"{key}.{name}.npy", (length,) if name == LABELS else (length, width), ARRAY_DTYPES[name])
        for key, length in zip(reader.index.keys, reader.index.num_frames.tolist(), strict=True)
        for name, width in plan.widths.items()
    ]
    found = [
        (name, array.shape, torch.from_numpy(array).dtype)
        for name, array in read_arrays(shard.path)
    ]
    return "" if found == expected else _OTHER_SAMPLES

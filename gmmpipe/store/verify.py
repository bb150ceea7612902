"""Reading every byte of a store: are the shards still what was recorded?"""

from collections.abc import Iterator

import torch

from gmmpipe.errors import StoreError
from gmmpipe.store import shard_files
from gmmpipe.store.feature_store import FeatureStore, Shard


def verify(store: FeatureStore) -> Iterator[tuple[Shard, str]]:
    """Check each shard's bytes against its SHA-256, and decode each of its samples.

    Yields:
        Each shard, with what is wrong with it, or an empty string.
    """
    for shard in store.shards:
        yield shard, _fault(shard, store.dim)


def _fault(shard: Shard, dim: int) -> str:
    try:
        size, sha256 = shard_files.digest(shard.path)
        if size != shard.row.bytes:
            return f"{size} bytes where {shard.row.bytes} are recorded"
        if sha256 != shard.row.sha256:
            return "its SHA-256 is not the recorded one"
        index = shard.sidecar().index
        frames = torch.empty(shard.row.frames, dim, dtype=shard.dtype)
        shard.read_rows(0, shard.row.frames, frames)
        found = [
            (key, values["num_frames"]) for key, values in shard_files.read_metadata(shard.path)
        ]
        if found != list(zip(index.keys, index.num_frames.tolist(), strict=True)):
            return "its samples are not those of its index"
    except FileNotFoundError:
        return "missing"
    except (StoreError, OSError, KeyError) as error:
        return str(error)
    return ""

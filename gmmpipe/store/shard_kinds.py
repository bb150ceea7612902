"""The kinds of shard. A new one is a module with a `ShardFile`, its name here and its suffix."""

from pathlib import Path

from gmmpipe.store.names import SHARD_SUFFIXES
from gmmpipe.store.shard_file import ShardFile
from gmmpipe.store.tar_shard import TarShard
from gmmpipe.store.zarr_shard import ZarrShard

SHARD_KINDS: dict[str, type[ShardFile]] = {"tar": TarShard, "zarr": ZarrShard}
"""By the value of ``--format``."""
_BY_SUFFIX = {SHARD_SUFFIXES[name]: kind for name, kind in SHARD_KINDS.items()}


def shard_file(path: Path) -> ShardFile:
    """The shard `path`, of the kind that its name says."""
    return _BY_SUFFIX[path.suffix](path)

"""The kinds of shard. A new one is a module with a `ShardFile`, its name here and its suffix."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from gmmpipe.store.columns import Column
from gmmpipe.store.names import SHARD_SUFFIXES
from gmmpipe.store.shard_file import ShardFile, ShardWriter
from gmmpipe.store.tar_shard import TarShard
from gmmpipe.store.zarr_shard import ZarrShard

SHARD_KINDS: dict[str, type[ShardFile]] = {"tar": TarShard, "zarr": ZarrShard}
"""By the value of ``--format``."""
_BY_SUFFIX = {SHARD_SUFFIXES[name]: kind for name, kind in SHARD_KINDS.items()}


def shard_file(path: Path) -> ShardFile:
    """The shard `path`, of the kind that its name says."""
    return _BY_SUFFIX[path.suffix](path)


def open_writer(
    path: Path, columns: Sequence[Column], *, has_json: bool = True
) -> AbstractContextManager[ShardWriter]:
    """A writer of the shard `path`, which appears once the block has ended without an error.

    Args:
        path: its ending says which kind of shard it is.
        columns: the arrays that each utterance has.
        has_json: whether each has metadata too, as those of a feature store have.
    """
    return shard_file(path).open_writer(columns, has_json)

"""Runs of JEPABatches on the demo store, and how they compare."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from gmmpipe.jepa import JEPABatch, JEPABatches
from helpers.results import same_bits

SIZES: dict[str, Any] = {"batch_size": 6, "window": 24, "seed": 3}
"""Ten steps an epoch in three pools, the last of them short; 56 utterances in four shards."""


def load(batches: JEPABatches, num_workers: int = 0, **options: Any) -> list[JEPABatch]:
    """All batches, as a DataLoader gives them."""
    return list(DataLoader(batches, batch_size=None, num_workers=num_workers, **options))


def assert_same(first: list[JEPABatch], second: list[JEPABatch]) -> None:
    """Two runs are the same batches, bit for bit and in the same order."""
    assert [batch.step for batch in first] == [batch.step for batch in second]
    for one, other in zip(first, second, strict=True):
        assert same_bits(vars(one), vars(other)), one.step


def rows_of(batches: list[JEPABatch]) -> Iterator[tuple[str, int, JEPABatch, int]]:
    """Key, length, batch and row of every utterance."""
    for batch in batches:
        for row, key in enumerate(batch.keys):
            yield key, int(batch.lengths[row]), batch, row

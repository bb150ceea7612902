"""``parquet``: a row an utterance, written in groups of rows of bounded size."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import OptionError
from gmmpipe.exporting.form import Labels
from gmmpipe.exporting.utterance import LabelledUtterance

GROUP_NUMBERS = 1 << 22
"""A group of rows has so many labels and posteriors, or a few more."""


def write_parquet(labels: Labels, files: Mapping[str, BinaryIO]) -> None:
    """Write ``labels.parquet``: id, num_frames, labels, and topk_ids and topk_probs if there.

    Raises:
        OptionError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise OptionError(
            '--format parquet needs pyarrow: pip install "gmmpipe[parquet]"'
        ) from error
    fields = [
        ("id", pa.string()),
        ("num_frames", pa.int32()),
        ("labels", pa.list_(pa.uint16())),
    ]
    described: dict[str, Any] = {
        "frame_rate": labels.frame_rate,
        "num_classes": labels.num_classes,
    }
    if labels.top_k is not None:
        fields += [
            ("topk_ids", pa.list_(pa.list_(pa.uint16()))),
            ("topk_probs", pa.list_(pa.list_(pa.float32()))),
        ]
        described |= {"top_k": labels.top_k, "temperature": labels.temperature}
    schema = pa.schema(fields, metadata={name: str(value) for name, value in described.items()})
    with parquet.ParquetWriter(files["labels.parquet"], schema, compression="zstd") as writer:
        for rows in _groups(labels):
            lengths = np.array([len(row.labels) for row in rows])
            columns = [
                pa.array([row.name for row in rows], pa.string()),
                pa.array(lengths, pa.int32()),
                _lists(lengths, pa.array(np.concatenate([row.labels for row in rows]))),
            ]
            if labels.top_k is not None:
                for arrays in (
                    [row.topk_ids for row in rows],
                    [np.float32(row.topk_probs) for row in rows],
                ):
                    flat = np.concatenate([np.asarray(array).reshape(-1) for array in arrays])
                    each = np.full(lengths.sum(), labels.top_k)
                    columns.append(_lists(lengths, _lists(each, pa.array(flat))))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _groups(labels: Labels) -> Iterator[list[LabelledUtterance]]:
    rows: list[LabelledUtterance] = []
    numbers = 0
    for utterance in itertools.chain(labels.utterances.in_order(), [None]):
        if utterance is not None:
            rows.append(utterance)
            numbers += len(utterance.labels) * (1 + 2 * (labels.top_k or 0))
        if rows and (utterance is None or numbers >= GROUP_NUMBERS):
            yield rows
            rows, numbers = [], 0


def _lists(lengths: NDArray[Any], values: Any) -> Any:
    """A column of lists of so many values each."""
    import pyarrow as pa

    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)

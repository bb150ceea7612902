"""Reading ranges of frames straight from a shard's bytes, with each utterance's CRC checked."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmmpipe.errors import StoreError
from gmmpipe.files import open_regular
from gmmpipe.store.columns import Check, Column
from gmmpipe.store.shard_index import ShardIndex

_CHECKED_BYTES = 1 << 17
"""The values of neighbouring utterances are checked together, about this many bytes at once. The
check of a single utterance of 3 s takes as long as reading it."""
MAX_SAMPLE_BYTES = 1 << 30
"""The JSON or audio of an utterance has no more bytes."""
TORCH_DTYPES = {"float16": torch.float16, "float32": torch.float32, "uint16": torch.uint16}
"""The dtypes of columns, by name."""


def crc32c(data: NDArray[Any] | bytes) -> int:
    """CRC-32C (Castagnoli) of bytes, or those of a contiguous array."""
    return int(google_crc32c.value(data))


def check_extent(path: Path, index: ShardIndex, column: Column) -> None:
    """Make sure that a file holds all arrays of its index, before memory is taken for them.

    Raises:
        StoreError: it does not, or is missing.
    """
    try:
        with open(open_regular(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened: {error.strerror}") from error
    ends = index.byte_offset + index.num_frames * column.frame_bytes
    beyond = np.flatnonzero(ends > size)
    if len(beyond):
        raise StoreError(f"{path}: truncated at utterance {index.keys[int(beyond[0])]}")


def read_frames(
    path: Path,
    index: ShardIndex,
    column: Column,
    start: int,
    stop: int,
    out: Tensor,
) -> None:
    """Copy frames [start, stop) of a shard into `out`, checking every utterance that is touched.

    Whole utterances are read straight into `out`. Utterances that an edge of the range cuts, and
    all of them where `out` has another dtype, go through a buffer of one utterance. The function is
    thread-safe. It reads plainly, because a memory map turns a truncated file into SIGBUS.

    Args:
        path: the file that holds the raw arrays.
        index: where the column's arrays lie in it.
        column: what they are.
        start, stop: frame numbers within the shard.
        out: [stop - start, width], contiguous, on the CPU.

    Raises:
        StoreError: the file is missing or truncated, an utterance's CRC-32C is another, or
            its values are not possible in this column.
    """
    dtype, check = TORCH_DTYPES[column.dtype], column.check
    first = int(np.searchsorted(index.frame_offset, start, side="right")) - 1
    last = int(np.searchsorted(index.frame_offset, stop, side="left"))
    bounds = index.frame_offset[first : last + 1].tolist()
    frames = out.numpy()  # slices of an array take a tenth of the time of a tensor's
    try:
        descriptor = open_regular(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened: {error.strerror}") from error
    unchecked: list[tuple[int, NDArray[Any]]] = []
    try:
        for utterance, (begin, end) in enumerate(pairwise(bounds), first):
            low, high = max(begin, start), min(end, stop)
            target = frames[low - start : high - start]
            if (low, high) == (begin, end) and out.dtype == dtype:
                _read_utterance(descriptor, target, path, index, utterance)
                unchecked.append((utterance, target))
                read_from = bounds[unchecked[0][0] - first]
                together = frames[read_from - start : high - start]
                if together.nbytes >= _CHECKED_BYTES:
                    _check(together, unchecked, path, index, check)
                    unchecked = []
            else:
                whole = torch.empty(end - begin, out.shape[1], dtype=dtype)
                _read_utterance(descriptor, whole.numpy(), path, index, utterance)
                _check(whole.numpy(), [(utterance, whole.numpy())], path, index, check)
                torch.from_numpy(target).copy_(whole[low - begin : high - begin])
        if unchecked:
            _check(together, unchecked, path, index, check)
    finally:
        os.close(descriptor)


def _check(
    together: NDArray[Any],
    parts: list[tuple[int, NDArray[Any]]],
    path: Path,
    index: ShardIndex,
    check: Check,
) -> None:
    """Check the values of utterances that lie side by side; StoreError names a bad one."""
    if check(together):
        for utterance, values in parts:
            if fault := check(values):
                raise StoreError(f"{path}: utterance {index.keys[utterance]} {fault}")


def read_bytes(path: Path, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file, unchecked.

    Raises:
        StoreError: the file is missing or unreadable, or has no such bytes.
    """
    try:
        with open(open_regular(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 <= start <= stop <= min(size, start + MAX_SAMPLE_BYTES):
                raise StoreError(f"{path}: has no bytes {start} to {stop}: damaged or truncated")
            file.seek(start)
            return file.read(stop - start)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error


def _read_utterance(
    descriptor: int, array: NDArray[Any], path: Path, index: ShardIndex, utterance: int
) -> None:
    buffer = array.view(np.uint8).reshape(-1)
    done = 0
    try:
        while done < len(buffer):
            offset = int(index.byte_offset[utterance]) + done
            count = os.preadv(descriptor, [buffer[done:].data], offset)
            if count == 0:
                raise StoreError(f"{path}: truncated at utterance {index.keys[utterance]}")
            done += count
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    if crc32c(buffer) != index.crc32c[utterance]:
        raise StoreError(
            f"{path}: utterance {index.keys[utterance]} is corrupt (its checksum differs)"
        )

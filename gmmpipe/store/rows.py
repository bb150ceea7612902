"""Frames straight from a shard's bytes: ranges by the index, every utterance checked by its CRC."""

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
from gmmpipe.store.shard_index import ShardIndex


def crc32c(array: NDArray[Any]) -> int:
    """CRC-32C (Castagnoli) of the bytes of a contiguous array."""
    return int(google_crc32c.value(array))


def read_rows(
    path: Path, index: ShardIndex, start: int, stop: int, out: Tensor, dtype: torch.dtype
) -> None:
    """Copy frames [start, stop) of a shard into `out`, checking every utterance that is touched.

    Whole utterances are read straight into `out`; those cut by an edge of the range, and all of
    them where `out` has another dtype, go through a buffer of one utterance. Thread-safe. Plain
    reads rather than a memory map, which would turn a truncated file into SIGBUS.

    Args:
        path: the file that holds the raw arrays.
        index: its index.
        start, stop: frame numbers within the shard.
        out: [stop - start, D], contiguous, on the CPU.
        dtype: the stored dtype.

    Raises:
        StoreError: the file is missing or truncated, or an utterance's CRC-32C is not the recorded.
    """
    first = int(np.searchsorted(index.row_offset, start, side="right")) - 1
    last = int(np.searchsorted(index.row_offset, stop, side="left"))
    bounds = index.row_offset[first : last + 1].tolist()
    rows = out.numpy()  # slices of an array take a tenth of the time of a tensor's
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        for utterance, (begin, end) in enumerate(pairwise(bounds), first):
            low, high = max(begin, start), min(end, stop)
            target = rows[low - start : high - start]
            if (low, high) == (begin, end) and out.dtype == dtype:
                _read_utterance(descriptor, target, path, index, utterance)
            else:
                whole = torch.empty(end - begin, out.shape[1], dtype=dtype)
                _read_utterance(descriptor, whole.numpy(), path, index, utterance)
                torch.from_numpy(target).copy_(whole[low - begin : high - begin])
    finally:
        os.close(descriptor)


def read_bytes(path: Path, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file, unchecked.

    Raises:
        StoreError: the file is missing or unreadable, or has no such bytes.
    """
    try:
        with open(path, "rb") as file:
            if not 0 <= start <= stop <= os.fstat(file.fileno()).st_size:
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

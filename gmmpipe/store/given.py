"""What a program gives to be stored: frames and metadata, checked and copied."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmmpipe.errors import StoreError
from gmmpipe.files import canonical_json
from gmmpipe.store.columns import Column


def as_stored(frames: Tensor | NDArray[Any], column: Column, where: str) -> NDArray[Any]:
    """A copy of frames [T, D] in the stored dtype.

    Args:
        frames: real numbers of any dtype, on any device.
        column: says what D and the stored dtype are.
        where: the start of an error's message.

    Raises:
        StoreError: they are of another shape, empty, not finite, or too large for the dtype.
    """
    if isinstance(frames, Tensor):
        frames = _as_array(frames, where)
    if not isinstance(frames, np.ndarray) or frames.dtype.kind not in "fiu":
        kind = frames.dtype if isinstance(frames, np.ndarray) else f"of type {type(frames)}"
        raise StoreError(
            f"{where}: frames are {kind}, but must be a Tensor or a NumPy array of real numbers"
        )
    if frames.ndim != 2 or frames.shape[1] != column.width or not len(frames):
        raise StoreError(
            f"{where}: frames of shape {list(frames.shape)}, but must be [T, {column.width}] with "
            "T of at least 1"
        )
    with np.errstate(over="ignore"):
        stored: NDArray[Any] = frames.astype(column.numpy_dtype, order="C")
    finite = np.isfinite(stored).all(1)
    if not finite.all():
        at = int(finite.argmin())
        if np.isfinite(frames[at]).all():
            largest = float(np.abs(frames[at]).max())
            raise StoreError(f"{where}: frame {at} holds {largest:g}, too large for {column.dtype}")
        raise StoreError(f"{where}: frame {at} holds values that are not finite")
    return stored


def _as_array(frames: Tensor, where: str) -> NDArray[Any]:
    """A Tensor as an array; StoreError where it is sparse or quantized, or has no data."""
    # NumPy has no bfloat16 and no float8; float32 holds all of their values.
    is_known = frames.dtype in (torch.float16, torch.float32, torch.float64)
    try:
        frames = frames.detach().cpu()
        frames = frames if is_known or not frames.is_floating_point() else frames.float()
        array: NDArray[Any] = frames.numpy(force=True)
    except (TypeError, RuntimeError) as error:
        raise StoreError(f"{where}: frames must be a dense Tensor: {error}") from error
    return array


def json_object(metadata: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """A copy of metadata as plain values; StoreError where it is no JSON object."""
    try:
        if not isinstance(metadata, Mapping | None):
            raise TypeError(f"it is a {type(metadata).__name__}")
        copy: dict[str, Any] = json.loads(canonical_json(dict(metadata or {})))
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"{where}: its metadata is no JSON object: {error}") from error
    return copy

"""Columns: the named arrays that each utterance of a store has."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Check = Callable[[NDArray[Any]], str]
"""Says what is wrong with the values of an utterance, or nothing."""
_INFINITY = {2: 0x7C00, 4: 0x7F800000}
"""The bits of infinity in float16 and float32, by size: NaN has larger ones, finite values less."""
_largest = np.maximum.reduce  # twice as fast as the method max, which calls it


@dataclass(frozen=True)
class Column:
    """An array that each utterance has: `width` numbers of each of its T frames.

    Args:
        name: as ``logmel``: of the tar member ``{key}.logmel.npy`` and of the Zarr array.
        dtype: the stored one: ``float16``, ``float32`` or ``uint16``.
        width: numbers of a frame.
        flat: whether the array is stored as [T] instead of [T, 1].
        max_bits: the largest possible value of 16 bits, as an unsigned integer; None where every
            finite value is possible.
    """

    name: str
    dtype: str
    width: int
    flat: bool = False
    max_bits: int | None = None

    def __post_init__(self) -> None:
        assert self.width == 1 or not self.flat, f"{self.name}: {self.width} numbers in [T]"

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The stored dtype, little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def frame_bytes(self) -> int:
        """Size of a stored frame."""
        return self.width * self.numpy_dtype.itemsize

    @property
    def check(self) -> Check:
        """What the values of every utterance must pass."""
        return all_finite if self.max_bits is None else partial(at_most, self.max_bits)

    def shape(self, num_frames: int) -> tuple[int, ...]:
        """The shape in which an array of so many frames is stored."""
        return (num_frames,) if self.flat else (num_frames, self.width)


def all_finite(values: NDArray[Any]) -> str:
    """A `Check` of float16 or float32: two maxima of integers, in the time of a CRC.

    As a signed integer, the bits of a positive value grow with it; as an unsigned one, those of a
    negative value are the largest. Infinity and NaN are beyond all others either way.
    """
    infinity, width = _INFINITY[values.itemsize], 8 * values.itemsize
    if not values.size:
        return ""
    positive = _largest(values.view(f"i{values.itemsize}"), axis=None)
    negative = _largest(values.view(f"u{values.itemsize}"), axis=None)
    if positive >= infinity or negative >= infinity | 1 << (width - 1):
        return "holds values that are not finite"
    return ""


def at_most(bits: int, values: NDArray[Any]) -> str:
    """A `Check` of values of 16 bits: as unsigned integers, none is beyond `bits`."""
    if values.size and values.view(np.uint16).max() > bits:
        return "holds values out of range"
    return ""

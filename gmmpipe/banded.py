"""Multiplying by a matrix that is almost all zeros, a band of columns at a time."""

from dataclasses import dataclass

import torch
from torch import Tensor

BAND_COLUMNS = 16


@dataclass(frozen=True)
class Band:
    """Some neighbouring columns of a matrix, and the span of rows outside which they are zero."""

    rows: slice
    columns: slice


def find_bands(matrix: Tensor, negligible: float = 0.0) -> list[Band]:
    """The bands of a matrix [rows, columns] whose neighbouring columns use neighbouring rows.

    Args:
        matrix: every 16 columns of it have an entry beyond `negligible`.
        negligible: entries up to this size count as zeros.
    """
    bands = []
    for start in range(0, matrix.shape[1], BAND_COLUMNS):
        columns = slice(start, min(start + BAND_COLUMNS, matrix.shape[1]))
        used = (matrix[:, columns].abs().amax(1) > negligible).nonzero()[:, 0]
        bands.append(Band(slice(int(used[0]), int(used[-1]) + 1), columns))
    return bands


def multiply(left: Tensor, matrix: Tensor, bands: list[Band]) -> Tensor:
    """``left @ matrix``, [n, columns], by one small GEMM a band.

    Args:
        left: [n, rows]; rows may overlap in memory.
        matrix: [rows, columns].
        bands: `find_bands` of it.
    """
    out = left.new_empty(len(left), matrix.shape[1])
    for band in bands:
        torch.mm(left[:, band.rows], matrix[band.rows, band.columns], out=out[:, band.columns])
    return out

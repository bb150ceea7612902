"""Resampling as torchaudio does it, without multiplying by its kernel's zeros."""

import math
from functools import lru_cache

import soxr
import torch
import torchaudio
from torch import Tensor

from gmmpipe.banded import BAND_COLUMNS, find_bands, multiply

MAX_RATIO_TERM = 1_000
"""A sinc kernel grows with the product of the reduced ratio's terms: 44101 -> 16000 takes 3 GB."""

_NEGLIGIBLE = 1e-12
"""Kernel entries below this are the rounding of a window's zero at its edge."""


def resample(samples: Tensor, rate: int, new_rate: int) -> tuple[Tensor, str]:
    """``torchaudio.functional.resample(samples, rate, new_rate)`` within 1e-6, and by what.

    Where the reduced ratio has a term above 1,000, whose kernel would be gigabytes, soxr (high
    quality) does it.

    Args:
        samples: float32 [S].
        rate, new_rate: Hz.

    Returns:
        float32 [ceil(S · new_rate / rate)], and ``none``, ``sinc`` or ``soxr``.
    """
    if rate == new_rate or len(samples) == 0:
        return samples, "none"
    divisor = math.gcd(rate, new_rate)
    before, after = rate // divisor, new_rate // divisor
    if max(before, after) > MAX_RATIO_TERM:
        return torch.from_numpy(soxr.resample(samples.numpy(), rate, new_rate)), "soxr"
    return _banded_resampler(before, after)(samples), "sinc"


class BandedResampler:
    """torchaudio's sinc resampling, a band of phases at a time.

    Every `before` input samples give `after` output samples, each phase by its row of a kernel
    that is almost all zeros: for 44.1 to 16 kHz, 35 taps of 475 count. Neighbouring phases touch
    neighbouring taps, so 16 phases are multiplied with just theirs, in one GEMM over all blocks.

    Args:
        before, after: the reduced ratio of the rates.
    """

    def __init__(self, before: int, after: int) -> None:
        # The default would build the kernel in float64; float32 gives the functional's own.
        reference = torchaudio.transforms.Resample(before, after, dtype=torch.float32)
        kernel = reference.kernel[:, 0]  # [after, 2 width + before]
        self._before, self._after = before, after
        self._width = int(reference.width)
        # With few phases, several blocks make one, so that a band is worth a GEMM.
        repeats = -(-4 * BAND_COLUMNS // after)
        self._step, self._phases = before * repeats, after * repeats
        wide = torch.zeros(self._phases, kernel.shape[1] + self._step - before)
        for block in range(repeats):
            rows = slice(block * after, (block + 1) * after)
            wide[rows, block * before : block * before + kernel.shape[1]] = kernel
        self._kernel = wide.t().contiguous()
        self._bands = find_bands(self._kernel, _NEGLIGIBLE)

    def __call__(self, samples: Tensor) -> Tensor:
        """Resample float32 [S] to float32 [ceil(S · after / before)]."""
        length = math.ceil(self._after * len(samples) / self._before)
        blocks = -(-length // self._phases)
        taps = len(self._kernel)
        padded = samples.new_zeros((blocks - 1) * self._step + taps)
        room = len(padded) - self._width
        kept = samples[:room]
        padded[self._width : self._width + len(kept)] = kept
        windows = padded.as_strided((blocks, taps), (self._step, 1))
        return multiply(windows, self._kernel, self._bands).view(-1)[:length]


# Most corpora have a few rates; one with hundreds must not keep a kernel for each.
_banded_resampler = lru_cache(maxsize=16)(BandedResampler)

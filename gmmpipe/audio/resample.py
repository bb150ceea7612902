"""Resampling as torchaudio does it, without multiplying by its kernel's zeros."""

import math
from functools import lru_cache

import soxr
import torch
import torchaudio
from torch import Tensor

MAX_RATIO_TERM = 1_000
"""A sinc kernel grows with the product of the reduced ratio's terms: 44101 -> 16000 takes 3 GB."""

BAND_PHASES = 16
_NEGLIGIBLE = 1e-12
"""Kernel entries below this are the rounding of a window's zero at its edge."""


def resample(samples: Tensor, rate: int, new_rate: int) -> tuple[Tensor, str]:
    """``torchaudio.functional.resample(samples, rate, new_rate)`` within 1e-6, and the method.

    soxr (high quality) does it where the reduced ratio of the rates has a term above 1,000, because
    torchaudio's kernel would take gigabytes then.

    Args:
        samples: float32 [S].
        rate, new_rate: Hz.

    Returns:
        float32 [ceil(S · new_rate / rate)], or that rounded, by soxr; and ``none``, ``sinc`` or
        ``soxr``.
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
    neighbouring taps, so 16 phases make a band that is multiplied with just theirs. From band to
    band the taps move on by the same number of samples, give or take what that is rounded by; so
    the windows of all bands and blocks are one strided view, and all of it one batched GEMM.

    Args:
        before, after: the reduced ratio of the rates.
    """

    def __init__(self, before: int, after: int) -> None:
        # The default would build the kernel in float64; float32 gives the functional's own.
        reference = torchaudio.transforms.Resample(before, after, dtype=torch.float32)
        kernel = reference.kernel[:, 0]  # [after, 2 width + before]
        self._before, self._after = before, after
        # With few phases, several blocks make one, so that there are bands enough for a GEMM.
        repeats = -(-4 * BAND_PHASES // after)
        self._step, self._phases = before * repeats, after * repeats
        rows = torch.zeros(self._phases, kernel.shape[1] + self._step - before)
        for block in range(repeats):
            taps = slice(block * before, block * before + kernel.shape[1])
            rows[block * after : (block + 1) * after, taps] = kernel
        own_rows = torch.split(rows, BAND_PHASES)
        spans = [_taps_used(own) for own in own_rows]
        self._stride = round((spans[-1].start - spans[0].start) / (len(spans) - 1))
        first = min(span.start - n * self._stride for n, span in enumerate(spans))
        starts = [first + n * self._stride for n in range(len(spans))]
        self._taps = max(span.stop - start for span, start in zip(spans, starts, strict=True))
        self._bands = torch.zeros(len(spans), self._taps, BAND_PHASES)
        for band, span, start, own in zip(self._bands, spans, starts, own_rows, strict=True):
            band[span.start - start : span.stop - start, : len(own)] = own[:, span].t()
        # Zeros before the first sample: the kernel's half width, less what no band looks at.
        self._lead = int(reference.width) - first
        self._reach = (len(spans) - 1) * self._stride + self._taps

    def __call__(self, samples: Tensor) -> Tensor:
        """Resample float32 [S] to float32 [ceil(S · after / before)]."""
        length = math.ceil(self._after * len(samples) / self._before)
        blocks = -(-length // self._phases)
        padded = samples.new_zeros((blocks - 1) * self._step + self._reach)
        kept = samples[: len(padded) - self._lead]
        padded[self._lead : self._lead + len(kept)] = kept
        windows = padded.as_strided(
            (len(self._bands), blocks, self._taps), (self._stride, self._step, 1)
        )
        by_band = torch.bmm(windows, self._bands)  # [bands, blocks, 16]
        by_block = by_band.transpose(0, 1).reshape(blocks, -1)[:, : self._phases]
        return by_block.reshape(-1)[:length]


def _taps_used(rows: Tensor) -> slice:
    """The columns outside which a matrix is negligible."""
    used = (rows.abs().amax(0) > _NEGLIGIBLE).nonzero()[:, 0]
    return slice(int(used[0]), int(used[-1]) + 1)


# Most corpora have a few rates. The limit is for a corpus of hundreds.
_banded_resampler = lru_cache(maxsize=16)(BandedResampler)

"""Which banks of mel filters work: those in which every filter covers an FFT bin."""

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import OptionError


def f_max(sample_rate: int) -> float:
    """Upper edge of the last mel filter, Hz."""
    return float(sample_rate // 2)


def mel_centers(n_mels: int, sample_rate: int) -> NDArray[np.float64]:
    """The frequency at which each filter of a bank is 1, Hz, [n_mels]."""
    return _mel_edges(n_mels, f_max(sample_rate))[1:-1]


def check_mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> None:
    """Raise OptionError if a filter of the bank is empty, naming the largest number that works."""
    if _all_cover_bins(sample_rate, n_fft, n_mels):
        return
    largest = min(n_mels, _max_filters(sample_rate, n_fft))
    working = next((n for n in range(largest, 0, -1) if _all_cover_bins(sample_rate, n_fft, n)), 0)
    remedy = f"the largest n_mels that works is {working}" if working else "no n_mels works"
    raise OptionError(
        f"n_mels = {n_mels} leaves a mel filter empty at n_fft = {n_fft} and {sample_rate} Hz: "
        f"{remedy}"
    )


def _max_filters(sample_rate: int, n_fft: int) -> int:
    """No more filters can work: the first must reach beyond the first bin above 0 Hz."""
    highest = f_max(sample_rate)
    bin_hertz = highest / (n_fft // 2)
    return int(2.0 * _mel(highest) / _mel(bin_hertz)) if bin_hertz else 0


def _all_cover_bins(sample_rate: int, n_fft: int, n_mels: int) -> bool:
    if n_mels > _max_filters(sample_rate, n_fft):
        return False  # before memory is taken for edges without number
    highest = f_max(sample_rate)
    edges = _mel_edges(n_mels, highest)
    bins = np.linspace(0.0, highest, n_fft // 2 + 1)
    # Filter m is a triangle over the open interval (edges[m], edges[m + 2]).
    first_inside = np.searchsorted(bins, edges[:-2], side="right")
    first_beyond = np.searchsorted(bins, edges[2:], side="left")
    return bool((first_inside < first_beyond).all())


def _mel(hertz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hertz / 700.0))


def _mel_edges(n_mels: int, highest: float) -> NDArray[np.float64]:
    """Edges of HTK mel filters from 0 Hz to `highest`, Hz, [n_mels + 2] (O'Shaughnessy 1987)."""
    mels = np.linspace(0.0, _mel(highest), n_mels + 2)
    return np.asarray(700.0 * (10.0 ** (mels / 2595.0) - 1.0))

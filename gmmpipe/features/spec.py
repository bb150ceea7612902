"""What a feature frame is: the parameters that define it, and their fingerprint."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmmpipe.errors import OptionError, StoreError
from gmmpipe.files import canonical_json

LOG_OFFSET = 1e-6
"""Added to a mel energy before the logarithm; digital silence is log(1e-6) = -13.8 in every bin."""

# What is fixed in every frame, and so part of the fingerprint, but not an option.
_CONSTANTS: dict[str, Any] = {
    "kind": "log_mel",
    "window": "hann_periodic",
    "center": True,
    "pad_mode": "reflect",
    "power": 2.0,
    "mel_scale": "htk",
    "mel_norm": None,
    "f_min": 0.0,
    "log_offset": LOG_OFFSET,
}
_LARGEST = {"sample_rate": 768_000, "n_fft": 1 << 16}
"""Far beyond what is of use; what a damaged or hostile file says should not take all memory."""


@dataclass(frozen=True)
class FeatureConfig:
    """Every parameter that defines a log-mel frame.

    Args:
        sample_rate: Hz, after resampling.
        n_fft: STFT window and transform length, in samples.
        hop_length: samples from one frame to the next.
        n_mels: mel bins, the feature dimension D.

    Raises:
        OptionError: a value is not positive or absurdly large, the hop exceeds the window (audio
            between two frames would never be seen), or a mel filter would cover no FFT bin.
    """

    sample_rate: int = 16000
    n_fft: int = 400
    hop_length: int = 320
    n_mels: int = 80

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not 1 <= value <= _LARGEST.get(name, value):
                bounds = f"at least 1 and at most {_LARGEST[name]}" if value > 0 else "at least 1"
                raise OptionError(f"{name} is {value}, but must be {bounds}")
        if self.n_fft < 2:
            raise OptionError("n_fft is 1, but a window of one sample holds no spectrum")
        if self.hop_length > self.n_fft:
            raise OptionError(
                f"the hop of {self.hop_length} samples (the product of strides) is longer than "
                f"n_fft = {self.n_fft}: samples between two windows would be lost"
            )
        if not self._filters_cover_bins(self.n_mels):
            largest = min(self.n_mels, self._max_filters)
            working = next((n for n in range(largest, 0, -1) if self._filters_cover_bins(n)), 0)
            remedy = f"the largest n_mels that works is {working}" if working else "no n_mels works"
            raise OptionError(
                f"n_mels = {self.n_mels} leaves a mel filter empty at n_fft = {self.n_fft} and "
                f"{self.sample_rate} Hz: {remedy}"
            )

    @property
    def f_max(self) -> float:
        """Upper edge of the last mel filter, Hz."""
        return float(self.sample_rate // 2)

    @property
    def min_samples(self) -> int:
        """The shortest waveform with a frame: a hop, and more than the window's reflected half."""
        return max(self.hop_length, self.n_fft // 2 + 1)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of `to_json`, hexadecimal."""
        return hashlib.sha256(canonical_json(self.to_json()).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """All parameters, constants included, as plain values."""
        return {**_CONSTANTS, **asdict(self), "f_max": self.f_max}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "FeatureConfig":
        """The inverse of `to_json`.

        Raises:
            StoreError: the values describe a frame that this version cannot make.
        """
        try:
            options = {name: values[name] for name in cls.__dataclass_fields__}
            if any(type(value) is not int for value in options.values()):
                raise StoreError("unusable feature parameters: not whole numbers")
            config = cls(**options)
        except (KeyError, TypeError, OptionError) as error:
            raise StoreError(f"unusable feature parameters: {error}") from error
        if config.to_json() != values:
            raise StoreError("feature parameters of another version of gmmpipe")
        return config

    @property
    def _max_filters(self) -> int:
        """No more filters can work: the first must reach beyond the first bin above 0 Hz."""
        bin_hertz = self.f_max / (self.n_fft // 2)
        return int(2.0 * _mel(self.f_max) / _mel(bin_hertz)) if bin_hertz else 0

    def _filters_cover_bins(self, n_mels: int) -> bool:
        if n_mels > self._max_filters:
            return False  # before memory is taken for edges without number
        edges = _mel_edges(n_mels, self.f_max)
        bins = np.linspace(0.0, self.f_max, self.n_fft // 2 + 1)
        # Filter m is a triangle over the open interval (edges[m], edges[m + 2]).
        first_inside = np.searchsorted(bins, edges[:-2], side="right")
        first_beyond = np.searchsorted(bins, edges[2:], side="left")
        return bool((first_inside < first_beyond).all())


def _mel(hertz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hertz / 700.0))


def _mel_edges(n_mels: int, f_max: float) -> NDArray[np.float64]:
    """Edges of HTK mel filters from 0 to `f_max`, Hz, [n_mels + 2] (O'Shaughnessy 1987)."""
    mels = np.linspace(0.0, _mel(f_max), n_mels + 2)
    return np.asarray(700.0 * (10.0 ** (mels / 2595.0) - 1.0))

"""What all frames share that are made of mel energies."""

from dataclasses import dataclass
from typing import Any, ClassVar

from gmmpipe.features.mel_filters import check_mel_filters, f_max
from gmmpipe.features.spec import ComputedSpec
from gmmpipe.options import option


@dataclass(frozen=True)
class MelSpec(ComputedSpec):
    """The parameters of mel energies.

    Args:
        sample_rate: Hz, after resampling.
        n_fft: STFT window and transform length, in samples.
        hop_length: samples from one frame to the next.
        n_mels: mel bins.

    Raises:
        OptionError: a value is not positive or absurdly large, the hop exceeds the window (audio
            between two frames would never be seen), or a mel filter would cover no FFT bin.
    """

    mel_constants: ClassVar[dict[str, Any]] = {
        "window": "hann_periodic",
        "center": True,
        "pad_mode": "reflect",
        "power": 2.0,
        "mel_scale": "htk",
        "mel_norm": None,
        "f_min": 0.0,
    }

    n_mels: int = option(80, help="Mel bins.", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mel_filters(self.sample_rate, self.n_fft, self.n_mels)

    @property
    def f_max(self) -> float:
        """Upper edge of the last mel filter, Hz."""
        return f_max(self.sample_rate)

    def to_json(self) -> dict[str, Any]:
        """The kind and all parameters, constants included, as plain values."""
        return {**super().to_json(), "f_max": self.f_max}

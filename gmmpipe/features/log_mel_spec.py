"""What a log-mel frame is: the parameters that define it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gmmpipe.features.mel_filters import check_mel_filters, f_max
from gmmpipe.features.spec import ComputedSpec
from gmmpipe.options import option

if TYPE_CHECKING:
    from gmmpipe.features.log_mel import LogMel

LOG_OFFSET = 1e-6
"""Added to a mel energy before the logarithm; digital silence is log(1e-6) = -13.8 in every bin."""


@dataclass(frozen=True)
class LogMelSpec(ComputedSpec):
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

    kind: ClassVar[str] = "log_mel"
    column: ClassVar[str] = "logmel"
    option_name: ClassVar[str] = "logmel"
    constants: ClassVar[dict[str, Any]] = {
        "window": "hann_periodic",
        "center": True,
        "pad_mode": "reflect",
        "power": 2.0,
        "mel_scale": "htk",
        "mel_norm": None,
        "f_min": 0.0,
        "log_offset": LOG_OFFSET,
    }

    n_mels: int = option(80, help="Mel bins.", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mel_filters(self.sample_rate, self.n_fft, self.n_mels)

    @property
    def dim(self) -> int:
        """Feature dimension D: the mel bins."""
        return self.n_mels

    @property
    def f_max(self) -> float:
        """Upper edge of the last mel filter, Hz."""
        return f_max(self.sample_rate)

    def make_transform(self) -> "LogMel":
        """The transform that computes the frames."""
        from gmmpipe.features.log_mel import LogMel

        return LogMel(self)

    def to_json(self) -> dict[str, Any]:
        """The kind and all parameters, constants included, as plain values."""
        return {**super().to_json(), "f_max": self.f_max}


FeatureConfig = LogMelSpec
"""The earlier name of `LogMelSpec`."""

"""What a log-mel frame is: the parameters that define it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gmmpipe.features.mel_spec import MelSpec

if TYPE_CHECKING:
    from gmmpipe.features.log_mel import LogMel

LOG_OFFSET = 1e-6
"""Added to a mel energy before the logarithm; digital silence is log(1e-6) = -13.8 in every bin."""


@dataclass(frozen=True)
class LogMelSpec(MelSpec):
    """Every parameter that defines a log-mel frame.

    Args:
        sample_rate: Hz, after resampling.
        n_fft: STFT window and transform length, in samples.
        hop_length: samples from one frame to the next.
        n_mels: mel bins, the feature dimension D.

    Raises:
        OptionError: as of `MelSpec`.
    """

    kind: ClassVar[str] = "log_mel"
    column: ClassVar[str] = "logmel"
    option_name: ClassVar[str] = "logmel"
    constants: ClassVar[dict[str, Any]] = {**MelSpec.mel_constants, "log_offset": LOG_OFFSET}

    @property
    def dim(self) -> int:
        """Feature dimension D: the mel bins."""
        return self.n_mels

    def make_transform(self) -> "LogMel":
        """The transform that computes the frames."""
        from gmmpipe.features.log_mel import LogMel

        return LogMel(self)


FeatureConfig = LogMelSpec
"""The earlier name of `LogMelSpec`."""

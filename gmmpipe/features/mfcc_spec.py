"""What a frame of mel-frequency cepstral coefficients is: the parameters that define it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gmmpipe.errors import OptionError
from gmmpipe.features.mel_spec import MelSpec
from gmmpipe.features.spec import MAX_DIM
from gmmpipe.options import option

if TYPE_CHECKING:
    from gmmpipe.features.mfcc import Mfcc

SMALLEST_ENERGY = 1e-10
"""A smaller mel energy counts as this one; digital silence is -100 dB in every bin."""
TOP_DB = 80.0
"""No mel energy counts as further below the largest one of its utterance than this, in decibels."""
DELTA_WINDOW = 5
"""Frames from which a delta is estimated."""


@dataclass(frozen=True)
class MfccSpec(MelSpec):
    """Every parameter that defines an MFCC frame.

    Args:
        sample_rate: Hz, after resampling.
        n_fft: STFT window and transform length, in samples.
        hop_length: samples from one frame to the next.
        n_mels: mel bins, of which the coefficients are made.
        n_mfcc: coefficients, from the zeroth.
        deltas: orders of deltas that follow the coefficients; D = n_mfcc * (deltas + 1).

    Raises:
        OptionError: as of `MelSpec`; or there are more coefficients than mel bins, or D is beyond
            2048.
    """

    kind: ClassVar[str] = "mfcc"
    option_name: ClassVar[str] = "mfcc"
    constants: ClassVar[dict[str, Any]] = {
        **MelSpec.mel_constants,
        "log": "decibel",
        "smallest_energy": SMALLEST_ENERGY,
        "top_db": TOP_DB,
        "dct": "ii_ortho",
        "delta_window": DELTA_WINDOW,
        "delta_pad_mode": "replicate",
    }

    n_mfcc: int = option(13, help="Coefficients; with --features mfcc only.", low=1)
    deltas: int = option(
        2, help="Orders of deltas after the coefficients; with --features mfcc only.", low=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_mfcc > self.n_mels:
            raise OptionError(
                f"--n_mfcc is {self.n_mfcc}, but {self.n_mels} mel bins (--n_mels) give no more "
                f"than {self.n_mels} coefficients"
            )
        if self.dim > MAX_DIM:
            raise OptionError(
                f"--n_mfcc {self.n_mfcc} with --deltas {self.deltas} makes frames of {self.dim} "
                f"numbers, but {MAX_DIM} is the largest dimension"
            )

    @property
    def dim(self) -> int:
        """Feature dimension D: the coefficients and their deltas."""
        return self.n_mfcc * (self.deltas + 1)

    def make_transform(self) -> "Mfcc":
        """The transform that computes the frames."""
        from gmmpipe.features.mfcc import Mfcc

        return Mfcc(self)

"""What a frame is: the base classes of all kinds. Nothing here imports torch."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from gmmpipe.errors import OptionError, StoreError
from gmmpipe.files import canonical_json
from gmmpipe.option_types import Strides
from gmmpipe.options import Options, option

if TYPE_CHECKING:
    from torch import Tensor

MAX_DIM = 2048
"""The largest feature dimension D."""


class FrameSpec(ABC):
    """What a frame is: its kind, its size, its rate, and every parameter that defines its values.

    A spec is a frozen dataclass, whose fields are in its JSON. Two specs with equal JSON have equal
    fingerprints, and their frames may be mixed.
    """

    kind: ClassVar[str]
    """The name of the kind in the JSON; `gmmpipe.features.kinds` finds the class by it."""
    column: ClassVar[str] = "features"
    """The name that a store gives to the array of frames."""

    if TYPE_CHECKING:  # a dataclass would take an inherited property for the default of its field

        @property
        @abstractmethod
        def dim(self) -> int:
            """Feature dimension D."""

        @property
        @abstractmethod
        def frame_rate(self) -> float:
            """Frames a second."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of `to_json`, hexadecimal."""
        return hashlib.sha256(canonical_json(self.to_json()).encode()).hexdigest()

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The kind and all parameters, constants included, as plain values."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            StoreError: the values describe a frame that this version does not know.
        """
        try:
            spec = cls(**{known.name: values[known.name] for known in fields(cls)})  # type: ignore[arg-type]
        except (KeyError, TypeError, OptionError) as error:
            raise StoreError(f"unusable feature parameters: {error}") from error
        if spec.to_json() != values:
            raise StoreError("feature parameters of another version of gmmpipe")
        return spec


def differences(there: dict[str, Any], here: dict[str, Any], place: str = "here") -> list[str]:
    """What differs between the JSON of two specs, one phrase a field; `place` is where `here` is.

    Of two kinds of frames only the kinds are named: their fields have nothing in common.
    """
    other_kind = there.get("kind") != here.get("kind")
    names = ["kind"] if other_kind else dict.fromkeys([*here, *there])
    return [
        f"{name} is {_shortened(there.get(name))} there and {_shortened(here.get(name))} {place}"
        for name in names
        if there.get(name) != here.get(name)
    ]


def _shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


class FrameTransform(Protocol):
    """Waveforms to frames."""

    def frames_of(self, waveforms: "Sequence[Tensor]") -> "list[Tensor]":
        """The frames of each of several waveforms, each as if it were transformed alone.

        Args:
            waveforms: float32 [S] each, at the spec's sample rate, not below its `min_samples`.

        Returns:
            float32 [num_frames(S), D] for each.
        """


@dataclass(frozen=True)
class ComputedSpec(Options, FrameSpec):
    """What all kinds of frames share that are computed from windows of audio.

    A subclass is a frozen dataclass whose fields are the kind's parameters. The largest values are
    far beyond what is of use: they keep a damaged file from claiming all memory.

    Args:
        sample_rate: Hz, after resampling.
        n_fft: STFT window and transform length, in samples.
        hop_length: samples from one frame to the next.

    Raises:
        OptionError: a parameter is not allowed, or the hop is longer than the window (audio between
            two frames would never be seen).
    """

    option_name: ClassVar[str]
    """The name of the kind in ``gmmpipe featurize --features``."""
    constants: ClassVar[dict[str, Any]]
    """What is fixed in every frame of the kind, and so part of the JSON, but not a parameter."""

    sample_rate: int = option(16000, help="Hz after resampling.", low=1, high=768_000)
    n_fft: int = option(400, help="STFT window, in samples.", low=2, high=1 << 16)
    hop_length: Strides = option(
        320,
        help="Encoder strides; their product is the hop in samples.",
        name="strides",
        shown="8,8,5",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hop_length > self.n_fft:
            raise OptionError(
                f"the hop of {self.hop_length} samples (the product of strides) is longer than "
                f"n_fft = {self.n_fft}: samples between two windows would be lost"
            )

    @property
    @abstractmethod
    def dim(self) -> int:
        """Feature dimension D."""

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop_length

    @property
    def min_samples(self) -> int:
        """The shortest waveform with a frame: a hop, and more than the window's reflected half."""
        return max(self.hop_length, self.n_fft // 2 + 1)

    def num_frames(self, num_samples: int) -> int:
        """How many frames a waveform of `num_samples`, at least `min_samples`, gives."""
        return num_samples // self.hop_length

    @abstractmethod
    def make_transform(self) -> FrameTransform:
        """The transform that computes the frames; torch is imported no earlier than here."""

    def to_json(self) -> dict[str, Any]:
        """The kind and all parameters, constants included, as plain values."""
        return {"kind": self.kind, **self.constants, **asdict(self)}

"""What all encoders have in common, and which one a name means."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from gmmpipe.errors import OptionError
from pipelines.encoders.options import LayerOptions


class LayerEncoder(Protocol):
    """An encoder with its layers at hand.

    Args:
        hears_audio: whether it hears waveforms rather than a store's frames.
        sample_rate: Hz of the waveforms.
        input_dim: D of the frames, where it hears those.
        layers: the numbers of its layers.
        dim: width of each.
        frame_rate: frames a second; None where it is that of the frames heard.
        alone: whether each utterance is encoded alone, because padding would change the result.
        description: the model and its weights, as a JSON object.
    """

    hears_audio: bool
    sample_rate: int
    input_dim: int
    layers: range
    dim: int
    frame_rate: float | None
    alone: bool
    description: dict[str, Any]

    def encode(self, signals: Sequence[Tensor]) -> list[list[Tensor]]:
        """Every layer of `layers`, of each signal.

        Args:
            signals: waveforms [S] or frames [T, D], float32 on the CPU.

        Returns:
            for each signal, for each layer, [T', dim]; T' is 0 where it is too short.
        """


def open_encoder(options: LayerOptions, device: torch.device) -> LayerEncoder:
    """The encoder that the options name.

    Raises:
        GmmpipeError: it cannot be read, or is none that is known.
    """
    name = options.encoder
    if name.startswith("torchaudio:"):
        from pipelines.encoders.torchaudio_encoder import TorchaudioEncoder

        return TorchaudioEncoder.open(name.partition(":")[2], options.weights, device)
    if options.weights is not None:
        raise OptionError("--weights is of a torchaudio bundle")
    path = Path(name)
    if path.is_dir():
        from pipelines.encoders.hugging_face import HuggingFaceEncoder

        return HuggingFaceEncoder(path, device)
    from pipelines.encoders.jepa_encoder import JEPAEncoder

    return JEPAEncoder(path, options.target, device)


def sha256_of(paths: Sequence[Path]) -> str:
    """SHA-256 of one file, or of the digests of several in this order, hexadecimal."""
    digests = []
    for path in paths:
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()

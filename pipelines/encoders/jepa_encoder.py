"""The layers of our own JEPA."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pipelines.encoders.encoder import sha256_of
from pipelines.jepa.checkpoint import load_jepa
from pipelines.jepa.model import HOP_SAMPLES, FeaturesFrontend, positions


class JEPAEncoder:
    """An encoder of a ``jepa.pt``; see `LayerEncoder`. The last layer has the final norm.

    Args:
        path: the file.
        target: whether it is the target encoder.
        device: where it computes.

    Raises:
        CheckpointError: the file cannot be read, or is no JEPA.
    """

    alone = False
    sample_rate = 16_000

    def __init__(self, path: Path, target: bool, device: torch.device) -> None:
        jepa, target_encoder = load_jepa(path)
        self._encoder = (target_encoder if target else jepa.encoder).to(device)
        self._device = device
        sizes = jepa.sizes
        self.hears_audio = not isinstance(self._encoder.frontend, FeaturesFrontend)
        self.input_dim, self.dim = sizes.input_dim, sizes.dim
        self.layers = range(sizes.layers + 1)
        self.frame_rate = self.sample_rate / HOP_SAMPLES if self.hears_audio else None
        self.description: dict[str, Any] = {
            "model": "gmmpipe JEPA, target encoder" if target else "gmmpipe JEPA, online encoder",
            "weights_sha256": sha256_of([path]),
        }

    @torch.no_grad()
    def encode(self, signals: Sequence[Tensor]) -> list[list[Tensor]]:
        """Every layer of each signal; no frame depends on padding but by rounding."""
        encoder = self._encoder
        hop = HOP_SAMPLES if self.hears_audio else 1
        lengths = [len(signal) // hop for signal in signals]
        longest = max(lengths)
        if not longest:
            return [[torch.zeros(0, self.dim)] * len(self.layers) for _ in signals]
        cut = [signal[: n * hop] for signal, n in zip(signals, lengths, strict=True)]
        padded = pad_sequence(cut, batch_first=True).to(self._device)
        if not self.hears_audio:
            padded = padded.transpose(1, 2)
        x = encoder.norm(encoder.frontend(padded))
        x = x + positions(longest, x)
        ends = torch.tensor(lengths, device=self._device)[:, None]
        padding = torch.arange(longest, device=self._device) >= ends
        states = [x]
        for layer in encoder.layers.layers:
            states.append(layer(states[-1], src_key_padding_mask=padding))
        states[-1] = encoder.layers.norm(states[-1])
        return [[s[i, :n].cpu() for s in states] for i, n in enumerate(lengths)]

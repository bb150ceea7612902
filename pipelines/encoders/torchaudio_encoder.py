"""The layers of a torchaudio HuBERT, WavLM or wav2vec 2.0 bundle."""

import hashlib
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from gmmpipe.errors import CheckpointError, OptionError
from pipelines.encoders.encoder import sha256_of

SMALLEST = 400
"""Samples of the convolutions' window: a shorter waveform has no frame."""


class TorchaudioEncoder:
    """A model of `torchaudio.models.Wav2Vec2Model`; see `LayerEncoder`.

    Layer N is ``extract_features(...)[0][N - 1]``, the output of transformer layer N; there is no
    layer 0. Each utterance is heard alone: the models' convolutions or their waveforms are
    normalised over time, where padding would change the result.

    Args:
        model: the model itself.
        name: of the bundle.
        sample_rate: Hz of the waveforms.
        weights_sha256: of the file of weights, or of the tensors.
        device: where it computes.
    """

    hears_audio, input_dim, alone = True, 1, True

    def __init__(
        self,
        model: nn.Module,
        name: str,
        sample_rate: float,
        weights_sha256: str,
        device: torch.device,
    ) -> None:
        self._model, self._device = model.eval().to(device), device
        self.sample_rate = int(sample_rate)
        with torch.no_grad():
            states = self._states(torch.zeros(SMALLEST))
        self.layers, self.dim = range(1, len(states) + 1), states[0].shape[-1]
        self.frame_rate: float | None = self.sample_rate / 320
        self.description: dict[str, Any] = {
            "model": name,
            "weights_sha256": weights_sha256,
            "sample_rate": self.sample_rate,
        }

    @classmethod
    def open(cls, name: str, weights: str | None, device: torch.device) -> Self:
        """A bundle of torchaudio's, by its name, which downloads its weights unless given here.

        Raises:
            OptionError: there is no such bundle.
            CheckpointError: the weights cannot be read, or are of another model.
        """
        import torchaudio

        bundle = getattr(torchaudio.pipelines, name, None)
        if not isinstance(bundle, torchaudio.pipelines.Wav2Vec2Bundle):
            raise OptionError(f"torchaudio has no bundle {name} of a wav2vec 2.0 or HuBERT")
        if weights is None:
            model = bundle.get_model()
            digest = sha256_of_tensors(model.state_dict())
        else:
            try:
                state = torch.load(weights, map_location="cpu", weights_only=True)
                model = torchaudio.models.wav2vec2_model(**bundle._params)
                model.load_state_dict(state)
            except (OSError, RuntimeError, pickle.UnpicklingError) as error:
                reason = " ".join(str(error).split())[:300]
                raise CheckpointError(f"{weights}: not the weights of {name}: {reason}") from error
            if bundle._normalize_waveform:
                model = _Normalizing(model)
            digest = sha256_of([Path(weights)])
        return cls(model, name, bundle.sample_rate, digest, device)

    @torch.no_grad()
    def encode(self, signals: Sequence[Tensor]) -> list[list[Tensor]]:
        """Every layer of each waveform."""
        nothing = [torch.zeros(0, self.dim)] * len(self.layers)
        return [
            [state[0].float().cpu() for state in self._states(signal)]
            if len(signal) >= SMALLEST
            else nothing
            for signal in signals
        ]

    def _states(self, signal: Tensor) -> list[Tensor]:
        states: list[Tensor] = self._model.extract_features(signal[None].to(self._device))[0]
        return states


class _Normalizing(nn.Module):
    """A model that hears waveforms of mean 0 and variance 1, as the bundle's own does."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def extract_features(self, waveforms: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """As the model's."""
        return self.model.extract_features(nn.functional.layer_norm(waveforms, waveforms.shape))


def sha256_of_tensors(state: dict[str, Tensor]) -> str:
    """SHA-256 of the tensors of a state dict, in the order of their names, hexadecimal."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

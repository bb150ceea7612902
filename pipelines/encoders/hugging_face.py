"""The layers of a wav2vec 2.0, HuBERT or WavLM in a Hugging Face model folder on disk."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gmmpipe.errors import CheckpointError, GmmpipeError
from pipelines.encoders.encoder import sha256_of

FAMILIES = ("wav2vec2", "hubert", "wavlm")


class HuggingFaceEncoder:
    """A model folder as ``save_pretrained`` writes it; see `LayerEncoder`.

    Layer N is ``hidden_states[N]`` of transformers. Nothing is downloaded, and no code of the
    folder is run. A model whose convolutions normalise over time (``feat_extract_norm`` is
    ``group``) hears each utterance alone: padding would change its result.

    Args:
        path: the folder.
        device: where it computes.

    Raises:
        CheckpointError: the folder cannot be read, or is of another family.
        GmmpipeError: transformers is not installed.
    """

    hears_audio = True
    input_dim = 1

    def __init__(self, path: Path, device: torch.device) -> None:
        try:
            from transformers import AutoConfig, AutoModel
        except ImportError as error:
            raise GmmpipeError(
                'a Hugging Face model needs transformers: pip install "gmmpipe[layers]"'
            ) from error
        here: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            config = AutoConfig.from_pretrained(path, **here)
            if config.model_type not in FAMILIES:
                raise CheckpointError(
                    f"{path}: a model of type {config.model_type}, not {', '.join(FAMILIES)}"
                )
            model, found = AutoModel.from_pretrained(path, output_loading_info=True, **here)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{path}: no usable model: {reason}") from error
        if missing := sorted(set(found["missing_keys"]) - {"masked_spec_embed"}):
            raise CheckpointError(f"{path}: lacks weights: {', '.join(missing[:5])}")
        self._model, self._device = model.eval().to(device), device
        prepared = _preprocessing(path)
        self._normalizes = bool(prepared.get("do_normalize", False))
        self.sample_rate = int(prepared.get("sampling_rate", 16_000))
        self.alone = config.feat_extract_norm == "group"
        self.layers = range(config.num_hidden_layers + 1)
        self.dim = config.hidden_size
        self.frame_rate = self.sample_rate / math.prod(config.conv_stride)
        files = sorted([*path.glob("*.safetensors")] or [*path.glob("pytorch_model*.bin")])
        self.description: dict[str, Any] = {
            "model": type(model).__name__,
            "weights_sha256": sha256_of(files),
            "sample_rate": self.sample_rate,
            "do_normalize": self._normalizes,
        }

    @torch.no_grad()
    def encode(self, signals: Sequence[Tensor]) -> list[list[Tensor]]:
        """Every layer of each waveform."""
        counts = [
            int(self._model._get_feat_extract_output_lengths(torch.tensor(len(s)))) for s in signals
        ]
        if min(counts) < 1:  # too short for a frame: the others without it
            nothing = [torch.zeros(0, self.dim)] * len(self.layers)
            long_enough = [s for s, n in zip(signals, counts, strict=True) if n > 0]
            encoded = iter(self.encode(long_enough) if long_enough else [])
            return [next(encoded) if n > 0 else nothing for n in counts]
        heard = [self._normalized(signal) for signal in signals]
        lengths = torch.tensor([len(signal) for signal in heard])[:, None]
        padded = pad_sequence(heard, batch_first=True)
        mask = torch.arange(padded.shape[1]) < lengths
        states = self._model(
            padded.to(self._device),
            attention_mask=None if len(heard) == 1 else mask.long().to(self._device),
            output_hidden_states=True,
        ).hidden_states
        return [[s[i, :n].float().cpu() for s in states] for i, n in enumerate(counts)]

    def _normalized(self, signal: Tensor) -> Tensor:
        """As transformers' feature extractor does: mean 0 and variance 1, where asked for."""
        if not self._normalizes:
            return signal
        return (signal - signal.mean()) / torch.sqrt(signal.var(correction=0) + 1e-7)


def _preprocessing(path: Path) -> dict[str, Any]:
    """What ``preprocessor_config.json`` says; nothing where there is none."""
    file = path / "preprocessor_config.json"
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: not readable: {error}") from error
    return content if isinstance(content, dict) else {}

"""The JEPA: an encoder of the visible frames, a predictor of the masked ones, a cluster head."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from gmmpipe.jepa import JEPABatch

CONVOLUTIONS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))
"""Kernel and stride of each, in samples of its input: wav2vec 2.0's (arXiv 2006.11477)."""
HOP_SAMPLES, WINDOW_SAMPLES = 320, 400
"""What the convolutions come to: the stride and the receptive field of one output frame."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a `JEPA`.

    Args:
        input_dim: D of the store's frames.
        num_components: K of the mixture.
        input: ``features`` or ``wav``.
        dim: width of the encoder.
        layers, heads: of the encoder.
        predictor_layers: of the predictor, which is half as wide.
        conv_dim: channels of the convolutions on a waveform.
    """

    input_dim: int
    num_components: int
    input: str = "features"
    dim: int = 128
    layers: int = 4
    heads: int = 4
    predictor_layers: int = 2
    conv_dim: int = 64


class FeaturesFrontend(nn.Module):
    """Frames [B, D, T], brought to mean 0 and variance 1 in each dimension, to [B, T, dim]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(sizes.input_dim))
        self.register_buffer("std", torch.ones(sizes.input_dim))
        self.project = nn.Linear(sizes.input_dim, sizes.dim)

    def set_moments(self, mean: Tensor, std: Tensor) -> None:
        """Take over the mean and the standard deviation of each dimension, [D] each."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, features: Tensor) -> Tensor:
        """Each frame alone."""
        return self.project((features.transpose(1, 2) - self.mean) / self.std)


class WaveformFrontend(nn.Module):
    """A waveform [B, T * 320] to [B, T, dim] by seven convolutions.

    Frame t sees samples 320 t - 200 to 320 t + 200: the very window of log-mel frame t. Each
    convolution normalises over its channels, frame by frame, so that no frame depends on padding.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        channels = 1
        for kernel, stride in CONVOLUTIONS:
            self.convolutions.append(nn.Conv1d(channels, sizes.conv_dim, kernel, stride))
            self.norms.append(nn.LayerNorm(sizes.conv_dim))
            channels = sizes.conv_dim
        self.project = nn.Linear(channels, sizes.dim)

    def forward(self, wav: Tensor) -> Tensor:
        """As many frames as the waveform has whole hops."""
        half = WINDOW_SAMPLES // 2
        # A negative width cuts: behind the last frame's window lie 120 samples that none sees.
        x = nn.functional.pad(wav, (half, WINDOW_SAMPLES - half - HOP_SAMPLES))[:, None]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = nn.functional.gelu(norm(convolution(x).transpose(1, 2))).transpose(1, 2)
        return self.project(x.transpose(1, 2))


FRONTENDS = {"features": FeaturesFrontend, "wav": WaveformFrontend}


class Encoder(nn.Module):
    """A transformer over frames; what the JEPA is trained for.

    Args:
        sizes: of the JEPA.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.frontend = FRONTENDS[sizes.input](sizes)
        self.norm = nn.LayerNorm(sizes.dim)
        self.layers = _transformer(sizes.dim, sizes.layers, sizes.heads)

    def forward(self, signal: Tensor, keep: Tensor) -> Tensor:
        """Representations of the frames to `keep`, made from those frames alone.

        Args:
            signal: features [B, D, T] or wav [B, S].
            keep: bool [B, T]; at least one a row.

        Returns:
            [number kept, dim], utterance by utterance.
        """
        embedded = self.norm(self.frontend(signal))
        embedded = embedded + positions(keep.shape[1], embedded)
        rows = zip(embedded, keep, strict=True)
        packed = pad_sequence([frames[kept] for frames, kept in rows], batch_first=True)
        padding = torch.arange(packed.shape[1], device=keep.device) >= keep.sum(1)[:, None]
        return self.layers(packed, src_key_padding_mask=padding)[~padding]


class Predictor(nn.Module):
    """Predicts the representations of masked frames from those of the visible ones.

    Args:
        sizes: of the JEPA.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.dim // 2
        self.narrow = nn.Linear(sizes.dim, width)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.layers = _transformer(width, sizes.predictor_layers, sizes.heads)
        self.widen = nn.Linear(width, sizes.dim)

    def forward(self, context: Tensor, visible: Tensor, masked: Tensor) -> Tensor:
        """Predictions, [number masked, dim].

        Args:
            context: the encoder's output on the visible frames, [number visible, dim].
            visible: bool [B, T].
            masked: bool [B, T]; what is neither is padding.
        """
        tokens = self.mask_token.expand(*visible.shape, -1).clone()
        tokens[visible] = self.narrow(context)
        tokens = tokens + positions(visible.shape[1], tokens)
        padding = ~(visible | masked)
        return self.widen(self.layers(tokens, src_key_padding_mask=padding)[masked])


class JEPA(nn.Module):
    """All that is trained by gradients: online encoder, predictor and cluster head.

    Args:
        sizes: what sizes they have.
        seed: of the parameters, which are the same on every device and rank.
        moments: mean and standard deviation of the frames, for the front end; None where
            parameters are loaded.
    """

    def __init__(
        self, sizes: Sizes, seed: int = 0, moments: tuple[Tensor, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder = Encoder(sizes)
        self.predictor = Predictor(sizes)
        self.cluster_head = nn.Sequential(
            nn.Linear(sizes.dim, 2 * sizes.dim),
            nn.GELU(),
            nn.Linear(2 * sizes.dim, sizes.num_components),
        )
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 or name.endswith("mask_token"):
                scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 1.0
                nn.init.trunc_normal_(parameter, std=scale, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        if moments is not None and isinstance(self.encoder.frontend, FeaturesFrontend):
            self.encoder.frontend.set_moments(*moments)

    def signal(self, batch: JEPABatch) -> Tensor:
        """What of a batch the encoder hears."""
        signal = batch.features if self.sizes.input == "features" else batch.wav
        assert signal is not None, "the batches were asked for with the waveform"
        return signal

    def groups(self) -> Iterator[tuple[bool, list[nn.Parameter]]]:
        """Parameters that weight decay is for (matrices), and those that it is not for."""
        for decays in (True, False):
            yield decays, [p for p in self.parameters() if (p.dim() > 1) == decays]


def positions(length: int, like: Tensor) -> Tensor:
    """Sinusoids [length, dim] of the frame's number (Vaswani et al., arXiv 1706.03762)."""
    dim = like.shape[-1]
    exponents = torch.arange(0, dim, 2, device=like.device) / dim
    angles = torch.arange(length, device=like.device)[:, None] * 10_000.0**-exponents
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :dim].to(like.dtype)


def _transformer(dim: int, layers: int, heads: int) -> nn.TransformerEncoder:
    """Pre-norm layers without dropout: a step is then a function of its batch alone."""
    layer = nn.TransformerEncoderLayer(
        dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(dim), enable_nested_tensor=False)

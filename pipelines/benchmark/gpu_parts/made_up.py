"""Mixtures, frames of them, and stores of such frames, made on the spot."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from gmmpipe import FeatureStoreWriter
from gmmpipe.mixture.mixture import Mixture

SPREAD = 0.47
"""Of the means: so many components of a frame are likely then as on speech."""
UTTERANCE_FRAMES, SHARD_UTTERANCES = 684, 256
FRAME_RATE = 100.0


def make_mixture(num_components: int, dim: int, device: torch.device) -> Mixture:
    """A mixture with means `SPREAD` apart, and equal weights."""
    torch.manual_seed(0)
    shape = (num_components, dim)
    return Mixture(
        means=torch.randn(shape, device=device) * SPREAD - 8,
        log_vars=torch.randn(shape, device=device) * SPREAD - 1,
        log_weights=torch.full((num_components,), -math.log(num_components), device=device),
    )


def draw_frames(mixture: Mixture, num_frames: int) -> Tensor:
    """Frames of a mixture, float16 [N, D]."""
    chosen = torch.randint(mixture.num_components, (num_frames,), device=mixture.means.device)
    noise = torch.randn(num_frames, mixture.dim, device=mixture.means.device)
    return (mixture.means[chosen] + noise * (0.5 * mixture.log_vars[chosen]).exp()).half()


def make_store(folder: Path, mixture: Mixture, num_frames: int) -> int:
    """A store of at least so many frames of a mixture; how many there are."""
    count = 0
    with FeatureStoreWriter(
        folder,
        dim=mixture.dim,
        frame_rate=FRAME_RATE,
        description={"made_up": True},
        utterances_per_shard=SHARD_UTTERANCES,
    ) as writer:
        for utterance in _utterances(mixture, num_frames):
            writer.add(f"u{count:010d}", utterance)
            count += len(utterance)
    return count


def _utterances(mixture: Mixture, num_frames: int) -> Iterator[Tensor]:
    """Utterances on the CPU, drawn a shard at a time."""
    for _ in range(0, num_frames, UTTERANCE_FRAMES * SHARD_UTTERANCES):
        count = min(SHARD_UTTERANCES, -(-num_frames // UTTERANCE_FRAMES))
        yield from draw_frames(mixture, count * UTTERANCE_FRAMES).cpu().split(UTTERANCE_FRAMES)

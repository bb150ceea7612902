"""Stores of frames that no audio was computed to: what an encoder's layer would be."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gmmpipe import FeatureStoreWriter

DIMS = (1, 39, 80, 768, 2048)
LAYER = {"model": "encoder", "layer": 6}


def utterances(dim: int, count: int = 14, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Keys, not sorted, and float32 frames [T, dim] around four centres, T from 10 to 40."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(scale=4.0, size=(4, dim))
    for number in range(count):
        which = generator.integers(4, size=generator.integers(10, 41))
        frames = centres[which] + generator.normal(size=(len(which), dim))
        yield f"{number * 7 % count:03d}-{number}", frames.astype(np.float32)


def write(folder: Path, dim: int, **options: Any) -> Path:
    """A store of `utterances` in shards of 5."""
    given = {name: options.pop(name) for name in ("count", "seed") if name in options}
    options = {"frame_rate": 50, "description": LAYER, "utterances_per_shard": 5, **options}
    with FeatureStoreWriter(folder, dim=dim, **options) as writer:
        for number, (key, frames) in enumerate(utterances(dim, **given)):
            writer.add(key, frames, {"number": number})
    return folder

"""One shard of features to one published shard of labels and its sidecar."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from gmmpipe.files import atomic_file
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.mixture.mixture import temper
from gmmpipe.store.feature_store import Shard
from gmmpipe.store.label_schema import (
    ARRAY_DTYPES,
    LABELS,
    TOPK_IDS,
    TOPK_PROBS,
    LabelPlan,
    LabelSidecar,
)
from gmmpipe.store.label_shard import LabelShardWriter
from gmmpipe.store.schema import SHARD_SUFFIXES, ShardRow
from gmmpipe.store.shard_index import ShardIndex

BLOCK_FRAMES = 16384
"""Frames worked on at once, to the next whole utterance: 5 MB at D = 80."""


def make_label_shard(shard: Shard, folder: Path, gmm: GradientGMM, plan: LabelPlan) -> None:
    """Label one shard of a feature store, and publish the labels and then their sidecar."""
    index = shard.sidecar().index
    path = folder / f"{shard.path.stem}{SHARD_SUFFIXES['tar']}"
    left_out = 0.0
    with atomic_file(path) as file:
        writer = LabelShardWriter(file, list(plan.widths))
        for first, beyond in _blocks(index):
            start, stop = int(index.row_offset[first]), int(index.row_offset[beyond])
            frames = torch.empty(stop - start, gmm.dim, dtype=torch.float32)
            shard.read_rows(start, stop, frames)
            arrays, beyond_k = label_frames(gmm, frames.to(gmm.means.device), plan)
            left_out += beyond_k
            for at in range(first, beyond):
                rows = slice(index.row_offset[at] - start, index.row_offset[at + 1] - start)
                writer.add(index.keys[at], {name: array[rows] for name, array in arrays.items()})
        indices, num_bytes, sha256 = writer.finish()
    row = ShardRow(path.name, shard.row.utterances, shard.row.frames, num_bytes, sha256)
    # To nine digits: the last bits of a sum are those of the machine.
    mass = None if plan.top_k is None else float(f"{left_out:.9g}")
    LabelSidecar(row, indices, mass).write(path.with_suffix(".json"))


def label_frames(
    gmm: GradientGMM, frames: Tensor, plan: LabelPlan
) -> tuple[dict[str, NDArray[Any]], float]:
    """The arrays that a label store keeps of frames [N, D], and the mass that they leave out.

    Labels are those of `GradientGMM.assign`; probabilities those of `GradientGMM.soft_assign`,
    rounded to float16. The mass is Σ over frames of the posteriors beyond the top k, in float64.
    """
    arrays = {
        name: torch.empty(len(frames), width, dtype=ARRAY_DTYPES[name])
        for name, width in plan.widths.items()
    }
    left_out = 0.0
    for rows, _, joints in gmm.mixture.log_joints(frames):
        arrays[LABELS][rows, 0] = joints.argmax(1).cpu()
        if plan.top_k is not None:
            # Of the joints, which stay apart where posteriors underflow to 0.
            ids = joints.topk(plan.top_k, dim=1).indices
            posteriors = temper(joints, plan.temperature)
            arrays[TOPK_IDS][rows] = ids.cpu()
            arrays[TOPK_PROBS][rows] = posteriors.gather(1, ids).cpu()
            # Summed themselves, not as what is missing to 1: then a small rest keeps its digits.
            left_out += float(posteriors.scatter_(1, ids, 0.0).sum())
    stored = {name: array.numpy() for name, array in arrays.items()}
    stored[LABELS] = stored[LABELS][:, 0]
    return stored, left_out


def _blocks(index: ShardIndex) -> Iterator[tuple[int, int]]:
    """A shard's utterances, [first, beyond), cut where some `BLOCK_FRAMES` frames have come up."""
    first = 0
    for at, end in enumerate(index.row_offset[1:].tolist(), start=1):
        if end - int(index.row_offset[first]) >= BLOCK_FRAMES or at == len(index.keys):
            yield first, at
            first = at

"""One shard of features to one published shard of labels and its sidecar."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.mixture.mixture import temper
from gmmpipe.mixture.returned_joints import joint_blocks
from gmmpipe.store.names import SHARD_SUFFIXES
from gmmpipe.store.read_ranges import TORCH_DTYPES
from gmmpipe.store.schema import LABELS, TOPK_IDS, TOPK_PROBS, LabelIdentity
from gmmpipe.store.shard import Shard
from gmmpipe.store.shard_kinds import shard_file

BLOCK_FRAMES = 16384
"""Frames in a block, rounded up to a whole utterance: 5 MB at D = 80."""


def make_label_shard(shard: Shard, folder: Path, gmm: GradientGMM, made: LabelIdentity) -> None:
    """Label one shard of a feature store, and publish the labels and then their sidecar."""
    index = shard.sidecar().index
    path = folder / f"{shard.path.stem}{SHARD_SUFFIXES[made.format]}"
    metadata = shard.read_metadata() if made.has_json else None
    left_out = 0.0
    with shard_file(path).open_writer(made.columns, has_json=made.has_json) as writer:
        for first, beyond in index.blocks(BLOCK_FRAMES):
            start, stop = int(index.frame_offset[first]), int(index.frame_offset[beyond])
            frames = torch.empty(stop - start, gmm.dim, dtype=torch.float32)
            shard.read_frames(start, stop, frames)
            arrays, beyond_k = label_frames(gmm, frames.to(gmm.means.device), made)
            left_out += beyond_k
            for at in range(first, beyond):
                part = slice(index.frame_offset[at] - start, index.frame_offset[at + 1] - start)
                own = {name: array[part] for name, array in arrays.items()}
                _, values = ("", None) if metadata is None else next(metadata)
                writer.add(index.keys[at], own, values)
        sidecar = writer.finish("labels")
    # Nine digits are kept, because the last bits of a sum depend on the machine.
    mass = None if made.top_k is None else float(f"{left_out:.9g}")
    replace(sidecar, left_out=mass).write(path.with_suffix(".json"))


def label_frames(
    gmm: GradientGMM, frames: Tensor, made: LabelIdentity
) -> tuple[dict[str, NDArray[Any]], float]:
    """The arrays that a label store keeps of frames [N, D], and the mass that they leave out.

    Labels are those of `GradientGMM.assign`; probabilities those of `GradientGMM.soft_assign`,
    rounded to float16. The mass is Σ over frames of the posteriors beyond the top k, in float64.
    """
    tensors, left_out = label_tensors(gmm, frames, made)
    arrays = {
        column.name: tensors[column.name].to("cpu", TORCH_DTYPES[column.dtype]).numpy()
        for column in made.columns
    }
    return arrays, 0.0 if made.top_k is None else float(left_out)


@torch.no_grad()
def label_tensors(
    gmm: GradientGMM, frames: Tensor, made: LabelIdentity
) -> tuple[dict[str, Tensor], Tensor]:
    """What `label_frames` gives, on the frames' device; numbers of components as int64."""
    found = {
        column.name: frames.new_empty(
            (len(frames), column.width),
            dtype=torch.float16 if column.name == TOPK_PROBS else torch.int64,
        )
        for column in made.columns
    }
    left_out = frames.new_zeros((), dtype=torch.float64)
    for block in joint_blocks(gmm.mixture, frames, made.temperature):
        part, joints = block.rows, block.joints
        found[LABELS][part, 0] = joints.argmax(1)
        if made.top_k is not None:
            # The top k are those of the joints, which differ even where posteriors underflow to 0.
            ids = joints.topk(made.top_k, dim=1).indices
            posteriors = temper(joints, made.temperature)
            found[TOPK_IDS][part] = ids
            found[TOPK_PROBS][part] = posteriors.gather(1, ids).half()
            # The others are summed, not taken as 1 minus the top k, so that a small sum keeps its
            # digits.
            left_out += posteriors.scatter_(1, ids, 0.0).sum(dtype=torch.float64)
    return found, left_out

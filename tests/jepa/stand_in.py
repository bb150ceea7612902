"""A stand-in for a training run: writes down each step's batch, and goes on where it was killed.

    [torchrun ...] python stand_in.py STORE GMM OUTPUT_DIR STEPS NUM_WORKERS

Each rank appends a line a step to a file of its own: the step, a digest of all that the batch
holds, and its keys. The ranks meet after each step, as they would in an all-reduce of gradients.
"""

import hashlib
import os
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from gmmpipe.jepa import JEPABatch, JEPABatches
from gmmpipe.run.world import World, open_world

SIZES = {"batch_size": 6, "window": 24, "seed": 3, "top_k": 4}


def line_of(batch: JEPABatch) -> str:
    """A batch in one line."""
    digest = hashlib.sha256()
    for name, value in sorted(vars(batch).items()):
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            digest.update(str((value.shape, value.dtype)).encode() + value.numpy().tobytes())
    return f"{batch.step} {digest.hexdigest()} {','.join(batch.keys)}\n"


def run(store: str, gmm: str, path: Path, steps: int, num_workers: int, world: World) -> None:
    """Write the lines of all steps that `path` does not have yet."""
    path.touch()
    done = path.read_text().count("\n")
    whole_lines = "".join(path.read_text().splitlines(keepends=True)[:done])
    os.truncate(path, len(whole_lines))  # a kill may have cut the last one
    batches = JEPABatches(
        *(store, gmm),
        **SIZES,
        start_step=done,
        stop_step=steps,
        rank=world.rank,
        world_size=world.size,
    )
    with open(path, "a") as file:
        for batch in DataLoader(batches, batch_size=None, num_workers=num_workers):
            file.write(line_of(batch))
            file.flush()
            world.all_reduce(torch.ones(1))


if __name__ == "__main__":
    store, gmm, folder, steps, num_workers = sys.argv[1:]
    with open_world("cpu") as world:
        path = Path(folder) / f"rank-{world.rank}.txt"
        run(store, gmm, path, int(steps), int(num_workers), world)

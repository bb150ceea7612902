"""The commands of the pages, run in a shell as a reader runs them, on the demo corpus.

A block that is marked ``bash`` is run; ``console`` marks what needs a network, or takes hours:
installing, `make` and Docker.
"""

import os
import re
import sys
from pathlib import Path

from helpers.processes import ROOT, run

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL_FIT = "--K 16 --target_frames 8k --batch_update_size 4k --n_sgd_steps 5 --sgd_batch_size 512"
SMALL_JEPA = (
    "--max_steps 2 --batch_size 4 --dim 16 --layers 1 --heads 1 --num_workers 0 --device cpu"
)
SMALLER = {
    r"gmmpipe fit |fit_gmm\.py": SMALL_FIT,
    r"jepa/train\.py": SMALL_JEPA,
    r"gmmpipe featurize ": "--num_workers 1",
}
"""What is added to a command that matches: the last of two values counts."""
IN_PLACE_OF = {
    "--nproc_per_node 8": "--standalone --nproc_per_node 2",
    "--nproc_per_node 2": "--standalone --nproc_per_node 2",
    "pip install": "true pip install",
}
SHELL = f"""
set -euo pipefail
gmmpipe() {{ {sys.executable} -m gmmpipe "$@"; }}
torchrun() {{ {sys.executable} -m torch.distributed.run "$@"; }}
python() {{ {sys.executable} "$@"; }}
"""


def blocks(page: Path, kind: str) -> list[str]:
    """The blocks of a page that are marked so, in order."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.S | re.M)


def smaller(line: str) -> str:
    """A command on small data, in some seconds."""
    for there, here in IN_PLACE_OF.items():
        line = line.replace(there, here)
    if line.startswith(("gmmpipe ", "torchrun ", "python ")):
        line = " ".join([line, *(more for what, more in SMALLER.items() if re.search(what, line))])
    return line


def run_blocks(commands: list[str], folder: Path, **in_place_of: str) -> str:
    """Run blocks one after another in one shell in a folder; what they print.

    Args:
        commands: the blocks.
        folder: the current folder.
        in_place_of: what stands in the place of some words.
    """
    script = SHELL + "\n".join(smaller(line) for block in commands for line in block.splitlines())
    for there, here in in_place_of.items():
        script = script.replace(there, here)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    environment |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    return run(["bash", "-c", script], cwd=folder, env=environment).stdout

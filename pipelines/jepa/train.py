#!/usr/bin/env python
"""Train a small GMM-anchored JEPA (arXiv 2602.09040) from a feature store and its mixture.

    python pipelines/jepa/train.py --data_dir STORE --gmm_path gmm.pt --output_dir OUT
    torchrun --nproc_per_node 8 pipelines/jepa/train.py --data_dir STORE --gmm_path gmm.pt ...

OUT gets metrics.tsv, options.yaml, checkpoints and at the end jepa.pt. docs/jepa.md says what the
losses and the measures are.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

# Installed or not: a script's own folder is on the path, its checkout is not.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from gmmpipe.cli.common import ANY_DASHES, job_options
from gmmpipe.cli.from_dataclass import command_from
from gmmpipe.run.stop import stop_signals_held

if TYPE_CHECKING:
    from pipelines.jepa.options import JEPAOptions


@command_from("pipelines.jepa.options:JEPAOptions", "train.py", context_settings=ANY_DASHES)
@job_options
def main(options: "JEPAOptions") -> None:
    """Train a JEPA anchored by a frozen mixture; alone, or on all ranks of torchrun."""
    with stop_signals_held():
        from gmmpipe.run.world import open_world
        from pipelines.jepa.trainer import Trainer

    # Ranks do all alike, so it is the limit of each exchange, not only of those within a step.
    with open_world(options.device, meeting_timeout=options.exchange_timeout) as world:
        Trainer(options, world).run()


if __name__ == "__main__":
    main(prog_name="train.py")

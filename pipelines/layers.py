#!/usr/bin/env python
"""Write one layer of an encoder as a feature store.

    python pipelines/layers.py --data_dir STORE --encoder jepa.pt --output_dir LAYER
    torchrun --nproc_per_node 8 pipelines/layers.py --data_dir STORE --encoder MODEL ...

docs/jepa.md says which encoders there are, and how their frames are aligned.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

# Installed or not: a script's own folder is on the path, its checkout is not.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gmmpipe.cli.common import ANY_DASHES, job_options
from gmmpipe.cli.from_dataclass import command_from
from gmmpipe.run.stop import stop_signals_held

if TYPE_CHECKING:
    from pipelines.encoders.options import LayerOptions


@command_from("pipelines.encoders.options:LayerOptions", "layers.py", context_settings=ANY_DASHES)
@job_options
def main(options: "LayerOptions") -> None:
    """Write one layer of an encoder as a feature store; alone, or on all ranks of torchrun."""
    with stop_signals_held():
        from gmmpipe.run.world import open_world
        from pipelines.encoders.extraction import Extraction

    with open_world(options.device) as world:
        Extraction(options, world).run()


if __name__ == "__main__":
    main(prog_name="layers.py")

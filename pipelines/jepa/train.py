#!/usr/bin/env python
"""Train a small GMM-anchored JEPA (arXiv 2602.09040) from a feature store and its mixture.

    python pipelines/jepa/train.py --data_dir STORE --gmm_path gmm.pt --output_dir OUT
    torchrun --nproc_per_node 8 pipelines/jepa/train.py --data_dir STORE --gmm_path gmm.pt ...

OUT gets metrics.tsv, options.yaml, checkpoints and at the end jepa.pt. docs/jepa.md says what the
losses and the measures are.
"""

import sys
from pathlib import Path
from typing import Any

import click

# Installed or not: a script's own folder is on the path, its checkout is not.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from gmmpipe.cli.common import CommaList, job_options, run_job

COUNT = click.IntRange(min=1)
POSITIVE = click.FloatRange(min=0, min_open=True)
WEIGHT = click.FloatRange(min=0)


def option(name: str, default: Any, kind: Any, text: str) -> Any:
    return click.option(f"--{name}", default=default, type=kind, show_default=True, help=text)


@click.command(context_settings={"token_normalize_func": lambda token: token.replace("-", "_")})
@click.option("--data_dir", type=CommaList(), required=True, help="Feature stores, or, several.")
@click.option("--gmm_path", type=click.Path(path_type=Path), required=True, help="The mixture.")
@click.option(
    "--output_dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where jepa.pt, checkpoints, metrics.tsv and options.yaml go.",
)
@option("max_steps", 1000, COUNT, "Steps of the whole run; its schedules end there.")
@option("batch_size", 16, COUNT, "Utterances of a step, over all ranks.")
@option("lr", 1e-3, POSITIVE, "AdamW's peak rate, after a warm-up and before a cosine.")
@option("ema_decay", 0.996, click.FloatRange(0, 1), "Of the target encoder.")
@option("cluster_weight_start", 1.0, WEIGHT, "Weight of the cluster loss in the first step.")
@option("cluster_weight_end", 0.01, WEIGHT, "And in the last; a straight line between them.")
@option("cluster_temperature", 1.0, POSITIVE, "Of the mixture's posteriors.")
@option("input", "log_mel", click.Choice(["log_mel", "wav"]), "What the encoder hears.")
@option("dim", 128, COUNT, "Width of the encoder; the predictor's is half of it.")
@option("layers", 4, COUNT, "Of the encoder.")
@option("heads", 4, COUNT, "Of each layer.")
@option("predictor_layers", 2, COUNT, "Of the predictor.")
@option("conv_dim", 64, COUNT, "Channels of the convolutions of --input wav.")
@option("log_every", 20, COUNT, "Steps from one row of metrics.tsv to the next.")
@option("save_every", 200, COUNT, "Steps from one checkpoint to the next.")
@option("seed", 0, int, "Of the parameters, the order, the masks and the evaluation sample.")
@option("num_workers", 1, click.IntRange(min=0), "Loader processes per rank.")
@option(
    "exchange_timeout",
    120.0,
    click.FloatRange(min=1, max=1800),
    "Seconds that a rank waits for the others; then it leaves a checkpoint, and stops.",
)
@option("device", "auto", click.Choice(["auto", "cpu", "cuda"]), "auto: cuda where there is one.")
@option("resume", "none", str, "A checkpoint, 'auto' (the furthest in --output_dir) or 'none'.")
@click.option(
    "--keep",
    type=COUNT,
    show_default="all",
    help="How many checkpoints to keep, the furthest ones.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace the run in --output_dir, once a step is done.",
)
@job_options
def main(debug: bool, exchange_timeout: float, **options: Any) -> None:
    """Train a JEPA anchored by a frozen mixture; alone, or on all ranks of torchrun."""
    if options["resume"] == "none":
        options["resume"] = None

    def job() -> None:
        from gmmpipe.run.world import open_world
        from pipelines.jepa.options import JEPAOptions
        from pipelines.jepa.trainer import Trainer

        # Ranks do all alike, so it is the limit of each exchange, not only of those within a step.
        with open_world(options["device"], meeting_timeout=exchange_timeout) as world:
            Trainer(JEPAOptions(**options), world).run()

    run_job(job, debug)


if __name__ == "__main__":
    main(prog_name="train.py")

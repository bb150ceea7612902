"""``gmmpipe fit``."""

from pathlib import Path
from typing import Any

import click

from gmmpipe.cli.common import CommaList, FrameCount, VarFloor, job_options, run_job


@click.command("fit")
@click.option(
    "--data_dir",
    type=CommaList(),
    required=True,
    help="Comma-separated feature stores with equal fingerprints.",
)
@click.option(
    "--output_dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Where gmm.pt, checkpoints, metrics.tsv and options.yaml go.",
)
@click.option(
    "--K", "K", type=click.IntRange(min=1), default=1024, show_default=True, help="Components."
)
@click.option(
    "--target_frames",
    type=FrameCount(),
    default="100M",
    show_default=True,
    help="Frames to process, over as many epochs as that takes.",
)
@click.option(
    "--batch_update_size",
    type=FrameCount(),
    default="5M",
    show_default=True,
    help="Frames of an update cycle, over all ranks.",
)
@click.option(
    "--max_samples",
    type=FrameCount(),
    default="50M",
    show_default=True,
    help="Upper bound of the same.",
)
@click.option(
    "--n_sgd_steps",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="SGD steps of an update; a shorter last update takes its share.",
)
@click.option(
    "--sgd_batch_size",
    type=FrameCount(),
    default="16384",
    show_default=True,
    help="Frames of a step, over all ranks.",
)
@click.option(
    "--lr",
    type=click.FloatRange(min=0, min_open=True),
    default=1e-2,
    show_default=True,
    help="Adam's learning rate; a cosine to a hundredth of it within each update.",
)
@click.option(
    "--optimizer",
    type=click.Choice(["adam", "em"]),
    default="adam",
    show_default=True,
    help="Adam on the exact gradient, or stepwise EM.",
)
@click.option(
    "--init",
    type=click.Choice(["kmeans", "kmeans++", "random"]),
    default="kmeans",
    show_default=True,
    help="Where the components start: k-means++, Lloyd and EM passes; k-means++ alone; or random "
    "frames.",
)
@click.option(
    "--var_floor",
    type=VarFloor(),
    default="0.1",
    show_default=True,
    help="Lower bound of a variance: a number, or per cent of each dimension's own variance in the "
    "seeding sample (1%).",
)
@click.option(
    "--save_every",
    type=FrameCount(),
    default="50M",
    show_default=True,
    help="Checkpoint after each update that crosses a multiple of this.",
)
@click.option(
    "--resume", help="A checkpoint, or 'auto': the furthest in --output_dir, if there is one."
)
@click.option(
    "--eval_data_dir",
    type=CommaList(),
    help="A held-out store; adds eval_nll, on its first 200,000 frames, to the metrics.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of every random draw.")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="auto: cuda where there is one.",
)
@click.option(
    "--num_workers",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Reader threads per rank.",
)
@click.option(
    "--exchange_timeout",
    type=click.FloatRange(min=1, max=1800),
    default=120.0,
    show_default=True,
    help="Seconds that a rank waits for the others in a step; then it leaves a checkpoint of its "
    "last whole step, and stops.",
)
@click.option("--tensorboard", is_flag=True, help="Also write event files (gmmpipe[tensorboard]).")
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    show_default="all",
    help="How many checkpoints to keep, the furthest ones.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace the fit in --output_dir, once the new one has a checkpoint.",
)
@job_options
def command(debug: bool, **options: Any) -> None:
    """Fit a diagonal Gaussian mixture to feature stores; alone, or on all ranks of torchrun."""

    def job() -> None:
        from gmmpipe.fitting.options import FitOptions
        from gmmpipe.fitting.trainer import fit
        from gmmpipe.run.world import open_world

        with open_world(options["device"], exchange_timeout=options["exchange_timeout"]) as world:
            fit(FitOptions(**options), world)

    run_job(job, debug)

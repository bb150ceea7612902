"""``gmmpipe label``."""

from pathlib import Path
from typing import Any

import click

from gmmpipe.cli.common import job_options, run_job


@click.command("label")
@click.argument("store", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--gmm_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="The model file: gmm.pt or a checkpoint.",
)
@click.option(
    "--output_dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The label store to write.",
)
@click.option(
    "--top_k",
    type=click.IntRange(min=1),
    help="Keep the ids and posteriors of the so many likeliest components, too.  [default: none]",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Of those posteriors: softmax(log joint / temperature).",
)
@click.option("--overwrite", is_flag=True, help="Start afresh.")
@job_options
def command(debug: bool, **options: Any) -> None:
    """Label every frame of STORE with its likeliest component; alone, or on all ranks of torchrun.

    Running it again resumes. With --top_k, the mean mass that the top k leave out goes to stdout.
    """

    def job() -> None:
        from gmmpipe.apply.label import LabelOptions, label
        from gmmpipe.run.world import open_world

        wanted = LabelOptions(**options)
        with open_world("auto") as world:
            left_out_mass = label(wanted, world).sums.left_out_mass
        if world.rank == 0 and left_out_mass is not None:
            click.echo(f"left_out_mass: {left_out_mass}")

    run_job(job, debug)

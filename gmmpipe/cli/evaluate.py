"""``gmmpipe evaluate``."""

import json
from pathlib import Path

import click

from gmmpipe.cli.common import Notation, job_options, run_job
from gmmpipe.option_kinds import FRAMES, PATHS


@click.command("evaluate")
@click.argument("store", type=Notation(PATHS))
@click.option(
    "--gmm_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="The model file: gmm.pt or a checkpoint.",
)
@click.option("--max_frames", type=Notation(FRAMES), help="Only the first so many.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@job_options
def command(store: str, gmm_path: Path, max_frames: int | None, as_json: bool, debug: bool) -> None:
    """Say how well a mixture describes the frames of STORE; alone, or on all ranks of torchrun.

    Likelihoods and entropies are in nats a frame. em_gap is how much one exact EM step on these
    frames would lower the nll.
    """

    def job() -> None:
        from dataclasses import asdict

        from gmmpipe.apply.evaluate import evaluate
        from gmmpipe.run.world import open_world

        with open_world("auto") as world:
            values = asdict(evaluate(store, gmm_path, max_frames, world))
        if world.rank:
            return
        if as_json:
            click.echo(json.dumps(values))
        else:
            for name, value in values.items():
                shown = f"{value:.6f}" if isinstance(value, float) else value
                click.echo(f"{name + ':':18} {shown}")

    run_job(job, debug)

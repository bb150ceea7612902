"""``gmmpipe evaluate``."""

import json
from typing import TYPE_CHECKING

import click

from gmmpipe.cli.common import job_options
from gmmpipe.cli.from_dataclass import command_from
from gmmpipe.run.stop import stop_signals_held

if TYPE_CHECKING:
    from gmmpipe.apply.options import EvaluateOptions


@command_from("gmmpipe.apply.options:EvaluateOptions", "evaluate")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@job_options
def command(options: "EvaluateOptions", as_json: bool) -> None:
    """Say how well a mixture describes the frames of STORE; alone, or on all ranks of torchrun.

    Likelihoods and entropies are in nats a frame. em_gap is how much one exact EM step on these
    frames would lower the nll.
    """
    with stop_signals_held():
        from gmmpipe.apply.evaluate import evaluate
        from gmmpipe.run.world import open_world

    with open_world("auto") as world:
        found = evaluate(
            options.store, options.gmm_path, options.max_frames, world, options.labels_from
        )
        values = found.to_json()
    if world.rank:
        return
    if as_json:
        click.echo(json.dumps(values))
    else:
        for name, value in values.items():
            shown = f"{value:.6f}" if isinstance(value, float) else value
            click.echo(f"{name + ':':31}{shown}")

"""``gmmpipe label``."""

from typing import TYPE_CHECKING

import click

from gmmpipe.cli.common import job_options
from gmmpipe.cli.from_dataclass import command_from
from gmmpipe.run.stop import stop_signals_held

if TYPE_CHECKING:
    from gmmpipe.apply.options import LabelOptions


@command_from("gmmpipe.apply.options:LabelOptions", "label")
@job_options
def command(options: "LabelOptions") -> None:
    """Label every frame of STORE with its likeliest component; alone, or on all ranks of torchrun.

    Running it again resumes. With --top_k, the mean mass that the top k leave out goes to stdout.
    """
    with stop_signals_held():
        from gmmpipe.apply.label import label
        from gmmpipe.run.world import open_world

    with open_world("auto") as world:
        left_out_mass = label(options, world).left_out_mass
    if world.rank == 0 and left_out_mass is not None:
        click.echo(f"left_out_mass: {left_out_mass}")

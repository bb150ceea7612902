"""``gmmpipe fit``."""

from typing import TYPE_CHECKING

from gmmpipe.cli.common import job_options
from gmmpipe.cli.from_dataclass import command_from
from gmmpipe.run.stop import stop_signals_held

if TYPE_CHECKING:
    from gmmpipe.fitting.options import FitOptions


@command_from("gmmpipe.fitting.options:FitOptions", "fit")
@job_options
def command(options: "FitOptions") -> None:
    """Fit a diagonal Gaussian mixture to feature stores; alone, or on all ranks of torchrun."""
    with stop_signals_held():
        from gmmpipe.fitting.trainer import fit
        from gmmpipe.reporting.job import pictures_of
        from gmmpipe.run.world import open_world

    with open_world(options.device, exchange_timeout=options.exchange_timeout) as world:
        fit(options, world, pictures_of)

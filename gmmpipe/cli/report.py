"""``gmmpipe report``."""

from typing import TYPE_CHECKING

import click

from gmmpipe.cli.common import job_options
from gmmpipe.cli.from_dataclass import command_from
from gmmpipe.run.stop import stop_signals_held

if TYPE_CHECKING:
    from gmmpipe.reporting.options import ReportOptions


@command_from("gmmpipe.reporting.options:ReportOptions", "report")
@job_options
def command(options: "ReportOptions") -> None:
    """Show the fit in FIT as one page, report.html, which needs no network.

    The page has the metrics over updates, the components' means, weights and usage, posteriors,
    five utterances to see and hear, what was rejected, and every number with how to read it. The
    pictures are also in the folder report, as PNG files. A fit that is not finished is shown as
    far as its furthest checkpoint. The page's path goes to stdout.
    """
    with stop_signals_held():
        from gmmpipe.reporting.job import report

    click.echo(report(options))

"""``gmmpipe export``."""

from typing import TYPE_CHECKING

from gmmpipe.cli.common import job_options
from gmmpipe.cli.from_dataclass import command_from
from gmmpipe.run.stop import stop_signals_held

if TYPE_CHECKING:
    from gmmpipe.exporting.options import ExportOptions


@command_from("gmmpipe.exporting.options:ExportOptions", "export")
@job_options
def command(options: "ExportOptions") -> None:
    """Write LABELS, a label store, in the form that another trainer reads, in manifest order.

    Lines that were rejected are in none of the files. labels.json says what the labels are; it is
    written last.
    """
    with stop_signals_held():
        from gmmpipe.exporting.job import export

    export(options)

"""``gmmpipe export``."""

from typing import TYPE_CHECKING

from gmmpipe.cli.common import job_options
from gmmpipe.cli.from_dataclass import command_from
from gmmpipe.run.stop import stop_signals_held

if TYPE_CHECKING:
    from gmmpipe.apply.options import ExportOptions


@command_from("gmmpipe.apply.options:ExportOptions", "export")
@job_options
def command(options: "ExportOptions") -> None:
    """Write LABELS in the form that another trainer reads, in manifest order.

    Lines that were rejected are in no file. Frames a second and the number of classes stand in
    {format}.json beside.
    """
    with stop_signals_held():
        from gmmpipe.apply.export import export

    export(options)

"""``gmmpipe import``."""

from typing import TYPE_CHECKING

from gmmpipe.cli.common import job_options
from gmmpipe.cli.from_dataclass import command_from
from gmmpipe.run.stop import stop_signals_held

if TYPE_CHECKING:
    from gmmpipe.importing.options import ImportOptions


@command_from("gmmpipe.importing.options:ImportOptions", "import")
@job_options
def command(options: "ImportOptions") -> None:
    """Make a feature store of SOURCE: frames that another program made.

    Running it again resumes.
    """
    with stop_signals_held():
        from gmmpipe.importing.job import import_frames

    import_frames(options)

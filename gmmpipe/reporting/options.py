"""What `gmmpipe report` is asked to do."""

from dataclasses import dataclass

from gmmpipe.option_types import ExistingFolder, Folder, Paths
from gmmpipe.options import Options, option


@dataclass(frozen=True)
class ReportOptions(Options):
    """The options of ``gmmpipe report``, under their names; its help explains each one.

    Raises:
        OptionError: a value is not allowed.
    """

    fit: ExistingFolder = option(
        help="A fit's output folder: gmm.pt or checkpoints, and metrics.tsv.", is_argument=True
    )
    data_dir: Paths | None = option(
        None,
        help="The feature store that usage, posteriors and utterances are taken from, or several, "
        "comma-separated.",
        shown="the fit's own, if it can be read",
    )
    output_dir: Folder | None = option(
        None, help="Where report.html and the folder report go.", shown="the fit's folder"
    )

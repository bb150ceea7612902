"""What `gmmpipe export` is asked to do."""

from dataclasses import dataclass
from typing import Literal

from gmmpipe.errors import OptionError
from gmmpipe.option_types import ExistingFolder, Folder
from gmmpipe.options import Options, option

ExportFormat = Literal["km", "kaldi", "units", "lhotse", "parquet"]
WITH_PATHS = ("km", "lhotse")
"""The formats that name the audio."""


@dataclass(frozen=True)
class ExportOptions(Options):
    """The options of ``gmmpipe export``, under their names; its help explains each one.

    Raises:
        OptionError: a value is not allowed.
    """

    labels: ExistingFolder = option(help="The label store.", is_argument=True)
    format: ExportFormat = option(help="The form that the trainer reads.")
    output_dir: Folder = option(help="The folder to write.")
    base_path: Folder | None = option(
        None, help="Prefix of relative audio paths.", shown="left relative"
    )
    data_dir: ExistingFolder | None = option(
        None,
        help="The labelled feature store, for labels of earlier versions.",
        shown="not needed",
    )
    overwrite: bool = option(False, help="Replace the export in --output_dir.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_path is not None and self.format not in WITH_PATHS:
            raise OptionError(f"--base_path has no meaning for --format {self.format}")

"""What `gmmpipe manifest` is asked to do, and the option that featurize shares with it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gmmpipe.errors import OptionError
from gmmpipe.option_types import File, Folder, Paths
from gmmpipe.options import Options, option
from gmmpipe.sources.registry import AUTO, kind_names

if TYPE_CHECKING:
    SourceKindName = str
else:  # a type checker cannot look into the registry
    SourceKindName = Literal[tuple(kind_names())]
"""A kind's name, or ``auto``."""

SOURCE_KIND_HELP = "The kind of the sources, where one could be read in two ways."


@dataclass(frozen=True)
class ManifestOptions(Options):
    """The options of ``gmmpipe manifest``, under their names; its help explains each one.

    Raises:
        OptionError: a value is not allowed.
    """

    sources: Paths = option(
        help="Comma-separated sources: manifests, folders of them, or quoted patterns of paths.",
        is_argument=True,
    )
    source_kind: SourceKindName = option(AUTO, help=SOURCE_KIND_HELP)
    base_path: Folder | None = option(
        None, help="Prefix of relative audio paths.", shown="their manifest's folder"
    )
    output: File | None = option(
        None,
        help="Also write the utterances as one manifest, with absolute audio paths.",
        metavar="FILE.jsonl",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is not None and self.output.suffix != ".jsonl":
            raise OptionError(
                f"--output {self.output} does not end in .jsonl: nothing would read it"
            )

"""What `gmmpipe import` is asked to do."""

from dataclasses import dataclass
from typing import Literal

from gmmpipe.option_types import Folder, Paths
from gmmpipe.options import Options, option


@dataclass(frozen=True)
class ImportOptions(Options):
    """The options of ``gmmpipe import``, under their names; its help explains each one.

    Raises:
        OptionError: a value is not allowed.
    """

    source: Paths = option(
        help="The frames: a folder of {id}.npy; fairseq's .npy with .len; Kaldi's feats.scp or "
        ".ark; a folder, a file or a quoted pattern of files.",
        is_argument=True,
    )
    output_dir: Folder = option(help="The feature store to write.")
    frame_rate: float = option(50.0, help="Frames a second.", low=1e-3, high=1e6)
    description: str | None = option(
        None, help="What made the frames, in words; part of the fingerprint."
    )
    format: Literal["tar", "zarr"] = option("tar", help="Shard format.")
    dtype: Literal["float16", "float32"] = option("float16", help="Stored dtype.")
    utterances_per_shard: int = option(1024, help="Utterances in a shard.", low=1)
    shuffle: bool = option(True, help="Make every shard a random sample of the source.")
    seed: int = option(0, help="Seed of the shuffle.", low=0)
    max_reject_fraction: float = option(
        0.1, help="More rejects than this fail the import.", low=0, high=1
    )
    overwrite: bool = option(False, help="Replace the store in --output_dir.")

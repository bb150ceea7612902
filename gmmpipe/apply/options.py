"""What `gmmpipe label` and `gmmpipe evaluate` are asked to do."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gmmpipe.errors import CheckpointError, OptionError
from gmmpipe.option_types import ExistingFile, ExistingFolder, Folder, Frames, Paths
from gmmpipe.options import Options, option

if TYPE_CHECKING:
    from gmmpipe.mixture.gradient_gmm import GradientGMM
    from gmmpipe.store.feature_store import FeatureStore
    from gmmpipe.store.schema import LabelIdentity


@dataclass(frozen=True)
class LabelOptions(Options):
    """The options of ``gmmpipe label``, under their names; its help explains each one.

    Raises:
        OptionError: a value is not allowed.
    """

    store: ExistingFolder = option(help="The feature store to label.", is_argument=True)
    gmm_path: ExistingFile = option(help="The model file: gmm.pt or a checkpoint.")
    output_dir: Folder = option(help="The label store to write.")
    top_k: int | None = option(
        None,
        help="Also keep the ids and posteriors of this many likeliest components.",
        shown="none",
        low=1,
    )
    temperature: float = option(
        1.0, help="The kept posteriors are softmax(log joint / temperature).", above=0
    )
    overwrite: bool = option(False, help="Replace the label store in --output_dir.")

    def identity(self, store: "FeatureStore", gmm: "GradientGMM") -> "LabelIdentity":
        """What decides the label store's bytes.

        Raises:
            CheckpointError: the model has more components than labels can number.
            OptionError: the model has fewer components than `top_k`.
        """
        from gmmpipe.store.schema import MAX_COMPONENTS, LabelIdentity

        if gmm.K > MAX_COMPONENTS:
            raise CheckpointError(
                f"{self.gmm_path}: its K is {gmm.K}, but labels of 16 bits number {MAX_COMPONENTS}"
            )
        if self.top_k is not None and self.top_k > gmm.K:
            raise OptionError(f"--top_k is {self.top_k}, but {self.gmm_path} has K = {gmm.K}")
        gmm_sha256 = hashlib.sha256(self.gmm_path.read_bytes()).hexdigest()
        return LabelIdentity(
            store.digests[0],
            gmm_sha256,
            gmm.K,
            self.top_k,
            self.temperature,
            store.features,
            gmm.means.device.type,
        )


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """The options of ``gmmpipe evaluate``, under their names; its help explains each one.

    Raises:
        OptionError: a value is not allowed.
    """

    store: Paths = option(help="The feature store, or several, comma-separated.", is_argument=True)
    gmm_path: ExistingFile = option(help="The model file: gmm.pt or a checkpoint.")
    max_frames: Frames | None = option(None, help="Only the first frames, this many.", shown="all")
    labels_from: str | None = option(
        None,
        help="Compare the labels with the classes in this field of the manifest (a speaker, say).",
        metavar="FIELD",
        shown="none",
    )

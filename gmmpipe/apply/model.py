"""The mixture that is applied to a store, checked to be one of such frames."""

from pathlib import Path

import torch

from gmmpipe.errors import CheckpointError
from gmmpipe.features.spec import differences
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.store.feature_store import FeatureStore


def load_model(path: Path, store: FeatureStore, device: torch.device) -> GradientGMM:
    """Read a model file whose frames are those of `store`.

    Raises:
        CheckpointError: the file is damaged, or `check_features` refuses it.
    """
    gmm = GradientGMM.load(path, device)
    check_features(gmm, store, str(path))
    return gmm


def check_features(gmm: GradientGMM, store: FeatureStore, source: str) -> None:
    """Make sure that a mixture was fitted to frames like those of `store`.

    A model that does not say what its frames are, such as one from scikit-learn, must only have the
    same D.

    Args:
        gmm: the mixture.
        store: the store.
        source: what names the mixture in errors.

    Raises:
        CheckpointError: the mixture was fitted to other frames; the message says what differs.
    """
    features = gmm.info.get("features")
    if features is not None:
        there = dict(features)
        same_fingerprint = there.pop("fingerprint", None) == store.features.fingerprint
        differing = differences(there, store.features.to_json(), "in the store")
        if differing or not same_fingerprint:
            what = "; ".join(differing) or "the fingerprint is not that of the store"
            raise CheckpointError(f"{source}: fitted to other features: {what}")
    if gmm.dim != store.dim:
        raise CheckpointError(
            f"{source}: its D is {gmm.dim}, but the store's frames have {store.dim}"
        )

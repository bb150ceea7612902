"""The mixture that is applied to a store, once it is known to belong to such frames."""

from pathlib import Path

import torch

from gmmpipe.errors import CheckpointError
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.store.feature_store import FeatureStore


def load_model(path: Path, store: FeatureStore, device: torch.device) -> GradientGMM:
    """Read a model file whose frames are those of `store`.

    A model that does not say what its frames are, as one from scikit-learn, needs equal D only.

    Raises:
        CheckpointError: the file is damaged, or its frames are others, which are said to differ in.
    """
    gmm = GradientGMM.load(path, device)
    features = gmm.info.get("features")
    if features is not None:
        there = dict(features)
        here = {**store.features.to_json(), "fingerprint": store.features.fingerprint}
        differences = [
            f"{name} is {there.get(name)} there and {here.get(name)} in the store"
            for name in sorted({*there, *here} - {"fingerprint"})
            if there.get(name) != here.get(name)
        ]
        if differences or there.get("fingerprint") != here["fingerprint"]:
            what = "; ".join(differences) or "the fingerprint is not that of the store"
            raise CheckpointError(f"{path}: fitted to other features: {what}")
    if gmm.dim != store.dim:
        raise CheckpointError(
            f"{path}: its D is {gmm.dim}, but the store's frames have {store.dim}"
        )
    return gmm

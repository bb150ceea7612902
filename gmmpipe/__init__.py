"""gmmpipe: log-mel features once, a Gaussian mixture on them, and the same shards for a JEPA.

The public names are imported on first use, so that ``import gmmpipe`` and ``gmmpipe --help`` stay
free of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gmmpipe.features.log_mel import LogMel
    from gmmpipe.features.log_mel_spec import FeatureConfig
    from gmmpipe.mixture.gradient_gmm import GradientGMM
    from gmmpipe.store.feature_store import FeatureStore
    from gmmpipe.store.feature_writer import FeatureStoreWriter
    from gmmpipe.store.label_store import LabelStore

__version__ = "0.1.0"
__all__ = [
    "FeatureConfig",
    "FeatureStore",
    "FeatureStoreWriter",
    "GradientGMM",
    "LabelStore",
    "LogMel",
    "__version__",
]

_HOMES = {
    "FeatureConfig": "gmmpipe.features.log_mel_spec",
    "FeatureStore": "gmmpipe.store.feature_store",
    "FeatureStoreWriter": "gmmpipe.store.feature_writer",
    "GradientGMM": "gmmpipe.mixture.gradient_gmm",
    "LabelStore": "gmmpipe.store.label_store",
    "LogMel": "gmmpipe.features.log_mel",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gmmpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""gmmpipe: features of speech once, a Gaussian mixture on them, and the same shards for a JEPA.

The public names are imported on first use, so that ``import gmmpipe`` and ``gmmpipe --help`` stay
free of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gmmpipe.errors import (
    AudioError,
    CheckpointError,
    ClaimError,
    GmmpipeError,
    ManifestError,
    NoAnswerError,
    OptionError,
    RankError,
    RankGoneError,
    Stopped,
    StoreError,
)

if TYPE_CHECKING:
    from gmmpipe.apply.evaluate import Evaluation
    from gmmpipe.apply.options import EvaluateOptions, LabelOptions
    from gmmpipe.commands import evaluate, export, featurize, fit, import_frames, label
    from gmmpipe.exporting.folder import ExportInfo
    from gmmpipe.exporting.options import ExportOptions
    from gmmpipe.features.log_mel import LogMel
    from gmmpipe.features.log_mel_spec import FeatureConfig, LogMelSpec
    from gmmpipe.features.mfcc import Mfcc
    from gmmpipe.features.mfcc_spec import MfccSpec
    from gmmpipe.featurization.options import FeaturizeOptions
    from gmmpipe.fitting.options import FitOptions
    from gmmpipe.importing.options import ImportOptions
    from gmmpipe.mixture.gradient_gmm import GradientGMM
    from gmmpipe.store.feature_store import FeatureStore
    from gmmpipe.store.feature_writer import FeatureStoreWriter
    from gmmpipe.store.label_store import LabelStore

__version__ = "0.1.0"
__all__ = [
    "AudioError",
    "CheckpointError",
    "ClaimError",
    "EvaluateOptions",
    "Evaluation",
    "ExportInfo",
    "ExportOptions",
    "FeatureConfig",
    "FeatureStore",
    "FeatureStoreWriter",
    "FeaturizeOptions",
    "FitOptions",
    "GmmpipeError",
    "GradientGMM",
    "ImportOptions",
    "LabelOptions",
    "LabelStore",
    "LogMel",
    "LogMelSpec",
    "ManifestError",
    "Mfcc",
    "MfccSpec",
    "NoAnswerError",
    "OptionError",
    "RankError",
    "RankGoneError",
    "ReportOptions",
    "Stopped",
    "StoreError",
    "__version__",
    "evaluate",
    "export",
    "featurize",
    "fit",
    "import_frames",
    "label",
    "report",
]

_HOMES = {
    "gmmpipe.apply.evaluate": ["Evaluation"],
    "gmmpipe.apply.options": ["EvaluateOptions", "LabelOptions"],
    "gmmpipe.commands": [
        *("evaluate", "export", "featurize", "fit", "import_frames", "label", "report"),
    ],
    "gmmpipe.exporting.folder": ["ExportInfo"],
    "gmmpipe.exporting.options": ["ExportOptions"],
    "gmmpipe.features.log_mel": ["LogMel"],
    "gmmpipe.features.log_mel_spec": ["FeatureConfig", "LogMelSpec"],
    "gmmpipe.features.mfcc": ["Mfcc"],
    "gmmpipe.features.mfcc_spec": ["MfccSpec"],
    "gmmpipe.featurization.options": ["FeaturizeOptions"],
    "gmmpipe.fitting.options": ["FitOptions"],
    "gmmpipe.importing.options": ["ImportOptions"],
    "gmmpipe.mixture.gradient_gmm": ["GradientGMM"],
    "gmmpipe.reporting.options": ["ReportOptions"],
    "gmmpipe.store.feature_store": ["FeatureStore"],
    "gmmpipe.store.feature_writer": ["FeatureStoreWriter"],
    "gmmpipe.store.label_store": ["LabelStore"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'gmmpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

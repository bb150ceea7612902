"""The kinds of frames there are.

A kind is a class that extends `FrameSpec`; one that is computed from audio extends `ComputedSpec`,
and `gmmpipe featurize --features` offers it. To add one, write its file and name it in `KINDS`.
"""

from typing import Any

from gmmpipe.errors import StoreError
from gmmpipe.features.external import ExternalSpec
from gmmpipe.features.log_mel_spec import LogMelSpec
from gmmpipe.features.mfcc_spec import MfccSpec
from gmmpipe.features.spec import ComputedSpec, FrameSpec

KINDS: list[type[FrameSpec]] = [
    LogMelSpec,
    MfccSpec,
    ExternalSpec,
]


def spec_from_json(values: dict[str, Any]) -> FrameSpec:
    """The spec of any kind that the field ``features`` of a store or a model file holds.

    Raises:
        StoreError: the kind is not known here, or the values describe no frame of that kind.
    """
    kind = values.get("kind")
    for spec in KINDS:
        if spec.kind == kind:
            return spec.from_json(values)
    raise StoreError(f"features of kind {kind!r:.80}, which this version of gmmpipe does not know")


def computed_from_json(values: dict[str, Any]) -> ComputedSpec:
    """The spec of a kind that is computed from audio.

    Raises:
        StoreError: it is of another kind, or as of `spec_from_json`.
    """
    spec = spec_from_json(values)
    if not isinstance(spec, ComputedSpec):
        raise StoreError(f"features of kind {spec.kind}, which is not computed from audio")
    return spec


def computed_kinds() -> dict[str, type[ComputedSpec]]:
    """The kinds that are computed from audio, by their names in ``--features``."""
    return {spec.option_name: spec for spec in KINDS if issubclass(spec, ComputedSpec)}

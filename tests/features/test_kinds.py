"""The kinds of frames: what each says of itself, and how a reader finds its class."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from gmmpipe.errors import OptionError, StoreError
from gmmpipe.features.external import ExternalSpec
from gmmpipe.features.kinds import KINDS, computed_from_json, computed_kinds, spec_from_json
from gmmpipe.features.log_mel_spec import LogMelSpec
from gmmpipe.features.spec import differences

LAYER = {"model": "hubert-base", "layer": 6, "notes": ["ü", None, 1.5]}


@pytest.mark.parametrize(
    "spec",
    [
        LogMelSpec(n_mels=40),
        ExternalSpec(1, 100),
        ExternalSpec(np.int64(768), np.float32(49.95), LAYER),
        ExternalSpec(2048, 0.001),
    ],
)
def test_a_spec_of_any_kind_survives_json(spec: LogMelSpec | ExternalSpec) -> None:
    again = spec_from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.fingerprint == spec.fingerprint
    assert spec.to_json()["kind"] == type(spec).kind


def test_a_computed_kind_says_how_large_its_frames_are_and_how_many_a_second() -> None:
    spec = LogMelSpec(8000, 256, 100, 20)
    assert (spec.dim, spec.frame_rate, spec.num_frames(199)) == (20, 80.0, 1)


def test_the_fingerprint_of_external_frames_covers_all_that_is_known_of_them() -> None:
    spec = ExternalSpec(8, 50, LAYER)
    others = [ExternalSpec(9, 50, LAYER), ExternalSpec(8, 51, LAYER), ExternalSpec(8, 50, {})]
    assert len({other.fingerprint for other in [spec, *others]}) == 4
    assert spec.fingerprint == ExternalSpec(8, 50.0, dict(reversed(LAYER.items()))).fingerprint


def test_a_description_is_copied() -> None:
    description = {"layers": [6]}
    spec = ExternalSpec(8, 50, description)
    description["layers"].append(7)
    spec.to_json()["description"]["layers"].append(8)
    assert spec.description == {"layers": [6]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        *(({"dim": dim}, "dim is .* from 1 to 2048") for dim in (0, -1, 2049, 1.0, True, "8")),
        *(
            ({"frame_rate": rate}, "frame_rate is .*, but must be frames a second")
            for rate in (0, -50, math.nan, math.inf, 1e300, 10**400, True, "50", None)
        ),
        *(
            ({"description": description}, "description is")
            for description in ([], "text", {"a": math.nan}, {"a": b""}, {1: 0, "b": 0})
        ),
    ],
)
def test_what_no_external_frame_can_be_is_refused(changed: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ExternalSpec(**{"dim": 8, "frame_rate": 50.0, "description": {}, **changed})
    with pytest.raises(StoreError, match="unusable feature parameters"):
        ExternalSpec.from_json({**ExternalSpec(8, 50.0).to_json(), **changed})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "kind None"),
        ({"kind": "spectral_flux"}, "'spectral_flux', which this version"),
        ({"kind": ["log_mel"]}, "which this version"),
        ({"kind": "external", "dim": 8, "frame_rate": 50.0}, "'description'"),
        ({**ExternalSpec(8, 50).to_json(), "layer": 6}, "another version"),
    ],
)
def test_frames_that_this_version_does_not_know_are_refused(values: dict, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        spec_from_json(values)


def test_only_computed_kinds_can_be_chosen_for_audio() -> None:
    assert computed_kinds()["logmel"] is LogMelSpec
    assert ExternalSpec not in computed_kinds().values()
    with pytest.raises(StoreError, match="kind external, which is not computed from audio"):
        computed_from_json(ExternalSpec(8, 50).to_json())


def test_kinds_have_different_names() -> None:
    assert len({spec.kind for spec in KINDS}) == len(KINDS)


def test_of_two_kinds_only_the_kinds_are_said_to_differ() -> None:
    external = ExternalSpec(80, 50, {"model": "x" * 999}).to_json()
    assert differences(LogMelSpec().to_json(), external) == [
        "kind is log_mel there and external here"
    ]
    (difference,) = differences(external, ExternalSpec(80, 50).to_json(), "in the store")
    assert difference.startswith("description is {'model': 'xxx")
    assert difference.endswith("... there and {} in the store")


def test_the_kinds_are_known_without_torch() -> None:
    code = "import sys, gmmpipe.features.kinds; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

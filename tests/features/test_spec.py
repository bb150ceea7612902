"""What defines a frame: the fingerprint, and the parameters that cannot work."""

import hashlib
import json
import re
import warnings
from dataclasses import dataclass

import pytest
import torchaudio

from gmmpipe import FeatureConfig, LogMelSpec
from gmmpipe.errors import OptionError, StoreError
from gmmpipe.options import option


def has_empty_filter(sample_rate: int, n_fft: int, n_mels: int) -> bool:
    """Whether torchaudio's own filter bank has a column of zeros."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filters = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, 0.0, float(sample_rate // 2), n_mels, sample_rate
        )
    return bool((filters == 0).all(0).any())


def test_the_fingerprint_is_the_sha256_of_the_canonical_json() -> None:
    config = FeatureConfig()
    canonical = json.dumps(config.to_json(), sort_keys=True, separators=(",", ":"))
    assert config.fingerprint == hashlib.sha256(canonical.encode()).hexdigest()


def test_the_fingerprint_changes_with_every_parameter() -> None:
    others = [
        {},
        {"sample_rate": 16002},
        {"n_fft": 402},
        {"hop_length": 319},
        {"n_mels": 79},
    ]
    assert len({FeatureConfig(**other).fingerprint for other in others}) == len(others)


def test_the_default_fingerprint_is_frozen() -> None:
    # A change of this would make every store of version 1 unusable beside new ones.
    frozen = "39893cdb65a4ce9e225218bf1874317498e048cdd44245fb702032b98ac2edbd"
    assert FeatureConfig().fingerprint == frozen


def test_parameters_survive_json() -> None:
    config = FeatureConfig(sample_rate=8000, n_fft=256, hop_length=100, n_mels=20)
    assert FeatureConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    "change", [{"window": "hamming"}, {"n_mels": 0}, {"n_mels": "80"}, {"unheard_of": 1}]
)
def test_parameters_of_another_version_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(StoreError, match="feature parameters"):
        FeatureConfig.from_json({**FeatureConfig().to_json(), **change})


@pytest.mark.parametrize("name", ["sample_rate", "n_fft", "hop_length", "n_mels"])
@pytest.mark.parametrize("value", [0, -1])
def test_values_below_one_are_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(
        OptionError, match=f"{name} is {value}|--strides: {value} holds a stride below 1"
    ):
        FeatureConfig(**{name: value})


def test_a_parameter_of_a_kind_has_bounds_of_its_own() -> None:
    @dataclass(frozen=True)
    class WithDeltas(LogMelSpec):
        deltas: int = option(2, help="Orders of deltas.", low=0)

    assert WithDeltas(deltas=0).deltas == 0
    with pytest.raises(OptionError, match="--deltas is -1, but must be at least 0"):
        WithDeltas(deltas=-1)


def test_a_hop_beyond_the_window_is_refused_and_one_as_long_is_not() -> None:
    assert FeatureConfig(hop_length=400).hop_length == 400
    with pytest.raises(OptionError, match=r"hop of 401 samples .* n_fft = 400"):
        FeatureConfig(hop_length=401)


@pytest.mark.parametrize(
    ("sample_rate", "n_fft"), [(16000, 400), (16000, 512), (8000, 200), (22050, 800), (16000, 64)]
)
def test_exactly_the_filter_banks_with_an_empty_filter_are_refused(
    sample_rate: int, n_fft: int
) -> None:
    empty = [has_empty_filter(sample_rate, n_fft, n_mels) for n_mels in range(1, 161)]
    assert any(empty), "the range of bins must reach banks with an empty filter"
    for n_mels, is_empty in enumerate(empty, start=1):
        if not is_empty:
            FeatureConfig(sample_rate, n_fft, n_fft // 2, n_mels)
            continue
        with pytest.raises(OptionError) as refusal:
            FeatureConfig(sample_rate, n_fft, n_fft // 2, n_mels)
        largest = int(re.search(r"the largest n_mels that works is (\d+)", str(refusal.value))[1])
        assert not empty[largest - 1]
        assert all(empty[largest:n_mels])

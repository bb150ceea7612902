"""A kind of frames is one class, and its name in a list: all else asks the class."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from gmmpipe import FeatureStore, GradientGMM
from gmmpipe.cli.from_dataclass import parameters
from gmmpipe.errors import OptionError
from gmmpipe.features.kinds import KINDS
from gmmpipe.features.spec import ComputedSpec
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.jepa import JEPABatches
from gmmpipe.options import option, options_and_variants
from helpers.making import CORPUS, fit_here, make_store


@dataclass(frozen=True)
class LoudnessSpec(ComputedSpec):
    """Mean absolute values of equal parts of each hop."""

    kind: ClassVar[str] = "loudness"
    option_name: ClassVar[str] = "loudness"
    constants: ClassVar[dict[str, object]] = {}

    parts: int = option(4, help="Parts of a hop.", low=1)

    @property
    def dim(self) -> int:
        return self.parts

    def make_transform(self) -> "Loudness":
        return Loudness(self)


class Loudness:
    def __init__(self, spec: LoudnessSpec) -> None:
        self.spec = spec

    def frames_of(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        hop, parts = self.spec.hop_length, self.spec.parts
        cut = [wav[: len(wav) // hop * hop].view(-1, parts, hop // parts) for wav in waveforms]
        return [frames.abs().mean(2) for frames in cut]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gmmpipe.features.kinds.KINDS", [*KINDS, LoudnessSpec])


def test_the_command_offers_the_kind_and_its_parameters() -> None:
    (kinds,) = (p for p in parameters(FeaturizeOptions) if p.name == "features")
    assert {"logmel", "loudness"} <= set(kinds.type.choices)
    names = [parameter.name for parameter in parameters(FeaturizeOptions)]
    assert names.count("sample_rate") == names.count("parts") == 1
    variant = options_and_variants(FeaturizeOptions)["features"]
    assert variant.build("features", "loudness", {"parts": 2}) == LoudnessSpec(parts=2)
    for choice, given in (("loudness", {"n_mels": 80}), ("logmel", {"parts": 4})):
        with pytest.raises(OptionError, match=f"--{next(iter(given))} has no meaning for"):
            variant.build("features", choice, given)


@pytest.mark.parametrize("kind", ["tar", "zarr"])
def test_frames_of_the_kind_go_from_audio_to_a_jepa(kind: str, tmp_path: Path) -> None:
    spec = LoudnessSpec(parts=5)
    path = make_store(
        *(CORPUS, tmp_path / "store"),
        features=spec,
        format=kind,
        store_audio="flac",
        utterances_per_shard=32,
    )
    store = FeatureStore.open(path)
    assert (store.features, store.dim, len(store)) == (spec, 5, 56)
    fit_here(path, tmp_path / "fit")
    gmm = GradientGMM.load(tmp_path / "fit" / "gmm.pt")
    assert gmm.info["features"]["kind"] == "loudness"
    batch = next(iter(JEPABatches(path, gmm, batch_size=8, wav=True)))
    assert batch.kind == "loudness"
    assert batch.wav.shape == (len(batch.keys), 320 * batch.features.shape[2])
    length = int(batch.lengths[0])
    (again,) = spec.make_transform().frames_of([batch.wav[0, : 320 * length]])
    torch.testing.assert_close(batch.features[0, :, :length].t(), again, atol=1e-4, rtol=1e-3)

"""Mfcc is torchaudio's MFCC and compute_deltas of each utterance alone, frame for frame."""

import pytest
import soundfile
import torch
import torchaudio
from torch import Tensor

from gmmpipe import MfccSpec
from gmmpipe.cli.from_dataclass import parameters
from gmmpipe.errors import OptionError
from gmmpipe.features.kinds import spec_from_json
from gmmpipe.featurization.options import FeaturizeOptions
from gmmpipe.options import options_and_variants
from helpers.making import CORPUS, read_speech

SPECS = [
    MfccSpec(),
    MfccSpec(n_mels=23),
    MfccSpec(hop_length=160, n_mfcc=20, deltas=1),
    MfccSpec(n_fft=512, hop_length=200, n_mels=40, n_mfcc=40, deltas=0),
    MfccSpec(n_fft=401, hop_length=401, n_mels=64, deltas=3),
    MfccSpec(sample_rate=8000, n_fft=200, hop_length=80, n_mels=23, n_mfcc=12),
]


def signal(name: str, num_samples: int) -> Tensor:
    if name == "silence":
        return torch.zeros(num_samples)
    if name == "loud at the end":  # the loudest bin is in the frame that is left out
        quiet = 1e-4 * torch.from_numpy(read_speech()[0][:num_samples]).float()
        quiet[-20:] = 1.0
        return quiet
    return torch.from_numpy(read_speech()[0][:num_samples]).float()


def by_torchaudio(waveform: Tensor, spec: MfccSpec) -> Tensor:
    sizes = {"n_fft": spec.n_fft, "hop_length": spec.hop_length, "n_mels": spec.n_mels}
    transform = torchaudio.transforms.MFCC(
        spec.sample_rate, spec.n_mfcc, log_mels=False, melkwargs=sizes
    )
    orders = [transform(waveform)]
    for _ in range(spec.deltas):
        orders.append(torchaudio.functional.compute_deltas(orders[-1]))
    return torch.cat(orders).t()[: len(waveform) // spec.hop_length]


def recordings() -> list[Tensor]:
    """Every recording of the corpus that has a frame, as mono."""
    paths = sorted(p for p in CORPUS.rglob("*") if p.suffix in {".flac", ".ogg", ".wav"})
    found = [soundfile.read(path, dtype="float32", always_2d=True)[0].mean(1) for path in paths]
    return [torch.from_numpy(samples) for samples in found if len(samples) >= 401]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.sample_rate}-{s.n_fft}-{s.dim}")
@pytest.mark.parametrize("name", ["speech", "silence", "loud at the end"])
@pytest.mark.parametrize("num_samples", [401, 16000, 54321])
def test_frames_are_those_of_torchaudio(spec: MfccSpec, name: str, num_samples: int) -> None:
    waveform = signal(name, num_samples)
    frames = spec.make_transform()(waveform)
    assert frames.shape == (num_samples // spec.hop_length, spec.dim)
    assert (frames - by_torchaudio(waveform, spec)).abs().max() <= 1e-3


def test_recordings_together_have_the_frames_of_each_alone() -> None:
    spec, waveforms = MfccSpec(n_mels=23), recordings()
    assert len(waveforms) > 50
    transform = spec.make_transform()
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            together = transform.frames_of(waveforms)
        for waveform, frames in zip(waveforms, together, strict=True):
            assert (frames - by_torchaudio(waveform, spec)).abs().max() <= 1e-3
            torch.testing.assert_close(frames, transform(waveform), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="100 samples give no frame"):
        transform.frames_of([*waveforms, torch.zeros(100)])


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.sample_rate}-{s.n_fft}-{s.dim}")
def test_the_shortest_waveform_has_a_frame_and_a_shorter_one_is_refused(spec: MfccSpec) -> None:
    shortest, transform = spec.min_samples, spec.make_transform()
    waveform = signal("speech", shortest)
    assert (transform(waveform) - by_torchaudio(waveform, spec)).abs().max() <= 1e-3
    with pytest.raises(ValueError, match=f"{shortest - 1} samples give no frame"):
        transform(signal("speech", shortest - 1))


def test_a_spec_survives_json_and_every_parameter_is_in_its_fingerprint() -> None:
    specs = [MfccSpec(), MfccSpec(n_mels=23), MfccSpec(n_mfcc=12), MfccSpec(deltas=1)]
    assert [spec_from_json(spec.to_json()) for spec in specs] == specs
    assert len({spec.fingerprint for spec in specs}) == len(specs)
    assert (MfccSpec(n_mels=23).dim, specs[3].dim, specs[0].column) == (39, 26, "features")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_mfcc": 24, "n_mels": 23}, "--n_mfcc is 24, but 23 mel bins"),
        ({"n_mfcc": 0}, "--n_mfcc is 0"),
        ({"deltas": -1}, "--deltas is -1"),
        ({"deltas": 157}, "frames of 2054 numbers, but 2048"),
    ],
)
def test_what_no_frame_can_be_is_refused(values: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        MfccSpec(**values)


def test_the_options_of_mfcc_have_no_meaning_for_log_mels_and_both_have_n_mels() -> None:
    names = [parameter.name for parameter in parameters(FeaturizeOptions)]
    assert [names.count(name) for name in ("n_mels", "n_mfcc", "deltas")] == [1, 1, 1]
    variant = options_and_variants(FeaturizeOptions)["features"]
    assert variant.build("features", "mfcc", {"n_mels": 23}) == MfccSpec(n_mels=23)
    for given in ({"n_mfcc": 13}, {"deltas": 2}):
        with pytest.raises(OptionError, match="has no meaning for --features logmel"):
            variant.build("features", "logmel", given)

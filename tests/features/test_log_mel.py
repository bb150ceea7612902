"""LogMel is torchaudio's mel spectrogram, after the logarithm, frame for frame."""

import pytest
import torch
import torchaudio
from torch import Tensor

from gmmpipe import FeatureConfig, LogMel
from helpers.making import read_speech

CONFIGS = [
    FeatureConfig(),
    FeatureConfig(hop_length=160),
    FeatureConfig(n_fft=512, hop_length=200, n_mels=40),
    FeatureConfig(n_fft=401, hop_length=401, n_mels=64),
    FeatureConfig(sample_rate=8000, n_fft=200, hop_length=80, n_mels=23),
]


def signal(name: str, num_samples: int) -> Tensor:
    if name == "silence":
        return torch.zeros(num_samples)
    if name == "square wave":
        return torch.where(torch.arange(num_samples) % 160 < 80, 1.0, -1.0)
    return torch.from_numpy(read_speech()[0][:num_samples]).float()


def by_torchaudio(waveform: Tensor, config: FeatureConfig) -> Tensor:
    transform = torchaudio.transforms.MelSpectrogram(
        config.sample_rate, config.n_fft, hop_length=config.hop_length, n_mels=config.n_mels
    )
    frames = torch.log(transform(waveform) + 1e-6).transpose(-1, -2)
    return frames[..., : waveform.shape[-1] // config.hop_length, :]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.sample_rate}-{c.n_fft}-{c.n_mels}")
@pytest.mark.parametrize("name", ["speech", "silence", "square wave"])
@pytest.mark.parametrize("num_samples", [401, 16000, 54321, 240000])
def test_frames_are_those_of_torchaudio(config: FeatureConfig, name: str, num_samples: int) -> None:
    waveform = signal(name, num_samples)
    frames = LogMel(config)(waveform)
    assert frames.shape == (num_samples // config.hop_length, config.n_mels)
    assert (frames - by_torchaudio(waveform, config)).abs().max() <= 1e-5


def test_digital_silence_is_the_logarithm_of_the_offset() -> None:
    frames = LogMel(FeatureConfig())(torch.zeros(3200))
    assert torch.equal(frames, torch.full((10, 80), 1e-6).log())


def test_a_batch_gives_each_waveform_its_own_frames() -> None:
    batch = signal("speech", 3 * 20011).reshape(3, 20011)
    log_mel = LogMel(FeatureConfig())
    assert log_mel(batch).shape == (3, 62, 80)
    torch.testing.assert_close(
        log_mel(batch), torch.stack([log_mel(w) for w in batch]), atol=1e-5, rtol=0
    )


def test_waveforms_of_any_lengths_together_give_what_each_gives_alone() -> None:
    waveforms = [signal("speech", n) for n in (401, 54321, 16000, 320 * 7 + 319)]
    log_mel = LogMel(FeatureConfig())
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            together = log_mel.frames_of(waveforms)
        for waveform, frames in zip(waveforms, together, strict=True):
            torch.testing.assert_close(frames, log_mel(waveform), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="100 samples give no frame"):
        log_mel.frames_of([*waveforms, signal("speech", 100)])


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.sample_rate}-{c.n_fft}-{c.n_mels}")
def test_the_shortest_waveform_has_a_frame_and_a_shorter_one_is_refused(
    config: FeatureConfig,
) -> None:
    shortest = max(config.hop_length, config.n_fft // 2 + 1)
    log_mel = LogMel(config)
    assert len(log_mel(signal("speech", shortest))) == shortest // config.hop_length
    with pytest.raises(ValueError, match=f"{shortest - 1} samples give no frame; {shortest} would"):
        log_mel(signal("speech", shortest - 1))


def test_autocast_does_not_change_a_bit() -> None:
    waveform, log_mel = signal("speech", 32000), LogMel(FeatureConfig())
    expected = log_mel(waveform)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(log_mel(waveform), expected)
        assert (waveform[None] @ waveform[:, None]).dtype == torch.bfloat16  # autocast was on


def test_frames_carry_no_gradient() -> None:
    assert not LogMel(FeatureConfig())(signal("speech", 3200).requires_grad_()).requires_grad

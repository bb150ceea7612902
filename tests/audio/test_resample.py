"""Banded resampling is torchaudio's, from 4 to 192 kHz, for any length."""

import numpy as np
import pytest
import torch
import torchaudio

from gmmpipe.audio.resample import resample
from helpers.making import read_speech

RATES = [4000, 8000, 11025, 12000, 15984, 22050, 24000, 32000, 44100, 48000, 96000, 176400, 192000]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("num_samples", [1, 17, 4001, 30000])
def test_equals_torchaudios_functional_within_1e_6(rate: int, num_samples: int) -> None:
    samples = torch.from_numpy(np.resize(read_speech(2.0)[0], num_samples).astype(np.float32))
    ours, by = resample(samples, rate, 16000)
    theirs = torchaudio.functional.resample(samples, rate, 16000)
    assert by == "sinc"
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) < 1e-6


@pytest.mark.parametrize("new_rate", [8000, 22050, 24000])
def test_other_target_rates_do_as_well(new_rate: int) -> None:
    samples = torch.from_numpy(read_speech(1.0)[0].astype(np.float32))
    ours, _ = resample(samples, 16000, new_rate)
    theirs = torchaudio.functional.resample(samples, 16000, new_rate)
    assert float((ours - theirs).abs().max()) < 1e-6


@pytest.mark.parametrize("rate", [8000, 16000, 44101])
def test_no_samples_stay_none(rate: int) -> None:
    assert len(resample(torch.zeros(0), rate, 16000)[0]) == 0


@pytest.mark.parametrize("rate", [15999, 44101])
def test_a_tone_through_soxr_keeps_frequency_and_level(rate: int) -> None:
    seconds = torch.arange(rate, dtype=torch.float64) / rate
    tone = torch.sin(2 * torch.pi * 1000 * seconds).float()
    ours, by = resample(tone, rate, 16000)
    assert by == "soxr"
    assert abs(len(ours) - 16000) <= 1
    assert int(torch.fft.rfft(ours[:16000].double()).abs().argmax()) == 1000
    assert float(ours[1000:15000].abs().max()) == pytest.approx(1.0, abs=1e-2)

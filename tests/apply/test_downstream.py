"""What others compute from a model file, or from a waveform, is what gmmpipe says of a store."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from gmmpipe import FeatureStore, GradientGMM, LogMel
from helpers.making import CORPUS


def plain_posteriors(path: Path, frames: np.ndarray) -> np.ndarray:
    """p(k|x) from what docs/formats.md says of gmm.pt and the Gaussian formula, float64 [N, K].

    It uses nothing of gmmpipe, as a JEPA in another code base would not.
    """
    content: dict[str, Any] = torch.load(path, weights_only=True)
    assert content["means"].shape == content["covariances"].shape == (content["K"], content["dim"])
    means, variances, weights = (
        content[name].numpy().astype(np.float64) for name in ("means", "covariances", "weights")
    )
    joints = np.empty((len(frames), len(means)))
    for k in range(len(means)):
        squares = (frames.astype(np.float64) - means[k]) ** 2 / variances[k]
        log_normal = -0.5 * (squares + np.log(2 * math.pi * variances[k])).sum(1)
        joints[:, k] = np.log(weights[k]) + log_normal
    joints -= joints.max(1, keepdims=True)
    posteriors = np.exp(joints)
    return posteriors / posteriors.sum(1, keepdims=True)


def test_a_plain_reader_of_the_model_file_finds_the_same_posteriors(frames, fitted) -> None:
    expected = plain_posteriors(fitted, frames.numpy())
    ours = GradientGMM.load(fitted).soft_assign(frames).numpy()
    assert (expected.max(1) < 0.9).mean() > 0.01, "not all are certain"
    assert np.abs(ours - expected).max() < 1e-4  # float32 covariances give 1e-6 or so
    assert np.array_equal(ours.argmax(1), expected.argmax(1))


@pytest.fixture(scope="module")
def pairs(store: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Frames computed from waveforms, and the same utterances' frames from the store."""
    opened = FeatureStore.open(store)
    log_mel = LogMel(opened.features)
    found = []
    for utterance in opened.utterances():
        samples, rate = soundfile.read(CORPUS / utterance.metadata["wav_path"], dtype="float32")
        if rate == 16000 and samples.ndim == 1:
            found.append((log_mel(torch.from_numpy(samples)), utterance.features))
    assert len(found) > 10
    return found


def test_frames_of_a_waveform_are_the_stored_ones_before_rounding(pairs) -> None:
    for computed, stored in pairs:
        assert torch.equal(computed.half().float(), stored)


def test_posteriors_of_a_waveform_are_those_of_the_store(pairs, fitted) -> None:
    gmm = GradientGMM.load(fitted)
    computed, stored = (torch.cat(frames) for frames in zip(*pairs, strict=True))
    there = gmm.soft_assign(stored)
    assert torch.equal(gmm.soft_assign(computed.half()), there)
    unrounded = gmm.soft_assign(computed)
    assert (unrounded - there).abs().mean() < 1e-4
    assert (unrounded.argmax(1) == there.argmax(1)).double().mean() > 0.998

"""Fits at the edges: silence, one short store, positions that narrow numbers do not hold."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from gmmpipe import FeatureStore, GradientGMM
from helpers.making import fit_here, make_store, read_speech
from helpers.results import read_metrics

SILENCE = math.log(1e-6)


@pytest.fixture
def write_store(write_manifest: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Makes a store of waveforms, one utterance each."""

    def write(**waveforms: np.ndarray) -> Path:
        for name, samples in waveforms.items():
            soundfile.write(tmp_path / f"{name}.flac", samples, 16000)
        manifest = write_manifest(*({"wav_path": f"{name}.flac"} for name in waveforms))
        return make_store(manifest, tmp_path / "store", utterances_per_shard=1)

    return write


@pytest.mark.parametrize("optimizer", ["adam", "em"])
@pytest.mark.parametrize("init", ["kmeans", "kmeans++", "random"])
def test_digital_silence_is_fitted_at_the_floor(init, optimizer, write_store, tmp_path) -> None:
    """All frames are one point: no variance, and more components than distinct frames."""
    store = write_store(silence=np.zeros(48_000), more=np.zeros(32_000))
    fit_here(store, tmp_path / "out", K=8, init=init, optimizer=optimizer, target_frames=600)
    model = GradientGMM.load(tmp_path / "out" / "gmm.pt")
    score = float(model.score_samples(torch.full((1, 80), SILENCE)))
    # float16 holds ln 1e-6 to within 4e-3.
    assert score == pytest.approx(-40 * math.log(2 * math.pi * 0.1), abs=0.05)
    assert np.isfinite(np.loadtxt(tmp_path / "out" / "metrics.tsv", skiprows=1)).all()


@pytest.mark.parametrize("optimizer", ["adam", "em"])
def test_silence_among_speech_does_no_harm(optimizer, write_store, tmp_path) -> None:
    """With a floor so low that float32's cancellation would show as a negative variance."""
    store = write_store(silence=np.zeros(160_000), speech=read_speech(20)[0])
    sizes = {"target_frames": 6000, "batch_update_size": 1500, "var_floor": 1e-4}
    fit_here(store, tmp_path / "out", optimizer=optimizer, **sizes)
    content = torch.load(tmp_path / "out" / "gmm.pt", weights_only=True)
    assert torch.isfinite(content["means"]).all()
    assert content["log_vars"].min() >= math.log(1e-4) - 1e-4
    assert np.isfinite(np.loadtxt(tmp_path / "out" / "metrics.tsv", skiprows=1)).all()


def test_uneven_shards_and_a_store_smaller_than_an_update(write_store, tmp_path) -> None:
    """One shard has 2 frames, one 700; an update is the whole store, epoch after epoch."""
    speech = read_speech()[0]
    store = write_store(a=speech[:640], b=speech[: 700 * 320], c=speech[-320 * 37 :])
    assert sorted(FeatureStore.open(store).frames_per_shard) == [2, 37, 700]
    summary = fit_here(store, tmp_path / "out", batch_update_size=10**6, target_frames=2000)
    updates = read_metrics(tmp_path / "out")["frames"]
    assert updates == [739, 2 * 739, 2000]
    assert (summary.frames_read, summary.frames_used) == (2000, 2000)


@pytest.mark.parametrize("updates", [2**24 // 4000 + 1, 2**31 // 4000 + 1, 2**53 // 4000 + 1])
@pytest.mark.parametrize("optimizer", ["adam", "em"])
def test_a_fit_goes_on_beyond_what_narrow_numbers_hold(
    updates, optimizer, store, tmp_path, monkeypatch
) -> None:
    """From a checkpoint that says it is as far: float32 counts to 2^24, int32 to 2^31."""
    # It lacks the rows of metrics of all those updates, which no disk would hold.
    monkeypatch.setattr("gmmpipe.fitting.checkpoint.check_state", lambda content: None)
    sizes = {"optimizer": optimizer, "n_sgd_steps": 2}
    fit_here(store, tmp_path, **sizes, target_frames=4000)
    content = torch.load(tmp_path / "gmm.pt", weights_only=True)
    done = 4000 * updates
    content["frames"], content["resume"]["updates"] = done, updates
    if optimizer == "adam":
        content["resume"]["optimizer"]["count"] = 2 * updates
    torch.save(content, tmp_path / "far.pt")
    out = tmp_path / "out"
    resume = str(tmp_path / "far.pt")
    summary = fit_here(store, out, **sizes, resume=resume, target_frames=done + 6001)
    assert (summary.frames, summary.updates) == (done + 6001, updates + 2)
    assert summary.frames_used == 6001
    rows = [row.split("\t")[:2] for row in (out / "metrics.tsv").read_text().splitlines()[-2:]]
    assert rows == [[str(done + 4000), str(updates + 1)], [str(done + 6001), str(updates + 2)]]
    assert torch.load(out / "gmm.pt", weights_only=True)["frames"] == done + 6001

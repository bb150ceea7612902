"""The JEPA recipe as it is run: killed, stopped, shared by ranks, and given what it cannot use."""

import math
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from recipe import SCRIPT, arguments, assert_same_run, train_here

from gmmpipe import FeatureStore, GradientGMM
from gmmpipe.errors import CheckpointError
from helpers.damage import flip, flip_in_frames
from helpers.processes import pause, run, torchrun, wait_until
from helpers.results import num_updates, read_metrics
from pipelines.jepa import compare
from pipelines.jepa.checkpoint import load_jepa
from pipelines.jepa.compare import Measured, input_frames, kmeans_entropy
from pipelines.jepa.evaluation import EvaluationSample
from pipelines.jepa.train import main

pytest_plugins = ["recipe_fixtures"]


def test_a_run_writes_metrics_and_an_encoder(uninterrupted, store, gmm_path) -> None:
    metrics = read_metrics(uninterrupted)
    wanted = "step jepa_loss cluster_loss cluster_weight usage_entropy effective_rank feature_std"
    assert list(metrics)[:7] == wanted.split()
    assert metrics["step"] == [*range(7, 120, 7), 120]
    assert metrics["cluster_weight"][-1] == pytest.approx(0.01)
    for name, column in metrics.items():
        assert torch.tensor(column).isfinite().all(), name
    assert metrics["cluster_loss"][-1] < 0.8 * metrics["marginal_loss"][-1]
    jepa, target = load_jepa(uninterrupted / "jepa.pt")
    utt = next(FeatureStore.open(store).utterances())
    keep = torch.ones(1, len(utt.features), dtype=torch.bool)
    for encoder in (jepa.encoder, target):
        assert encoder(utt.features.T[None], keep).shape == (len(utt.features), 32)
    different = [
        name
        for name, value in jepa.encoder.state_dict().items()
        if not torch.equal(value, target.state_dict()[name])
    ]
    assert len(different) > 10, "the target encoder lags behind"


def test_a_damaged_model_is_passed_over_and_made_again(
    uninterrupted, store, gmm_path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(uninterrupted, tmp_path / "damaged"))
    flip(damaged / "jepa.pt")
    train_here(store, gmm_path, damaged, resume="auto")
    assert_same_run(damaged, uninterrupted)


def test_the_comparison_measures_a_run(uninterrupted, store, gmm_path) -> None:
    jepa, _ = load_jepa(uninterrupted / "jepa.pt")
    sample = EvaluationSample.read(FeatureStore.open(store), jepa, seed=0, num_utterances=56)
    features, metrics = sample.encode(jepa, jepa.encoder), compare.read_metrics(uninterrupted)
    row = Measured("anchored", 0, features, metrics).row()
    assert row[2].endswith(" of 32")
    assert row[-2] == f"{metrics['jepa_loss'][-1]:.4f}"
    assert kmeans_entropy(features) == kmeans_entropy(features) > math.log(16)
    apart = torch.arange(640.0).remainder(64)[:, None] * 1000
    assert kmeans_entropy(apart) == pytest.approx(math.log(64))
    frames = input_frames(sample, jepa.sizes, GradientGMM.load(gmm_path))
    assert frames.shape == (8561, 80)
    assert frames.mean(0).abs().max() < 0.1


def test_a_killed_run_goes_on_as_if_it_never_was(
    uninterrupted, store, gmm_path, tmp_path, start
) -> None:
    """With a loader process, which the run in one piece has not."""
    out = tmp_path / "out"
    options = arguments(store, gmm_path, out, resume="auto", num_workers=1)
    process = start([sys.executable, SCRIPT, *options])
    wait_until((out / "jepa_ckpt_50.pt").exists, process)
    pause(0, 0.2)  # some steps later
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (out / "jepa.pt").exists()
    done = run([sys.executable, SCRIPT, *options])
    assert "going on from" in done.stderr
    assert_same_run(uninterrupted, out)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_keeps_its_step_and_goes_on_exactly(
    number, status, uninterrupted, store, gmm_path, tmp_path, start
) -> None:
    out = tmp_path / "out"
    process = start([sys.executable, SCRIPT, *arguments(store, gmm_path, out)])
    wait_until(lambda: num_updates(out) >= 5, process)
    process.send_signal(number)
    assert process.wait() == status
    steps = {int(path.stem.split("_")[-1]) for path in out.glob("jepa_ckpt_*.pt")}
    assert max(steps) >= 35
    train_here(store, gmm_path, out, resume="auto")
    assert_same_run(uninterrupted, out)


def test_two_ranks_take_the_steps_of_one(store, gmm_path, tmp_path) -> None:
    """From where one rank was. Seven utterances a step: four here and three there."""
    sizes = {"max_steps": 30, "batch_size": 7, "save_every": 10}
    one = train_here(store, gmm_path, tmp_path / "one", **sizes)
    two = tmp_path / "two"
    two.mkdir()
    shutil.copy(one / "jepa_ckpt_10.pt", two)
    run([*torchrun(2, SCRIPT), *arguments(store, gmm_path, two, **sizes, resume="auto")])
    there, here = read_metrics(one), read_metrics(two)
    assert here["step"] == there["step"] == [7, 14, 21, 28, 30]
    for name in there:
        assert here[name] == pytest.approx(there[name], rel=1e-3, abs=1e-3), name
    models = [torch.load(folder / "jepa.pt", weights_only=True)["jepa"] for folder in (one, two)]
    for name, value in models[0].items():
        assert (value - models[1][name]).abs().max() < 1e-2, name


def test_steps_of_a_length_are_gone_on_with(store, gmm_path, tmp_path) -> None:
    sizes = {"batch_size": None, "max_seconds": 20.0, "max_steps": 12, "save_every": 5}
    whole = train_here(store, gmm_path, tmp_path / "whole", **sizes)
    rest = tmp_path / "rest"
    rest.mkdir()
    shutil.copy(whole / "jepa_ckpt_5.pt", rest)
    with pytest.raises(CheckpointError, match=r"max_seconds is 20\.0 there and 30\.0 here"):
        train_here(store, gmm_path, rest, **{**sizes, "max_seconds": 30.0}, resume="auto")
    train_here(store, gmm_path, rest, **sizes, resume="auto")
    assert_same_run(whole, rest)


def test_noise_and_mixing_are_gone_on_with(audio_stores, gmm_path, tmp_path) -> None:
    options = {"input": "wav", "mix_prob": 0.5, "noise_prob": 0.5, "max_steps": 6, "save_every": 3}
    whole = train_here(audio_stores["tar"], gmm_path, tmp_path / "whole", **options)
    clean = {**options, "mix_prob": 0.0, "noise_prob": 0.0}
    rest = tmp_path / "rest"
    rest.mkdir()
    shutil.copy(whole / "jepa_ckpt_3.pt", rest)
    with pytest.raises(CheckpointError, match=r"mix_prob is 0\.5 there and 0\.0 here"):
        train_here(audio_stores["tar"], gmm_path, rest, **clean, resume="auto")
    train_here(audio_stores["tar"], gmm_path, rest, **options, resume="auto")
    assert_same_run(whole, rest)
    other = train_here(audio_stores["tar"], gmm_path, tmp_path / "clean", **clean)
    assert read_metrics(other)["jepa_loss"] != read_metrics(whole)["jepa_loss"]


def test_it_learns_from_waveforms(audio_stores, gmm_path, tmp_path) -> None:
    sizes = {"input": "wav", "max_steps": 60, "log_every": 10, "lr": 3e-3, "conv_dim": 16}
    out = train_here(audio_stores["tar"], gmm_path, tmp_path / "out", **sizes)
    metrics = read_metrics(out)
    assert torch.tensor(list(metrics.values())).isfinite().all()
    assert metrics["cluster_loss"][-1] < 0.9 * metrics["marginal_loss"][-1]
    jepa, _ = load_jepa(out / "jepa.pt")
    assert jepa.sizes.input == "wav"


def invoke(*options: str) -> Any:
    return CliRunner().invoke(main, list(options))


def test_what_cannot_be_done_is_said_in_a_line(uninterrupted, store, gmm_path, tmp_path) -> None:
    out = tmp_path / "out"
    good = arguments(store, gmm_path, out)
    cases = {
        "no such file": [*good, "--gmm_path", str(tmp_path / "none.pt")],
        "holds no audio": [*good, "--input", "wav"],
        "store.json": [*good, "--data_dir", str(tmp_path)],
        "holds a run already": [*good, "--output_dir", str(uninterrupted)],
        "lr is 0.001 there and 0.002 here": [
            *(*good, "--output_dir", str(uninterrupted), "--resume", "auto", "--lr", "0.002")
        ],
        "lacks jepa, sizes": [*good, "--resume", str(gmm_path)],
    }
    for message, options in cases.items():
        done = invoke(*options)
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1), (message, done.output)
        assert message in done.stderr.replace("\n", " "), done.output
    for options in ([*good, "--dim", "30"], [*good, "--resume", "auto", "--overwrite"]):
        assert invoke(*options).exit_code == 2
    assert not list(tmp_path.glob("out/jepa*"))


def test_a_finished_run_has_nothing_to_do(uninterrupted, store, gmm_path) -> None:
    before = (uninterrupted / "jepa.pt").stat().st_mtime_ns
    done = invoke(*arguments(store, gmm_path, uninterrupted, resume="auto"))
    assert done.exit_code == 0
    assert "120 steps are done already" in done.stderr
    assert (uninterrupted / "jepa.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_shard_is_named_and_never_trained_on(
    num_workers, store_copy, gmm_path, tmp_path
) -> None:
    path = flip_in_frames(store_copy, shard=2)
    options = arguments(store_copy, gmm_path, tmp_path / "out", num_workers=num_workers)
    done = invoke(*options)
    assert done.exit_code == 1
    assert f"error: {path}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "jepa.pt").exists()

"""Whole fits on a GPU: as on a CPU, on one rank or two, killed and gone on with."""

import signal
from pathlib import Path

import pytest
import torch

from gmmpipe.run.world import World
from helpers.making import fit_arguments, fit_here
from helpers.processes import GMMPIPE, Started, pause, run, torchrun, wait_until
from helpers.results import assert_same_fit, num_updates, read_metrics

SIZES = {
    "K": 24,
    "target_frames": 6000,
    "batch_update_size": 2000,
    "n_sgd_steps": 300,
    "sgd_batch_size": 1003,
    "save_every": 2000,
    "init": "random",
}
"""Seeded by frames: rounding tips no choice among them, and on a GPU k-means adds in any order."""
SLOW = {"cpu": {}, "cuda": {"n_sgd_steps": 5000}}
"""Time enough to be in the midst of an update."""


def assert_close_fits(one: Path, other: Path) -> None:
    """As fits on other numbers of ranks are held to."""
    here, there = (read_metrics(folder)["nll"] for folder in (one, other))
    assert here == pytest.approx(there, abs=1e-3)
    here, there = (torch.load(folder / "gmm.pt", weights_only=True) for folder in (one, other))
    heavy = here["weights"] > 1e-4
    assert heavy.sum() > 20
    assert (here["means"] - there["means"])[heavy].abs().max() < 1e-2


@pytest.mark.parametrize("optimizer", ["adam", "em"])
def test_a_fit_is_that_of_a_cpu(optimizer: str, store, device, tmp_path) -> None:
    how = {**SIZES, "n_sgd_steps": 60, "optimizer": optimizer}
    for name, place in (("cpu", "cpu"), ("there", device)):
        fit_here(store, tmp_path / name, World(0, 1, torch.device(place)), **how)
    assert_close_fits(tmp_path / "cpu", tmp_path / "there")


def test_a_killed_and_a_stopped_fit_go_on_as_if_they_never_were(
    store, device, tmp_path, start: Started
) -> None:
    """Killed after its first checkpoint, gone on with, stopped within an update, gone on with."""
    whole, out, how = tmp_path / "whole", tmp_path / "out", {**SIZES, **SLOW[device.type]}
    fit_here(store, whole, World(0, 1, device), **how)
    command = [*GMMPIPE, *fit_arguments(store, out, **how, device=device.type, resume="auto")]
    process = start(command)
    wait_until((out / "gmm_ckpt_0.002M.pt").exists, process)
    pause(device, 0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL

    written = (out / "metrics.tsv").stat().st_ino
    process = start(command)
    wait_until(lambda: (out / "metrics.tsv").stat().st_ino != written, process)
    process.terminate()
    assert process.wait() == 143
    assert num_updates(out) in (1, 2)
    assert not (out / "gmm.pt").exists()
    run(command)
    assert_same_fit(whole, out)


def test_two_ranks_fit_what_one_does(store, device, tmp_path) -> None:
    """Over NCCL on two GPUs, over gloo on a CPU."""
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU here, not two")
    how = {**SIZES, "n_sgd_steps": 60, "device": device.type}
    fit_here(store, tmp_path / "one", World(0, 1, device), **how)
    run([*torchrun(2, "-m", "gmmpipe"), *fit_arguments(store, tmp_path / "two", **how)])
    assert_close_fits(tmp_path / "one", tmp_path / "two")

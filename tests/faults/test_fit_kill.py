"""A fit that is killed or stopped anywhere, and gone on with, is the fit that never was."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from helpers.making import fit_arguments, fit_here
from helpers.processes import (
    GMMPIPE,
    Started,
    children_of,
    pause,
    run,
    torchrun,
    wait_for_the_end_of,
    wait_until,
)
from helpers.results import assert_same_fit, num_updates, read_metrics

# Four updates of about half a second each: time enough to be in the midst of one.
SIZES = {
    "K": 64,
    "target_frames": 8000,
    "batch_update_size": 2000,
    "n_sgd_steps": 500,
    "sgd_batch_size": 1024,
    "save_every": 2000,
}
TWO = torchrun(2, "-m", "gmmpipe")


@pytest.fixture(scope="module")
def uninterrupted(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "one"
    fit_here(store, folder, **SIZES)  # with one thread, as the processes below
    return folder


@pytest.mark.parametrize("checkpoint", ["gmm_ckpt_0.002M.pt", "gmm_ckpt_0.006M.pt"])
def test_a_killed_fit_goes_on_as_if_it_never_was(
    checkpoint, uninterrupted, store, tmp_path, start: Started
) -> None:
    out = tmp_path / "out"
    arguments = fit_arguments(store, out, **SIZES, resume="auto")
    process = start([*GMMPIPE, *arguments])
    wait_until((out / checkpoint).exists, process)
    pause(checkpoint, 0.15)  # anywhere in the steps that follow, or in a write
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (out / "gmm.pt").exists()
    run([*GMMPIPE, *arguments])
    assert_same_fit(uninterrupted, out)


def test_a_stopped_fit_leaves_a_checkpoint_within_its_update_and_goes_on_exactly(
    uninterrupted, store, tmp_path, start: Started
) -> None:
    """Stopped by each of the three signals in turn."""
    out = tmp_path / "out"
    arguments = fit_arguments(store, out, **SIZES, resume="auto")

    # metrics.tsv appears when the steps of the first update begin.
    process = start([*GMMPIPE, *arguments])
    wait_until(lambda: num_updates(out) == 0, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    (checkpoint,) = out.glob("gmm_ckpt_*.pt")
    assert checkpoint.name.startswith("gmm_ckpt_0M-s")
    step = torch.load(checkpoint, weights_only=True)["resume"]["step"]
    assert checkpoint.name == f"gmm_ckpt_0M-s{step}.pt"
    assert 0 < step < 500

    for number, status in ((signal.SIGUSR1, 143), (signal.SIGINT, 130)):
        written = (out / "metrics.tsv").stat().st_ino
        process = start([*GMMPIPE, *arguments])
        wait_until(lambda before=written: (out / "metrics.tsv").stat().st_ino != before, process)
        pause(number, 0.15)
        process.send_signal(number)
        assert process.wait() == status

    assert not (out / "gmm.pt").exists()
    run([*GMMPIPE, *arguments])
    assert_same_fit(uninterrupted, out)


def test_a_signal_while_the_mixture_is_seeded_ends_the_fit_and_leaves_nothing(
    store, tmp_path, start: Started
) -> None:
    out = tmp_path / "out"
    sizes = {**SIZES, "K": 2000, "batch_update_size": 8561, "target_frames": 8561}
    process = start([*GMMPIPE, *fit_arguments(store, out, **sizes)])
    wait_until(out.exists, process)
    pause("seeding", 0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert list(out.iterdir()) == []


SIZES_ON_TWO = {**SIZES, "target_frames": 4000, "n_sgd_steps": 1000}


@pytest.fixture(scope="module")
def on_two_ranks(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "two"
    run([*TWO, *fit_arguments(store, folder, **SIZES_ON_TWO)])
    return folder


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_a_stopped_torchrun_keeps_the_step_and_goes_on_on_two_ranks_or_one(
    signum, on_two_ranks, store, tmp_path, start: Started
) -> None:
    """The last two end torchrun itself at once, and its ranks see that they have lost it."""
    out, on_one = tmp_path / "out", tmp_path / "one"
    # In the second update: by then, no rank is still on its way to the first step.
    process = start([*TWO, *fit_arguments(store, out, **SIZES_ON_TWO)])
    wait_until((out / "gmm_ckpt_0.002M.pt").exists, process)
    pause(signum, 0.3)
    ranks = children_of(process.pid)
    assert len(ranks) == 2
    process.send_signal(signum)
    assert process.wait() != 0
    wait_for_the_end_of(ranks)
    stopped = [path for path in out.glob("gmm_ckpt_*.pt") if path.name != "gmm_ckpt_0.002M.pt"]
    # None where the ranks, on a busy machine, were not at the update's first step yet.
    assert len(stopped) <= 1, "all ranks stop after the same step, and one writes"
    assert all(path.name.startswith("gmm_ckpt_0.002M-s") for path in stopped)
    assert not (out / "gmm.pt").exists()

    shutil.copytree(out, on_one)
    run([*TWO, *fit_arguments(store, out, **SIZES_ON_TWO, resume="auto")])
    assert_same_fit(on_two_ranks, out)
    run([*GMMPIPE, *fit_arguments(store, on_one, **SIZES_ON_TWO, resume="auto")])
    there, here = (read_metrics(folder)["nll"] for folder in (on_two_ranks, on_one))
    assert here == pytest.approx(there, abs=1e-3)
    models = [folder / "gmm.pt" for folder in (on_two_ranks, on_one)]
    there, here = (torch.load(model, weights_only=True) for model in models)
    heavy = there["weights"] > 1e-4
    assert (there["means"] - here["means"])[heavy].abs().max() < 1e-2


def test_torchrun_starts_the_ranks_anew_where_one_is_killed(
    on_two_ranks, store, tmp_path, start: Started
) -> None:
    """They meet where the dead ones met, whose words may still be there."""
    out = tmp_path / "out"
    command = torchrun(2, "--max-restarts=1", "-m", "gmmpipe")
    process = start([*command, *fit_arguments(store, out, **SIZES_ON_TWO, resume="auto")])
    wait_until(lambda: num_updates(out) == 1, process)
    pause("restart", 0.1)
    os.kill(children_of(process.pid)[0], signal.SIGKILL)
    assert process.wait(200) == 0
    assert "going on from" in start.output()
    assert_same_fit(on_two_ranks, out)

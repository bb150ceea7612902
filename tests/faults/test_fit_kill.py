"""A fit that is killed or stopped anywhere, and gone on with, is the fit that never was."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import ROOT, assert_same_fit, fit_arguments, fit_here, one_thread, run, torchrun

# Four updates of about half a second each: time enough to be in the midst of one.
SIZES = {
    "K": 64,
    "target_frames": 8000,
    "batch_update_size": 2000,
    "n_sgd_steps": 500,
    "sgd_batch_size": 1024,
    "save_every": 2000,
}
ONE = [sys.executable, "-m", "gmmpipe"]
TWO = torchrun(2, "-m", "gmmpipe")
Start = Callable[[list[str]], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path):
    """Starts a command in the background; what is left of it at the end is killed."""
    started = []

    def begin(command: list[str]) -> subprocess.Popen[str]:
        output = open(tmp_path / f"output-{len(started)}.txt", "w")
        streams = {"stdout": output, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=ROOT, env=one_thread(), text=True, **streams)
        output.close()
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Return as soon as something has happened, while the process still runs."""
    while not happened():
        assert process.poll() is None, "the fit ended too soon"
        time.sleep(0.005)


def num_rows(folder: Path) -> int:
    """Rows of metrics.tsv; -1 where there is none yet."""
    path = folder / "metrics.tsv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else -1


@pytest.fixture(scope="module")
def uninterrupted(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "one"
    fit_here(store, folder, **SIZES)  # with one thread, as the processes below
    return folder


@pytest.mark.parametrize("checkpoint", ["gmm_ckpt_0.002M.pt", "gmm_ckpt_0.006M.pt"])
def test_a_killed_fit_goes_on_as_if_it_never_was(
    checkpoint, uninterrupted, store, tmp_path, start: Start
) -> None:
    out = tmp_path / "out"
    arguments = fit_arguments(store, out, **SIZES, resume="auto")
    process = start([*ONE, *arguments])
    wait_until((out / checkpoint).exists, process)
    time.sleep(random.uniform(0, 0.15))  # anywhere in the steps that follow, or in a write
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (out / "gmm.pt").exists()
    run([*ONE, *arguments])
    assert_same_fit(uninterrupted, out)


def test_a_stopped_fit_leaves_a_checkpoint_within_its_update_and_goes_on_exactly(
    uninterrupted, store, tmp_path, start: Start
) -> None:
    """Stopped by each of the three signals in turn."""
    out = tmp_path / "out"
    arguments = fit_arguments(store, out, **SIZES, resume="auto")

    # metrics.tsv appears when the steps of the first update begin.
    process = start([*ONE, *arguments])
    wait_until(lambda: num_rows(out) == 0, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    (checkpoint,) = out.glob("gmm_ckpt_*.pt")
    assert checkpoint.name.startswith("gmm_ckpt_0M-s")
    step = torch.load(checkpoint, weights_only=True)["resume"]["step"]
    assert checkpoint.name == f"gmm_ckpt_0M-s{step}.pt"
    assert 0 < step < 500

    for number, status in ((signal.SIGUSR1, 143), (signal.SIGINT, 130)):
        written = (out / "metrics.tsv").stat().st_ino
        process = start([*ONE, *arguments])
        wait_until(lambda before=written: (out / "metrics.tsv").stat().st_ino != before, process)
        time.sleep(random.uniform(0, 0.15))
        process.send_signal(number)
        assert process.wait() == status

    assert not (out / "gmm.pt").exists()
    run([*ONE, *arguments])
    assert_same_fit(uninterrupted, out)


def test_a_signal_while_the_mixture_is_seeded_ends_the_fit_and_leaves_nothing(
    store, tmp_path, start: Start
) -> None:
    out = tmp_path / "out"
    sizes = {**SIZES, "K": 2000, "batch_update_size": 8561, "target_frames": 8561}
    process = start([*ONE, *fit_arguments(store, out, **sizes)])
    wait_until(out.exists, process)
    time.sleep(random.uniform(0, 0.3))
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert list(out.iterdir()) == []


def read_nll(folder: Path) -> list[float]:
    header, *rows = (folder / "metrics.tsv").read_text().splitlines()
    return [float(row.split("\t")[header.split("\t").index("nll")]) for row in rows]


SIZES_ON_TWO = {**SIZES, "target_frames": 4000, "n_sgd_steps": 1000}


@pytest.fixture(scope="module")
def on_two_ranks(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted") / "two"
    run([*TWO, *fit_arguments(store, folder, **SIZES_ON_TWO)])
    return folder


def children(pid: int) -> list[Path]:
    """The /proc folders of a process's children."""
    numbers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [Path("/proc", number) for number in numbers]


def is_running(process: Path) -> bool:
    """Whether the process of a /proc folder is there, and not dead though nobody asked for it."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_a_stopped_torchrun_keeps_the_step_and_goes_on_on_two_ranks_or_one(
    signum, on_two_ranks, store, tmp_path, start: Start
) -> None:
    """The last two end torchrun itself at once, and its ranks see that they have lost it."""
    out, on_one = tmp_path / "out", tmp_path / "one"
    # In the second update: by then, no rank is still on its way to the first step.
    process = start([*TWO, *fit_arguments(store, out, **SIZES_ON_TWO)])
    wait_until(lambda: num_rows(out) == 1, process)
    time.sleep(0.1)
    ranks = children(process.pid)
    assert len(ranks) == 2
    process.send_signal(signum)
    assert process.wait() != 0
    deadline = time.monotonic() + 30
    while any(map(is_running, ranks)):
        assert time.monotonic() < deadline, "a rank runs on"
        time.sleep(0.05)
    stopped = [path for path in out.glob("gmm_ckpt_*.pt") if path.name != "gmm_ckpt_0.002M.pt"]
    assert len(stopped) == 1, "all ranks stop after the same step, and one writes"
    assert stopped[0].name.startswith("gmm_ckpt_0.002M-s")
    assert not (out / "gmm.pt").exists()

    shutil.copytree(out, on_one)
    run([*TWO, *fit_arguments(store, out, **SIZES_ON_TWO, resume="auto")])
    assert_same_fit(on_two_ranks, out)
    run([*ONE, *fit_arguments(store, on_one, **SIZES_ON_TWO, resume="auto")])
    assert read_nll(on_one) == pytest.approx(read_nll(on_two_ranks), abs=1e-3)
    models = [folder / "gmm.pt" for folder in (on_two_ranks, on_one)]
    there, here = (torch.load(model, weights_only=True) for model in models)
    heavy = there["weights"] > 1e-4
    assert (there["means"] - here["means"])[heavy].abs().max() < 1e-2


def test_torchrun_starts_the_ranks_anew_where_one_is_killed(
    on_two_ranks, store, tmp_path, start: Start
) -> None:
    """They meet where the dead ones met, whose words may still be there."""
    out = tmp_path / "out"
    command = torchrun(2, "--max-restarts=1", "-m", "gmmpipe")
    process = start([*command, *fit_arguments(store, out, **SIZES_ON_TWO, resume="auto")])
    wait_until(lambda: num_rows(out) == 1, process)
    time.sleep(0.1)
    os.kill(int(children(process.pid)[0].name), signal.SIGKILL)
    assert process.wait(200) == 0
    assert "going on from" in (tmp_path / "output-0.txt").read_text()
    assert_same_fit(on_two_ranks, out)

"""Who may write into a fit's folder, and what is left of the old fit when a new one replaces it."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import (
    ROOT,
    SMALL_FIT,
    assert_same_fit,
    file_bytes,
    fit_arguments,
    fit_here,
    one_thread,
)
from gmmpipe import FeatureStore
from gmmpipe.errors import CheckpointError, ClaimError, GmmpipeError, RankGoneError, Stopped
from gmmpipe.fitting.folder import FitFolder
from gmmpipe.fitting.options import FitOptions
from gmmpipe.fitting.schedule import Schedule, Update
from gmmpipe.fitting.trainer import Trainer
from gmmpipe.run.world import World


@pytest.fixture(scope="module")
def old(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished fit; not to be changed."""
    folder = tmp_path_factory.mktemp("replaced") / "old"
    fit_here(store, folder, K=8)
    return folder


@pytest.fixture(scope="module")
def new(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is to replace it; not to be changed."""
    folder = tmp_path_factory.mktemp("replaced") / "new"
    fit_here(store, folder)
    return folder


@pytest.fixture
def copy(old: Path, tmp_path: Path) -> Path:
    """The old fit, and what is not a fit's: another model, notes, a store's shard."""
    folder = Path(shutil.copytree(old, tmp_path / "copy"))
    for name in NOT_ITS_OWN:
        (folder / name).write_text("mine")
    return folder


NOT_ITS_OWN = ("gmm_ckpt_best.pt", "gmm_ckpt_0.004M.pt.bak", "notes.txt", "shard-000000.tar")


def test_a_fit_that_replaces_another_deletes_only_that(copy, new, store) -> None:
    fit_here(store, copy, overwrite=True)
    assert_same_fit(new, copy)
    assert set(file_bytes(copy)) == {*file_bytes(new), *NOT_ITS_OWN}


def stop_at(monkeypatch: pytest.MonkeyPatch, index: int, step: int) -> None:
    """Let a real signal arrive just as a step is about to be taken."""
    rate_at = Schedule.rate_at

    def stopping(rules: Schedule, update: Update, at: int) -> float:
        if (update.index, at) == (index, step):
            signal.raise_signal(signal.SIGTERM)
        return rate_at(rules, update, at)

    monkeypatch.setattr(Schedule, "rate_at", stopping)


def test_the_old_fit_stays_until_the_new_one_has_a_checkpoint(
    copy, old, new, store, monkeypatch
) -> None:
    """Seen from within its first update; a stop in there leaves one, and then it has."""
    seen: dict[str, bytes] = {}
    with monkeypatch.context() as patch:
        stop_at(patch, 0, 20)
        write = FitFolder.save_checkpoint

        def look(folder: FitFolder, state: Any) -> None:
            seen.update(file_bytes(copy))
            write(folder, state)

        patch.setattr(FitFolder, "save_checkpoint", look)
        with pytest.raises(Stopped):
            fit_here(store, copy, overwrite=True)
    assert {name: seen[name] for name in file_bytes(old)} == file_bytes(old)
    names = {"gmm_ckpt_0M-s22.pt", "metrics.tsv", "options.yaml"}
    assert set(file_bytes(copy)) == {*names, *NOT_ITS_OWN}
    fit_here(store, copy, resume="auto")
    assert_same_fit(new, copy)


@pytest.mark.parametrize("meanwhile", [None, {}, {"K": 8, "seed": 1}])
def test_a_rank_that_wakes_while_it_replaces_a_fit_leaves_what_is_of_use(
    meanwhile, copy, new, store, monkeypatch
) -> None:
    """Nothing, where the same command or another one has replaced that fit already."""
    seen: dict[str, bytes] = {}
    trainer = a_trainer(store, copy)
    rate_at = Schedule.rate_at

    def sleep(rules: Schedule, update: Update, at: int) -> float:
        if at < 20:
            return rate_at(rules, update, at)
        monkeypatch.undo()
        trainer.folder.close()  # as it is of the ranks that have no claim
        if meanwhile is not None:
            fit_here(store, copy, **meanwhile, overwrite=True)
        seen.update(file_bytes(copy))
        raise RankGoneError("rank 0 is gone")

    monkeypatch.setattr(Schedule, "rate_at", sleep)
    with pytest.raises(RankGoneError):
        trainer.run()
    left = file_bytes(copy)
    if meanwhile is None:
        assert left.keys() - seen.keys() == {".next-gmm_ckpt_0M-s20.pt"}
        fit_here(store, copy, resume="auto")
        assert_same_fit(new, copy)
    else:
        assert left == seen


def a_trainer(store: Path, folder: Path) -> Trainer:
    """Of the new fit, which is to replace the one that is there."""
    options = FitOptions(str(store), folder, **SMALL_FIT, overwrite=True)
    return Trainer(options, FeatureStore.open(store), None, World(0, 1, torch.device("cpu")))


def test_a_hidden_file_of_something_else_replaces_nothing(copy, store) -> None:
    for name in (".next-notes.pt", ".next-jepa.pt", ".next-gmm_ckpt_best.pt"):
        (copy / name).write_text("mine")
    before = file_bytes(copy)
    fit_here(store, copy, K=8, resume="auto")
    assert file_bytes(copy) == before


def test_a_claim_that_keeps_a_replacement_from_its_end_is_named(copy, new, store, caplog) -> None:
    """It is of the same command on another machine, which may live."""
    shutil.copy(new / "gmm_ckpt_0.004M.pt", copy / ".next-gmm_ckpt_0.004M.pt")
    claim = copy / ".claim-elsewhere-1-01234567"
    with a_trainer(store, copy).folder._claim():
        (mine,) = copy.glob(".claim-*")
        holder = {**json.loads(mine.read_text()), "host": "elsewhere", "boot": ""}
    claim.write_text(json.dumps(holder))
    with pytest.raises(CheckpointError, match="another fit"):
        fit_here(store, copy, resume="auto")
    assert f"if nobody is, delete {claim}" in caplog.text
    claim.unlink()
    fit_here(store, copy, resume="auto")
    assert_same_fit(new, copy)


def test_of_checkpoints_only_the_furthest_ones_are_read(new, store, tmp_path, caplog) -> None:
    folder = Path(shutil.copytree(new, tmp_path / "copy"))
    (folder / "gmm_ckpt_0.004M.pt").write_text("damaged")
    fit_here(store, folder, resume="auto")
    assert "passed over" not in caplog.text
    (folder / "gmm.pt").unlink()
    (folder / "gmm_ckpt_0.0081M.pt").write_text("damaged")
    fit_here(store, folder, resume="auto")
    assert caplog.text.count("passed over") == 1
    assert_same_fit(new, folder)


def overwrite_and_die(at: int, store: Path, folder: Path) -> None:
    """Overwrite, in a process that is killed before its operation number `at` on a file there."""
    done = 0

    def counting(operation: Callable[..., Any]) -> Callable[..., Any]:
        def operate(path: Any, *arguments: Any, **options: Any) -> Any:
            nonlocal done
            if str(path).startswith(str(folder)):
                done += 1
                if done == at:
                    os.kill(os.getpid(), signal.SIGKILL)
            return operation(path, *arguments, **options)

        return operate

    for name in ("replace", "unlink", "rename"):
        setattr(os, name, counting(getattr(os, name)))
    fit_here(store, folder, overwrite=True)


def test_a_kill_before_any_file_operation_leaves_one_fit_or_the_other(
    copy, old, new, store, tmp_path
) -> None:
    whole = {name: file_bytes(old)[name] for name in ("gmm.pt", "metrics.tsv")}
    kept_old = kept_new = 0
    for at in range(1, 100):
        folder = Path(shutil.copytree(copy, tmp_path / f"killed-{at}"))
        process = multiprocessing.get_context("fork").Process(
            target=overwrite_and_die, args=(at, store, folder)
        )
        process.start()
        process.join(120)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        left = file_bytes(folder)
        if whole.items() <= left.items():
            kept_old += 1
            with pytest.raises(GmmpipeError, match="holds a fit"):
                fit_here(store, folder)
            assert not list(folder.glob(".next-*"))
        if at % 3 == 0:
            fit_here(store, folder, overwrite=True)
        else:
            there = any(torch.load(p)["K"] == 16 for p in folder.glob("**/*ckpt_0.00?M.pt"))
            kept_new += there
            fit_here(store, folder, **({"resume": "auto"} if there else {"overwrite": True}))
        assert_same_fit(new, folder)
        assert set(file_bytes(folder)) == {*file_bytes(new), *NOT_ITS_OWN}
    assert kept_old > 2
    assert kept_new > 4


def test_going_on_elsewhere_does_not_overwrite_another_fit(copy, new, store) -> None:
    before = file_bytes(copy)
    start = str(new / "gmm_ckpt_0.004M.pt")
    with pytest.raises(GmmpipeError, match=f"{copy}: holds another fit"):
        fit_here(store, copy, resume=start)
    assert file_bytes(copy) == before
    fit_here(store, copy, resume=start, overwrite=True)
    assert_same_fit(new, copy)


def test_two_fits_at_once_work_together_if_they_are_the_same(new, store, tmp_path) -> None:
    """The other one is refused, and told who is at work."""
    out = tmp_path / "out"
    sizes = {"n_sgd_steps": 1200}
    command = [sys.executable, "-m", "gmmpipe", *fit_arguments(store, out, **sizes)]
    with subprocess.Popen(command, cwd=ROOT, env=one_thread()) as process:
        try:
            while not (out / "metrics.tsv").exists():
                assert process.poll() is None
            for change in ({"K": 8}, {"seed": 1}, {"target_frames": 4000}, {"overwrite": True}):
                with pytest.raises(ClaimError, match=f"{out}: in use by process {process.pid} on"):
                    fit_here(store, out, **{**sizes, **change})
            fit_here(store, out, **sizes, resume="auto")
            assert process.wait(120) == 0
        finally:
            process.kill()
    fit_here(store, tmp_path / "alone", **sizes)
    assert_same_fit(tmp_path / "alone", out)
    assert not list(out.glob(".*"))

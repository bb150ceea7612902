"""The output folder of a JEPA run: overwritten, shared, damaged, gone on with from elsewhere."""

import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe import (
    SMALL,
    assert_same_run,
    train_here,
)

from conftest import file_bytes
from gmmpipe.errors import CheckpointError, ClaimError, GmmpipeError
from gmmpipe.run.world import World
from pipelines.jepa.checkpoint import load_jepa
from pipelines.jepa.options import JEPAOptions
from pipelines.jepa.trainer import Trainer

pytest_plugins = ["recipe_fixtures"]


SHORT: dict[str, Any] = {
    "max_steps": 4,
    "log_every": 2,
    "save_every": 2,
    "batch_size": 3,
    "dim": 16,
}
NEW: dict[str, Any] = {**SHORT, "seed": 1}


@pytest.fixture
def short_run(store, gmm_path, tmp_path) -> Path:
    """A finished run of four steps."""
    return train_here(store, gmm_path, tmp_path / "short", **SHORT)


def in_a_child(function: Callable[[], object]) -> int:
    """Call a function in a fork of this process; its exit status, or minus a signal's number."""
    child = multiprocessing.get_context("fork").Process(target=function)
    child.start()
    child.join()
    return int(child.exitcode or 0)


def kill_after(operations: int, folder: Path) -> None:
    """SIGKILL this process before its next but `operations` change of a file in `folder`."""
    left = operations

    def count(event: str, values: tuple[Any, ...]) -> None:
        nonlocal left
        changes = event in ("os.remove", "os.rename") or (
            event == "open" and isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if changes and str(values[0]).startswith(str(folder)):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def test_overwriting_that_is_killed_anywhere_leaves_the_old_run_or_the_new_one(
    short_run, store, gmm_path, tmp_path
) -> None:
    """At each operation on a file, from the claim to the model; then the same command again."""
    expected = train_here(store, gmm_path, tmp_path / "expected", **NEW)
    (short_run / "notes.txt").write_text("a person's")
    (short_run / "jepa_ckpt_best.pt").write_text("a person's too")
    old = file_bytes(short_run)
    ended = {"old": 0, "new": 0}
    for operations in range(100):
        out = shutil.copytree(short_run, tmp_path / f"killed-{operations}")

        def overwrite(out: Path = out, operations: int = operations) -> None:
            kill_after(operations, out)
            train_here(store, gmm_path, out, **NEW, overwrite=True)

        status = in_a_child(overwrite)
        assert status in (0, -signal.SIGKILL)
        left = {name: data for name, data in file_bytes(out).items() if not name.startswith(".")}
        began = any(name.startswith(".next-") for name in file_bytes(out)) or left != old
        ended["new" if began else "old"] += 1
        # The new run goes on where it has begun; else what is there is the old run, whole.
        again = {"resume": "auto"} if began else {"overwrite": True}
        train_here(store, gmm_path, out, **NEW, **again)
        assert_same_run(expected, out)
        assert (out / "options.yaml").read_text().count("seed: 1") == 1
        for name in ("notes.txt", "jepa_ckpt_best.pt"):
            assert (out / name).read_bytes() == old[name]
        names = {p.name for p in out.iterdir()} - {"jepa_ckpt_1.pt"}
        assert names == {p.name for p in short_run.iterdir()}
        if status == 0:
            break
    assert ended["old"] > 2
    assert ended["new"] > 5


def test_an_overwriting_run_that_comes_to_no_step_leaves_the_old_one(
    short_run, store_copy, gmm_path
) -> None:
    before = file_bytes(short_run)
    for shard in store_copy.glob("shard-*.tar"):
        content = bytearray(shard.read_bytes())
        content[600:60000] = bytes(59400)
        shard.write_bytes(content)
    with pytest.raises(GmmpipeError):
        train_here(store_copy, gmm_path, short_run, **NEW, overwrite=True)
    assert file_bytes(short_run) == before


def test_a_checkpoint_from_elsewhere_takes_no_folder_of_another_run(
    short_run, store, gmm_path, tmp_path
) -> None:
    other = train_here(store, gmm_path, tmp_path / "other", **NEW)
    before, checkpoint = file_bytes(short_run), str(other / "jepa_ckpt_2.pt")
    with pytest.raises(GmmpipeError, match="holds another run already"):
        train_here(store, gmm_path, short_run, **NEW, resume=checkpoint)
    assert file_bytes(short_run) == before
    train_here(store, gmm_path, short_run, **NEW, resume=checkpoint, overwrite=True)
    assert_same_run(other, short_run)
    assert sorted(p.name for p in short_run.glob("jepa_ckpt_*")) == ["jepa_ckpt_3.pt"]


@pytest.mark.parametrize("name", ["jepa.pt", "metrics.tsv", "options.yaml", "jepa_ckpt_2.pt"])
@pytest.mark.parametrize("way", [{"resume": "auto"}, {"overwrite": True}])
def test_a_folder_in_a_files_place_is_said_in_a_line(name, way, short_run, store, gmm_path) -> None:
    (short_run / name).unlink()
    (short_run / name).mkdir()
    before = file_bytes(short_run)
    with pytest.raises(GmmpipeError, match=f"{name}: is a folder"):
        train_here(store, gmm_path, short_run, **SHORT, **way)
    assert file_bytes(short_run) == before


def damage_step(content: dict[str, Any]) -> None:
    content["step"] = 10**12


def damage_shape(content: dict[str, Any]) -> None:
    name = next(iter(content["jepa"]))
    content["jepa"][name] = content["jepa"][name][..., None]


def damage_dtype(content: dict[str, Any]) -> None:
    name = next(iter(content["target_encoder"]))
    content["target_encoder"][name] = content["target_encoder"][name].double()


def damage_moment(content: dict[str, Any]) -> None:
    content["resume"]["optimizer"]["state"][0]["exp_avg"].view(-1)[0] = torch.nan


def damage_metrics(content: dict[str, Any]) -> None:
    content["resume"]["metrics"][0]["jepa_loss"] = "much"


def damage_identity(content: dict[str, Any]) -> None:
    content["resume"]["identity"] = [1]


def damage_resume(content: dict[str, Any]) -> None:
    content["resume"] = 5


@pytest.mark.parametrize(
    "damage",
    [
        damage_step,
        damage_shape,
        damage_dtype,
        damage_moment,
        damage_metrics,
        damage_identity,
        damage_resume,
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_made_again(
    damage, short_run, store, gmm_path, tmp_path, caplog
) -> None:
    out = shutil.copytree(short_run, tmp_path / "damaged")
    content = torch.load(out / "jepa.pt", weights_only=True)
    damage(content)
    torch.save(content, out / "jepa.pt")
    train_here(store, gmm_path, out, **SHORT, resume="auto")
    assert f"passed over: {out / 'jepa.pt'}: damaged" in caplog.text
    assert_same_run(short_run, out)
    torch.save(content, out / "jepa.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        train_here(store, gmm_path, out, **SHORT, resume=str(out / "jepa.pt"))


def test_a_run_of_an_earlier_version_is_read_and_gone_on_with(
    short_run, store, gmm_path, tmp_path
) -> None:
    """It called the frames log_mel, and their dimension num_mels."""
    out = tmp_path / "earlier"
    out.mkdir()
    content = torch.load(short_run / "jepa_ckpt_2.pt", weights_only=True)
    sizes, identity = content["sizes"], content["resume"]["identity"]
    sizes["num_mels"] = sizes.pop("input_dim")
    sizes["input"] = identity["input"] = "log_mel"
    torch.save(content, out / "jepa_ckpt_2.pt")
    assert load_jepa(out / "jepa_ckpt_2.pt")[0].sizes.input_dim == 80
    train_here(store, gmm_path, out, **SHORT, input="log_mel", resume="auto")
    assert_same_run(short_run, out)


def test_damaged_metrics_of_a_finished_run_are_made_again_with_a_word(
    short_run, store, gmm_path, caplog
) -> None:
    path = short_run / "metrics.tsv"
    whole = path.read_bytes()
    train_here(store, gmm_path, short_run, **SHORT, resume="auto")
    assert "made again" not in caplog.text
    for damaged in (whole.replace(b"4", b"5"), whole[:-20], b"\xff\x00"):
        path.write_bytes(damaged)
        caplog.clear()
        train_here(store, gmm_path, short_run, **SHORT, resume="auto")
        assert f"{path} is not what the run wrote: made again" in caplog.text
        assert path.read_bytes() == whole


@pytest.mark.parametrize("changes", [{"seed": 1}, {"overwrite": True}])
def test_a_second_run_in_a_folder_that_is_in_use_is_refused_and_named(
    changes, store, gmm_path, tmp_path
) -> None:
    out = tmp_path / "out"
    world = World(0, 1, torch.device("cpu"))
    first = Trainer(JEPAOptions(str(store), gmm_path, out, **SMALL), world)
    with first.folder.claimed(), pytest.raises(ClaimError, match=f"process {os.getpid()} on"):
        train_here(store, gmm_path, out, **changes)
    assert not list(out.iterdir())


def test_a_rank_that_wakes_keeps_only_what_is_of_use(short_run, store, gmm_path, tmp_path) -> None:
    """Not beside another run, nor what its own has already; as rank 0 it would be refused."""
    out = tmp_path / "out"
    world = World(0, 1, torch.device("cpu"))
    awake = Trainer(JEPAOptions(str(store), gmm_path, out, **{**SMALL, **NEW}), world)
    awake.run()
    awake.state.step -= 1  # a step that no file has
    before = file_bytes(out)
    awake.folder.keep(awake.state)
    assert file_bytes(out) == before

    (out / "jepa.pt").unlink()
    awake.folder.keep(awake.state)
    (kept,) = set(file_bytes(out)) - set(before)
    assert kept == "jepa_ckpt_3.pt"

    shutil.rmtree(out)
    shutil.copytree(short_run, out)
    (out / "jepa.pt").unlink()
    before = file_bytes(out)
    awake.folder.keep(awake.state)
    assert file_bytes(out) == before
    with pytest.raises(CheckpointError, match="another run: seed is 0 there and 1 here"):
        train_here(store, gmm_path, out, **NEW, resume="auto")

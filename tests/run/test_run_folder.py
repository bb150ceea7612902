"""What a run's folder does with an earlier run, alike for fits and for JEPAs."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from gmmpipe.cli import cli
from gmmpipe.errors import CheckpointError, ClaimError, GmmpipeError, OptionError
from gmmpipe.fitting.checkpoint import FIT_FILES, FitState
from gmmpipe.fitting.folder import fit_folder
from gmmpipe.fitting.options import FitOptions
from gmmpipe.fitting.trainer import fit
from gmmpipe.run.replacement import claim_run
from gmmpipe.run.run_folder import RunFolder
from gmmpipe.store.feature_store import FeatureStore
from helpers.damage import flip
from helpers.making import SMALL_FIT, alone
from helpers.processes import killed_after
from helpers.results import file_bytes, same_bits
from pipelines.jepa.options import JEPAOptions
from pipelines.jepa.train import main as jepa
from pipelines.jepa.trainer import Trainer

ALONE = alone()
OTHER = {"seed": 1}
"""What makes it another run."""


@dataclass(frozen=True)
class Kind:
    """A kind of run, of four checkpoints a moment each.

    Args:
        word: what messages call it.
        model: the finished run's file.
        checkpoints: the others, in order.
        run: does a run in a folder, with some options changed.
        awake: a folder and a state of a run that has come to its second checkpoint, on a rank
            that has found what is in the folder, and has no claim on it.
    """

    word: str
    model: str
    checkpoints: list[str]
    run: Callable[..., object]
    awake: Callable[..., tuple[RunFolder, Any]]

    def assert_same(self, first: Path, second: Path) -> None:
        """Two folders hold the same result, to the last bit."""
        models = [torch.load(path / self.model, weights_only=True) for path in (first, second)]
        assert same_bits(*models)
        assert (first / "metrics.tsv").read_bytes() == (second / "metrics.tsv").read_bytes()

    def valid_in(self, folder: Path) -> list[str]:
        """The checkpoints that are there and can be read."""
        found = []
        for name in self.checkpoints:
            try:
                torch.load(folder / name, weights_only=True)
            except Exception:
                continue
            found.append(name)
        return found


def fits(store: Path, gmm_path: Path) -> Kind:
    sizes = {**SMALL_FIT, "K": 4, "batch_update_size": 2000, "save_every": 2000, "n_sgd_steps": 4}

    def options(folder: Path, **changes: Any) -> FitOptions:
        return FitOptions(str(store), folder, **{**sizes, **changes})

    def awake(folder: Path, whole: Path, **changes: Any) -> tuple[RunFolder, Any]:
        chosen, opened = options(folder, **changes), FeatureStore.open(store)
        place = fit_folder(chosen, opened, chosen.schedule(opened), ALONE)
        with place.prepared():
            pass
        content = torch.load(whole / "gmm_ckpt_0.004M.pt", weights_only=True)
        return place, FitState.from_dict(content, ALONE.device)

    names = [f"gmm_ckpt_0.00{number}M.pt" for number in (2, 4, 6, 8)]
    return Kind("fit", "gmm.pt", names, lambda *a, **k: fit(options(*a, **k), ALONE), awake)


def jepas(store: Path, gmm_path: Path) -> Kind:
    sizes = {"max_steps": 5, "log_every": 2, "save_every": 1, "batch_size": 3, "num_workers": 0}
    small = {"dim": 16, "layers": 1, "heads": 2, "predictor_layers": 1, "device": "cpu"}

    def trainer(folder: Path, **changes: Any) -> Trainer:
        options = {**sizes, **small, **changes}
        return Trainer(JEPAOptions(str(store), folder, gmm_path, **options), ALONE)

    def awake(folder: Path, whole: Path, **changes: Any) -> tuple[RunFolder, Any]:
        sleeper = trainer(folder, **changes)
        with sleeper.folder.prepared():
            pass
        sleeper.state.load(torch.load(whole / "jepa_ckpt_2.pt", weights_only=True))
        return sleeper.folder, sleeper.state

    names = [f"jepa_ckpt_{number}.pt" for number in (1, 2, 3, 4)]
    return Kind("run", "jepa.pt", names, lambda *a, **k: trainer(*a, **k).run(), awake)


KINDS = {"fit": fits, "jepa": jepas}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, store: Path, gmm_path: Path) -> Kind:
    return KINDS[request.param](store, gmm_path)


@pytest.fixture(scope="module")
def old(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "old"
    kind.run(folder, **OTHER)
    return folder


@pytest.fixture(scope="module")
def new(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is to replace it; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "new"
    kind.run(folder)
    return folder


NOT_ITS_OWN = (
    *("gmm_ckpt_best.pt", "gmm_ckpt_0.004M.pt.bak", "jepa_ckpt_best.pt", "notes.txt"),
    *(".next-notes.pt", ".next-gmm_ckpt_best.pt", "shard-000000.tar"),
)


@pytest.fixture
def copy(old: Path, tmp_path: Path) -> Path:
    """The old run, and what is no run's."""
    folder = Path(shutil.copytree(old, tmp_path / "copy"))
    for name in NOT_ITS_OWN:
        (folder / name).write_text("mine")
    return folder


@pytest.fixture
def again(new: Path, tmp_path: Path) -> Path:
    """The new run, finished, for a test to change."""
    return Path(shutil.copytree(new, tmp_path / "again"))


def test_nothing_happens_to_a_run_unless_it_is_said_what_is_to_become_of_it(kind, copy) -> None:
    before = file_bytes(copy)
    message = f"^{copy}: holds a {kind.word} already .*--resume auto.*--overwrite"
    with pytest.raises(GmmpipeError, match=message):
        kind.run(copy)
    with pytest.raises(CheckpointError, match=f"another {kind.word}: seed is 1 there and 0 here"):
        kind.run(copy, resume="auto")
    assert file_bytes(copy) == before


def test_a_run_that_replaces_another_deletes_only_that(kind, copy, new) -> None:
    kind.run(copy, overwrite=True)
    kind.assert_same(new, copy)
    assert set(file_bytes(copy)) == {*file_bytes(new), *NOT_ITS_OWN}


@pytest.mark.parametrize("name", KINDS)
def test_an_old_run_stays_where_the_new_one_comes_to_no_step(
    name, store_copy, store, gmm_path, tmp_path
) -> None:
    out = tmp_path / "out"
    KINDS[name](store, gmm_path).run(out, **OTHER)
    before = file_bytes(out)
    for shard in store_copy.glob("*.tar"):
        content = bytearray(shard.read_bytes())
        content[600:60_000] = bytes(59_400)
        shard.write_bytes(content)
    with pytest.raises(GmmpipeError, match="corrupt"):
        KINDS[name](store_copy, gmm_path).run(out, overwrite=True)
    assert file_bytes(out) == before


def test_a_checkpoint_from_elsewhere_takes_no_folder_of_another_run(kind, copy, new) -> None:
    before, start = file_bytes(copy), str(new / kind.checkpoints[1])
    with pytest.raises(GmmpipeError, match=f"^{copy}: holds another {kind.word} .*--overwrite"):
        kind.run(copy, resume=start)
    assert file_bytes(copy) == before
    kind.run(copy, resume=start, overwrite=True)
    kind.assert_same(new, copy)
    assert not (copy / kind.checkpoints[0]).exists(), "it is the old run's"


def test_nor_one_of_which_nothing_can_be_read(kind, copy, new) -> None:
    """Nobody knows whose it is."""
    for name in (kind.model, *kind.checkpoints):
        (copy / name).write_text("damaged")
    before = file_bytes(copy)
    with pytest.raises(GmmpipeError, match=f"holds another {kind.word} "):
        kind.run(copy, resume=str(new / kind.checkpoints[1]))
    assert file_bytes(copy) == before


def test_a_finished_run_from_elsewhere_replaces_another_that_is_finished(kind, copy, new) -> None:
    """There is nothing to do for it but that."""
    kind.run(copy, resume=str(new / kind.model), overwrite=True)
    kind.assert_same(new, copy)
    assert set(file_bytes(copy)) == {kind.model, "metrics.tsv", "options.yaml", *NOT_ITS_OWN}


def test_a_run_begun_again_from_its_own_checkpoint_replaces_the_others(kind, again, new) -> None:
    """With ``--overwrite``; without it, nothing goes."""
    whole, start = set(file_bytes(again)), str(again / kind.checkpoints[2])
    (again / kind.model).unlink()
    kind.run(again, resume=start)
    assert set(file_bytes(again)) == whole
    kind.assert_same(new, again)
    (again / kind.model).unlink()
    kind.run(again, resume=start, overwrite=True)
    assert set(file_bytes(again)) == whole - set(kind.checkpoints[:3])
    kind.assert_same(new, again)


def test_auto_reads_checkpoints_from_the_furthest_on_and_passes_over_damaged_ones(
    kind, again, new, caplog
) -> None:
    first, second, third, fourth = kind.checkpoints
    (again / second).write_text("damaged")
    kind.run(again, resume="auto")
    assert "passed over" not in caplog.text, "it was not read"
    (again / kind.model).unlink()
    (again / third).write_text("damaged")
    flip(again / fourth)
    with caplog.at_level(logging.INFO):
        kind.run(again, resume="auto")
    passed_over = [line for line in caplog.messages if "passed over" in line]
    assert [name for name in kind.checkpoints if any(name in line for line in passed_over)] == [
        *(second, third, fourth)
    ]
    assert f"going on from {again / first}" in caplog.text
    kind.assert_same(new, again)


def test_auto_begins_afresh_where_there_is_nothing_valid(kind, new, again, tmp_path) -> None:
    kind.run(tmp_path / "fresh", resume="auto")
    kind.assert_same(new, tmp_path / "fresh")
    for name in (kind.model, *kind.checkpoints):
        (again / name).write_text("damaged")
    kind.run(again, resume="auto")
    kind.assert_same(new, again)


def test_to_resume_none_is_to_begin(kind, new, tmp_path) -> None:
    kind.run(tmp_path / "out", resume="none")
    kind.assert_same(new, tmp_path / "out")
    with pytest.raises(GmmpipeError, match="already"):
        kind.run(tmp_path / "out", resume="none")


def test_overwrite_and_resume_auto_contradict_each_other(kind, tmp_path) -> None:
    with pytest.raises(OptionError, match="--resume"):
        kind.run(tmp_path, resume="auto", overwrite=True)


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "longer", "bytes"])
def test_a_finished_runs_metrics_and_model_are_made_again_with_a_word(
    kind, damage, again, new, caplog
) -> None:
    for name in ("metrics.tsv", kind.model):
        path, whole = again / name, (again / name).read_bytes()
        middle = len(whole) // 2
        parts = {
            "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "cut": whole[:-20],
            "longer": whole + b"1\t",
            "bytes": b"\xff\x00",
        }
        path.unlink()
        if damage in parts:
            path.write_bytes(parts[damage])
        with caplog.at_level(logging.INFO):
            kind.run(again, resume="auto")
        if name == "metrics.tsv":
            said = f"{kind.model} or metrics.tsv is damaged or missing: made again"
            assert caplog.messages.count(said) == 1
        kind.assert_same(new, again)


@pytest.mark.parametrize("name", ["", "metrics.tsv", "options.yaml", "checkpoint"])
@pytest.mark.parametrize("way", [{"resume": "auto"}, {"overwrite": True}])
def test_a_folder_in_a_files_place_is_named_before_any_work(kind, name, way, again) -> None:
    path = again / {"": kind.model, "checkpoint": kind.checkpoints[3]}.get(name, name)
    path.unlink()
    path.mkdir()
    before = file_bytes(again)
    with pytest.raises(GmmpipeError, match=f"^{path}: is a folder"):
        kind.run(again, **way)
    assert file_bytes(again) == before


def test_what_a_killed_run_left_half_written_is_swept_away(kind, again) -> None:
    leftover = again / ".tmp-host-1-0123abcd-model.pt"
    leftover.write_bytes(b"half")
    with pytest.raises(GmmpipeError, match="already"):
        kind.run(again)
    assert not leftover.exists()


@pytest.mark.parametrize("changes", [{"seed": 1}, {"overwrite": True}])
def test_another_run_in_a_folder_that_is_in_use_is_refused(kind, changes, new, tmp_path) -> None:
    out = tmp_path / "out"
    folder, _ = kind.awake(out, new)
    in_use = f"^{out}: in use by process {os.getpid()} on"
    with folder.prepared(), pytest.raises(ClaimError, match=in_use):
        kind.run(out, **changes)
    assert not list(out.iterdir())


def test_a_claim_that_keeps_a_replacement_from_its_end_is_named(kind, copy, new, caplog) -> None:
    """It is of the same command on another machine, which may live."""
    waiting, claim = copy / f".next-{kind.checkpoints[1]}", copy / ".claim-elsewhere-1-01234567"
    folder, _ = kind.awake(copy, new, overwrite=True)
    with claim_run(copy, *folder._claimed_as):
        (mine,) = copy.glob(".claim-*")
        holder = {**json.loads(mine.read_text()), "host": "elsewhere", "boot": ""}
    shutil.copy(new / kind.checkpoints[1], waiting)
    claim.write_text(json.dumps(holder))
    with pytest.raises(CheckpointError, match=f"another {kind.word}"):
        kind.run(copy, resume="auto")
    assert f"if nobody is, delete {claim}" in caplog.text
    claim.unlink()
    kind.run(copy, resume="auto")
    kind.assert_same(new, copy)


def test_a_rank_that_wakes_keeps_only_what_is_of_use(kind, old, new, tmp_path) -> None:
    """Not what its own run has already, nor beside another run."""
    out = tmp_path / "out"
    folder, state = kind.awake(out, new)
    shutil.copytree(new, out, dirs_exist_ok=True)
    assert folder.keep_alone(state) == out / kind.model
    assert file_bytes(out) == file_bytes(new)
    for name in (kind.model, *kind.checkpoints[1:]):
        (out / name).unlink()
    assert folder.keep_alone(state) == out / kind.checkpoints[1]
    shutil.rmtree(out)
    shutil.copytree(old, out)
    assert folder.keep_alone(state) is None
    assert file_bytes(out) == file_bytes(old)


@pytest.mark.parametrize("meanwhile", [None, {}, {"seed": 2}])
def test_a_rank_that_wakes_while_its_run_replaces_another_keeps_what_is_of_use(
    kind, meanwhile, copy, new
) -> None:
    """Nothing, where the same command or another one has replaced that run already."""
    folder, state = kind.awake(copy, new, overwrite=True)
    if meanwhile is not None:
        kind.run(copy, **meanwhile, overwrite=True)
    before = file_bytes(copy)
    folder.keep_alone(state)
    left = file_bytes(copy)
    if meanwhile is None:
        assert left.keys() - before.keys() == {f".next-{kind.checkpoints[1]}"}
        kind.run(copy, resume="auto")
        kind.assert_same(new, copy)
    else:
        assert left == before


def test_a_kill_after_any_file_operation_leaves_one_run_or_the_other(
    kind, copy, old, new, tmp_path
) -> None:
    whole_old = {name: file_bytes(old)[name] for name in (kind.model, "metrics.tsv")}
    kept_old = kept_new = 0
    for number in range(1, 100):
        out = Path(shutil.copytree(copy, tmp_path / f"killed-{number}"))
        killed = killed_after(number, lambda out=out: kind.run(out, overwrite=True))
        if killed and whole_old.items() <= file_bytes(out).items():
            kept_old += 1
            with pytest.raises(GmmpipeError, match="already"):
                kind.run(out)  # it names what waits under a hidden name, if anything does
        begun = not whole_old.items() <= file_bytes(out).items()
        kept_new += begun
        kind.run(out, **({"resume": "auto"} if begun else {"overwrite": True}))
        kind.assert_same(new, out)
        assert set(file_bytes(out)) == {*file_bytes(new), *NOT_ITS_OWN}
        if not killed:
            break
    assert kept_old > 2
    assert kept_new > 5


def checkpoints_in(kind: Kind, folder: Path) -> list[str]:
    return [name for name in kind.checkpoints if (folder / name).exists()]


@pytest.mark.parametrize("keep", [1, 3, 9])
def test_the_furthest_checkpoints_are_kept_and_the_model_always(kind, keep, new, tmp_path) -> None:
    out = tmp_path / "out"
    kind.run(out, keep=keep)
    assert checkpoints_in(kind, out) == kind.checkpoints[-keep:]
    kind.assert_same(new, out)
    assert f"keep: {keep}" in (out / "options.yaml").read_text()


def test_how_many_are_kept_may_change_as_a_run_goes_on(kind, again, new) -> None:
    """It is not of the run's identity; a finished one has nothing else to do."""
    for name in (".next-notes.pt", "gmm_ckpt_best.pt"):
        (again / name).write_text("mine")
    kind.run(again, resume="auto", keep=3)
    assert checkpoints_in(kind, again) == kind.checkpoints[1:]
    (again / kind.model).unlink()
    kind.run(again, resume=str(again / kind.checkpoints[1]), keep=2)
    assert checkpoints_in(kind, again) == kind.checkpoints[2:]
    kind.assert_same(new, again)
    assert (again / ".next-notes.pt").exists()


def test_damaged_checkpoints_are_none_of_those_that_are_kept(kind, again, new) -> None:
    first, second, third, fourth = kind.checkpoints
    (again / kind.model).unlink()
    (again / fourth).unlink()
    (again / third).write_text("damaged")
    folder, state = kind.awake(again, new, resume="auto", keep=2)
    folder.save(state)
    assert checkpoints_in(kind, again) == [first, second, third]
    kind.run(again, resume="auto", keep=2)
    kind.assert_same(new, again)
    assert len(kind.valid_in(again)) == len(checkpoints_in(kind, again)) == 2


def test_a_checkpoint_stays_that_was_written_just_now_however_far_others_are(
    kind, again, new
) -> None:
    folder, state = kind.awake(again, new, resume="auto", keep=1)
    folder.save(state)
    assert checkpoints_in(kind, again) == [kind.checkpoints[1], kind.checkpoints[3]]


def test_a_kill_after_any_file_operation_leaves_a_checkpoint_that_is_valid(
    kind, new, tmp_path
) -> None:
    """From the first one on; and the run goes on to keep as many as it was told."""
    for number in range(1, 100):
        out = tmp_path / f"killed-{number}"
        killed = killed_after(number, lambda out=out: kind.run(out, keep=1))
        valid = kind.valid_in(out)
        assert checkpoints_in(kind, out) == valid
        begun = (out / "metrics.tsv").exists() and (out / "metrics.tsv").read_text().count("\n") > 2
        assert valid or not begun
        kind.run(out, resume="auto", keep=1)
        assert checkpoints_in(kind, out) == kind.checkpoints[-1:]
        kind.assert_same(new, out)
        if not killed:
            break
    assert number > 10


def test_to_keep_none_is_wrong_usage(kind, tmp_path) -> None:
    with pytest.raises(OptionError, match="--keep is 0"):
        kind.run(tmp_path / "out", keep=0)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_the_same_run_deletes_as_it_goes_on_is_not_missed(tmp_path) -> None:
    """Another process may do so between a look at the folder and a look into the file."""
    first, second = tmp_path / "gmm_ckpt_1M.pt", tmp_path / "gmm_ckpt_2M.pt"
    first.write_text("first")

    def read(path: Path) -> dict[str, Any]:
        if path == first:
            first.rename(second)
            raise CheckpointError(f"{path}: no such file")
        return {"frames": 2_000_000, "resume": {"step": 0}}

    found = replace(FIT_FILES, read=read).furthest_in(tmp_path)
    assert found is not None
    assert found[0] == second


@pytest.mark.parametrize("command", [[cli, "fit"], [jepa, "--gmm_path", "gmm.pt"]], ids=KINDS)
def test_so_it_is_on_the_command_line(command, tmp_path) -> None:
    places = ["--data_dir", "store", "--output_dir", str(tmp_path / "out")]
    done = CliRunner().invoke(command[0], [*command[1:], *places, "--keep", "0"])
    assert (done.exit_code, "--keep" in done.stderr) == (2, True)

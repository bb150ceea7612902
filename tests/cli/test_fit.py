"""`gmmpipe fit` as a user runs it: exit statuses, messages, and the options file."""

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from gmmpipe import FeatureConfig
from helpers.making import CORPUS, SMALL_FIT, fit_arguments, make_store
from helpers.processes import one_thread, run_gmmpipe
from helpers.results import assert_same_fit, file_bytes


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The output folder of a fit, and what the command printed to stdout and stderr."""
    folder = tmp_path_factory.mktemp("cli") / "fitted"
    done = run_gmmpipe(*fit_arguments(store, folder))
    return folder, done.stdout, done.stderr


def test_a_fit_writes_its_files_and_reports_on_stderr(finished) -> None:
    folder, stdout, stderr = finished
    names = {"gmm.pt", "gmm_ckpt_0.004M.pt", "gmm_ckpt_0.008M.pt", "metrics.tsv", "options.yaml"}
    assert set(file_bytes(folder)) == names
    assert stdout == ""
    assert "Traceback" not in stderr


def test_the_last_lines_balance_the_frames(finished) -> None:
    found = re.search(r"(\d+) read = (\d+) used \+ (\d+) dropped", finished[2])
    assert found is not None
    read, used, dropped = map(int, found.groups())
    assert (read, used) == (used + dropped, 8000)


def test_the_summary_is_the_last_and_aligned(finished) -> None:
    lines = finished[2].rstrip("\n").splitlines()[-10:]
    assert len({len(line) for line in lines}) == 1
    table = dict(re.fullmatch(r"\s*(\S.*\S)\s+(\S+)", line).groups() for line in lines)
    assert (table["frames"], table["updates"]) == ("8000", "2")
    parts = ("seeding", "fitting", "waiting for frames")
    assert sum(float(table[part]) for part in parts) <= float(table["seconds"]) + 0.2
    assert float(table["reading, meanwhile"]) >= 0
    assert int(table["frames a second"]) > 0
    rows = (finished[0] / "metrics.tsv").read_text().splitlines()
    nll = rows[-1].split("\t")[rows[0].split("\t").index("nll")]
    assert float(table["final nll"]) == pytest.approx(float(nll), abs=1e-4)


def test_the_options_file_holds_every_option_and_starts_the_same_fit(
    finished, store, tmp_path, invoke
) -> None:
    """With dashes, an abbreviated count, and a flag that beats the file, for good measure."""
    folder = finished[0]
    options = yaml.safe_load((folder / "options.yaml").read_text())
    assert {name: options[name] for name in SMALL_FIT} == SMALL_FIT
    assert options["data_dir"] == str(store)
    config = tmp_path / "options.yaml"
    config.write_text(yaml.safe_dump({**options, "target_frames": "4k"}))
    out = tmp_path / "out"
    invoke("fit", "--config", config, "--output-dir", out, "--target-frames", "8_000")
    assert_same_fit(folder, out)
    again = yaml.safe_load((out / "options.yaml").read_text())
    assert again == {**options, "output_dir": str(out)}


def one_line(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    assert len(lines) == 1, stderr
    return lines[0]


def test_a_folder_that_holds_a_fit_is_refused_in_one_line(finished, store, invoke) -> None:
    folder = finished[0]
    before = file_bytes(folder)
    done = invoke(*fit_arguments(store, folder), status=1)
    assert re.search(f"{folder}.*--resume auto.*--overwrite", one_line(done.stderr))
    assert file_bytes(folder) == before


def test_fewer_frames_than_components_end_in_one_line(store, tmp_path, invoke) -> None:
    arguments = fit_arguments(store, tmp_path / "out", K=9000, batch_update_size="5M")
    done = invoke(*arguments, status=1)
    assert re.search("K is 9000.*frames", one_line(done.stderr))


def test_another_fit_is_not_resumed_and_the_line_names_what_differs(
    finished, store, invoke
) -> None:
    arguments = fit_arguments(store, finished[0], resume="auto", K=12, lr=0.5)
    done = invoke(*arguments, status=1)
    assert re.search(r"gmm.*\.pt.*K is 16.*12.*lr is 0\.01.*0\.5", one_line(done.stderr))


def test_a_finished_fit_says_so_and_ends_well(finished, store, invoke) -> None:
    before = file_bytes(finished[0])
    done = invoke(*fit_arguments(store, finished[0], resume="auto"))
    assert "nothing to do" in done.stderr
    assert file_bytes(finished[0]) == before


def test_a_shard_that_is_missing_is_named_in_one_line(store_copy, tmp_path, invoke) -> None:
    (store_copy / "shard-000001.tar").unlink()
    out = tmp_path / "out"
    done = invoke(*fit_arguments(store_copy, out, batch_update_size=8561), status=1)
    assert "shard-000001.tar" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (out / "gmm.pt").exists()


def test_a_store_of_other_features_is_refused_by_name(store, tmp_path, invoke) -> None:
    other = make_store(CORPUS, tmp_path / "other", features=FeatureConfig(n_fft=512))
    done = invoke(*fit_arguments(f"{store},{other}", tmp_path / "out"), status=1)
    assert re.search(f"{other}.*fingerprint", one_line(done.stderr))


def test_a_store_whose_features_are_damaged_is_refused_by_name(
    store_copy, tmp_path, invoke
) -> None:
    path = store_copy / "store.json"
    path.write_text(re.sub(r'("sample_rate":\s*)16000', r"\g<1>8000", path.read_text()))
    done = invoke(*fit_arguments(store_copy, tmp_path / "out"), status=1)
    assert str(store_copy) in one_line(done.stderr)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"K": 0}, "--K"),
        ({"target_frames": "many"}, "target_frames"),
        ({"lr": 0}, "--lr"),
        ({"var_floor": -1}, "--var_floor"),
        ({"optimizer": "sgd"}, "--optimizer"),
        ({"init": "magic"}, "--init"),
        ({"optimizer_of_dreams": 1}, "optimizer_of_dreams"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_wrong_usage_is_told_from_failure(changes, said, store, tmp_path, invoke) -> None:
    done = invoke(*fit_arguments(store, tmp_path / "out", **changes), status=2)
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_without_tensorboard_its_option_says_what_to_install(store, tmp_path) -> None:
    (tmp_path / "tensorboard.py").write_text("raise ImportError('as if it were not there')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = {**one_thread(), "PYTHONPATH": path}
    arguments = [*fit_arguments(store, tmp_path / "out"), "--tensorboard"]
    done = run_gmmpipe(*arguments, check=False, env=environment)
    assert done.returncode == 1
    assert "pip install 'gmmpipe[tensorboard]'" in one_line(done.stderr)
    assert not (tmp_path / "out").exists()


def test_every_option_may_stand_in_the_options_file(store, tmp_path, invoke) -> None:
    """Also those that have no default, and the switches."""
    out, again = tmp_path / "out", tmp_path / "again"
    changes = {"optimizer": "em", "init": "kmeans++", "eval_data_dir": store}
    invoke(*fit_arguments(store, out, **changes), "--tensorboard")
    invoke("fit", "--config", out / "options.yaml", "--output_dir", again)
    assert_same_fit(out, again)
    assert list(again.glob("events.*"))


def test_resume_and_overwrite_together_are_wrong_usage(store, tmp_path, invoke) -> None:
    arguments = fit_arguments(store, tmp_path / "out", resume="auto")
    done = invoke(*arguments, "--overwrite", status=2)
    assert "--overwrite" in done.stderr


def test_a_gpu_that_is_not_there_is_wrong_usage(store, tmp_path) -> None:
    environment = {**one_thread(), "CUDA_VISIBLE_DEVICES": ""}  # hides those that are there
    arguments = fit_arguments(store, tmp_path / "out", device="cuda")
    done = run_gmmpipe(*arguments, check=False, env=environment)
    assert done.returncode == 2
    assert "--device is cuda" in done.stderr


def test_half_of_torchruns_environment_is_wrong_usage(store, tmp_path, invoke, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = invoke(*fit_arguments(store, tmp_path / "out"), status=2)
    assert "WORLD_SIZE is 2 without MASTER_ADDR, MASTER_PORT, RANK" in done.stderr


def test_overwrite_starts_afresh(finished, store, tmp_path, invoke) -> None:
    out = Path(shutil.copytree(finished[0], tmp_path / "out"))
    invoke(*fit_arguments(store, out, target_frames=4000), "--overwrite")
    assert torch.load(out / "gmm.pt", weights_only=True)["frames"] == 4000
    assert not (out / "gmm_ckpt_0.008M.pt").exists()

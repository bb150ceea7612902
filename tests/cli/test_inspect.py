"""inspect says what a store or a model holds, for people and as JSON."""

import json
from pathlib import Path

import torch

from conftest import run_gmmpipe
from gmmpipe.apply.label import LabelOptions, label
from gmmpipe.run.world import World


def test_a_store_as_json(store: Path) -> None:
    found = json.loads(run_gmmpipe("inspect", store, "--json").stdout)
    assert (found["utterances"], found["frames"], found["shards"]) == (56, 8561, 4)
    assert found["finished"] is True
    assert found["hours"] > 0.04
    assert found["fingerprint"] == json.loads((store / "store.json").read_text())["fingerprint"]
    assert found["rejects_by_reason"] == {}


def test_a_store_as_lines(store: Path) -> None:
    assert "utterances: 56" in run_gmmpipe("inspect", store).stdout


def test_an_unfinished_store(store_copy: Path) -> None:
    (store_copy / "store.json").unlink()
    (store_copy / "shard-000000.json").unlink()
    found = json.loads(run_gmmpipe("inspect", store_copy, "--json").stdout)
    assert (found["finished"], found["shards"]) == (False, 3)


def test_a_label_store_finished_or_not(store: Path, fitted: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    options = LabelOptions(store=store, gmm_path=fitted, output_dir=out, top_k=2)
    made = label(options, World(0, 1, torch.device("cpu")))
    found = json.loads(run_gmmpipe("inspect", out, "--json").stdout)
    assert (found["kind"], found["finished"], found["shards"]) == ("label store", True, 4)
    assert (found["utterances"], found["frames"]) == (56, 8561)
    assert (found["K"], found["top_k"], found["temperature"]) == (16, 2, 1.0)
    assert found["left_out_mass"] == made.left_out_mass
    (out / "store.json").rename(out / "plan.json")
    (out / "shard-000000.json").unlink()
    lines = run_gmmpipe("inspect", out).stdout.splitlines()
    assert {"kind: label store", "finished: False", "shards: 3", "K: 16"} <= set(lines)
    (out / "plan.json").unlink()
    done = run_gmmpipe("inspect", out, check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: {out}: holds shards of labels, but no store.json or plan.json\n"


def test_a_model(store: Path, tmp_path: Path) -> None:
    options = ("--K", 4, "--target_frames", "2k", "--n_sgd_steps", 2, "--sgd_batch_size", 64)
    run_gmmpipe("fit", "--data_dir", store, "--output_dir", tmp_path, *options)
    found = json.loads(run_gmmpipe("inspect", tmp_path / "gmm.pt", "--json").stdout)
    assert (found["K"], found["dim"], found["frames"]) == (4, 80, 2000)


def test_something_else_is_one_line_of_error(tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    other.write_bytes(b"neither")
    for path in (tmp_path, other):
        done = run_gmmpipe("inspect", path, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1

"""inspect says what a store or a model holds, for people and as JSON."""

import json
from pathlib import Path

import numpy as np

from gmmpipe import GradientGMM
from gmmpipe.apply.label import LabelOptions, label
from helpers.making import alone


def test_a_store_as_json(store: Path, invoke) -> None:
    found = json.loads(invoke("inspect", store, "--json").stdout)
    assert (found["utterances"], found["frames"], found["shards"]) == (56, 8561, 4)
    assert found["finished"] is True
    assert found["hours"] > 0.04
    assert found["fingerprint"] == json.loads((store / "store.json").read_text())["fingerprint"]
    assert found["rejects_by_reason"] == {}


def test_a_store_as_lines(store: Path, invoke) -> None:
    assert "utterances: 56" in invoke("inspect", store).stdout


def test_an_unfinished_store(store_copy: Path, invoke) -> None:
    (store_copy / "store.json").unlink()
    (store_copy / "shard-000000.json").unlink()
    found = json.loads(invoke("inspect", store_copy, "--json").stdout)
    assert (found["finished"], found["shards"]) == (False, 3)


def test_a_label_store_finished_or_not(store: Path, fitted: Path, tmp_path: Path, invoke) -> None:
    out = tmp_path / "labels"
    options = LabelOptions(store=store, gmm_path=fitted, output_dir=out, top_k=2)
    made = label(options, alone())
    found = json.loads(invoke("inspect", out, "--json").stdout)
    assert (found["kind"], found["finished"], found["shards"]) == ("label store", True, 4)
    assert (found["utterances"], found["frames"]) == (56, 8561)
    assert (found["K"], found["top_k"], found["temperature"]) == (16, 2, 1.0)
    assert found["left_out_mass"] == made.left_out_mass
    (out / "store.json").rename(out / "plan.json")
    (out / "shard-000000.json").unlink()
    lines = invoke("inspect", out).stdout.splitlines()
    assert {"kind: label store", "finished: False", "shards: 3", "K: 16"} <= set(lines)
    (out / "plan.json").unlink()
    done = invoke("inspect", out, status=1)
    assert done.stderr == f"error: {out}: holds shards of labels, but no store.json or plan.json\n"


def test_a_model(fitted: Path, invoke) -> None:
    found = json.loads(invoke("inspect", fitted, "--json").stdout)
    assert (found["K"], found["dim"], found["frames"]) == (16, 80, 8000)


def test_a_model_of_another_program(fitted: Path, tmp_path: Path, invoke) -> None:
    gmm = GradientGMM.load(fitted)
    gmm.save(tmp_path / "s.pt", form="sjepa")
    means, variances, weights = gmm.means, gmm.covariances, gmm.weights
    np.savez(tmp_path / "m.npz", means_=means, covariances_=variances, weights_=weights)
    for name in ("s.pt", "m.npz"):
        found = json.loads(invoke("inspect", tmp_path / name, "--json").stdout)
        assert found == {"kind": "model of another program", "K": 16, "dim": 80}


def test_something_else_is_one_line_of_error(tmp_path: Path, invoke) -> None:
    other = tmp_path / "other.pt"
    other.write_bytes(b"neither")
    for path in (tmp_path, other):
        done = invoke("inspect", path, status=1)
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1

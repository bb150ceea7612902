"""inspect says what a store or a model holds, for people and as JSON."""

import json
from pathlib import Path

import numpy as np
import pytest

from gmmpipe import GradientGMM
from gmmpipe.apply.label import LabelOptions, label
from gmmpipe.cli.for_people import in_words
from helpers.making import alone


def test_a_store_as_json(store: Path, invoke) -> None:
    found = json.loads(invoke("inspect", store, "--json").stdout)
    assert (found["utterances"], found["frames"], found["shards"]) == (56, 8561, 4)
    assert found["finished"] is True
    assert found["hours"] > 0.04
    assert found["fingerprint"] == json.loads((store / "store.json").read_text())["fingerprint"]
    assert found["rejects_by_reason"] == {}


def test_a_store_as_lines(store: Path, invoke) -> None:
    lines = invoke("inspect", store).stdout.splitlines()
    assert {
        *("finished:          yes", "frames:            8,561", "hours:             0.04768 h"),
        *("  sample_rate: 16,000 Hz", "  mel_norm:    none"),
        *("  seed:                 0", "  max_seconds:          15 s"),
    } <= set(lines)
    [kept] = [line for line in lines if line.startswith("seconds_kept")]
    assert kept == "seconds_kept:      2.861 min"
    [size] = [line for line in lines if line.startswith("bytes")]
    assert size.split()[2] == "MB"


def test_every_value_is_in_the_lines(store: Path, fitted: Path, invoke) -> None:
    """Aligned within its part; a part's name stands above it."""
    for path in (store, fitted):
        found = json.loads(invoke("inspect", path, "--json").stdout)
        names = [line.partition(":")[0] for line in invoke("inspect", path).stdout.splitlines()]
        parts = {name: value for name, value in found.items() if isinstance(value, dict) and value}
        assert parts
        assert {name for name in names if name[0] != " "} == found.keys()
        inner = [name.strip() for name in names if name[0] == " "]
        assert sorted(inner) == sorted(name for part in parts.values() for name in part)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("bytes", 999, "999 bytes"),
        ("bytes", 57_300_000, "57.3 MB"),
        ("bytes", 12 * 10**15, "12,000 TB"),
        ("seconds_kept", 0.0, "0 s"),
        ("seconds_kept", 59.25, "59.25 s"),
        ("seconds_kept", 180_000_000.0, "50,000 h"),
        ("frames", 9_600_000_000, "9,600,000,000"),
        ("seed", 12345, "12345"),
        ("left_out_mass", 6.076014e-07, "6.076e-07"),
        ("left_out_mass", float("nan"), "nan"),
        ("var_floor", "1%", "1%"),
        ("stores", ["a", "b"], "a, b"),
    ],
)
def test_values_have_their_units(name: str, value: object, words: str) -> None:
    assert in_words(name, value) == words


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
    assert {"finished:      no", "shards:        3", "K:             16"} <= set(lines)
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

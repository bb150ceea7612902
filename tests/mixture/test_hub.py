"""A mixture as a folder for the Hugging Face Hub; no test uses the network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import safetensors
import safetensors.torch
import torch

from gmmpipe import CheckpointError, EvaluateOptions, GmmpipeError, GradientGMM, evaluate
from helpers.making import fit_here
from helpers.results import same_bits


@pytest.fixture(scope="module")
def evaluation(store, fitted):
    return evaluate(EvaluateOptions(store=str(store), gmm_path=fitted, max_frames=2000))


@pytest.fixture
def folder(fitted, evaluation, tmp_path) -> Path:
    GradientGMM.load(fitted).save_pretrained(tmp_path / "hub", evaluation)
    return tmp_path / "hub"


def python(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a program for which every network call fails at once."""
    closed = "http://127.0.0.1:9"
    proxies = {"HTTP_PROXY": closed, "HTTPS_PROXY": closed, "ALL_PROXY": closed}
    outer = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**outer, **proxies, "HF_ENDPOINT": closed, **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.parametrize("var_floor", [1e-3, "1%"])
def test_all_that_a_model_holds_comes_back(var_floor, store, frames, tmp_path) -> None:
    fit_here(store, tmp_path / "fit", var_floor=var_floor)
    gmm = GradientGMM.load(tmp_path / "fit" / "gmm.pt")
    gmm.save_pretrained(tmp_path / "hub")
    again = GradientGMM.from_pretrained(tmp_path / "hub")
    assert same_bits(again.to_dict(), gmm.to_dict())
    assert ("var_floors" in again.info) == (var_floor == "1%")
    assert "resume" not in again.info
    assert torch.equal(again.score_samples(frames[:500]), gmm.score_samples(frames[:500]))


def test_other_readers_read_the_files(folder, fitted, evaluation) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        *("README.md", "config.json", "model.safetensors"),
    ]
    gmm = GradientGMM.load(fitted)
    with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) == {name for name, _ in gmm.named_buffers()}
        assert torch.equal(file.get_tensor("means"), gmm.means)
    config = json.loads((folder / "config.json").read_text())
    assert config["features"] == gmm.info["features"]
    assert (config["K"], config["dim"], config["frames"]) == (16, 80, gmm.info["frames"])
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert "from_pretrained('hub')" in card.text
    assert card.data.library_name == "gmmpipe"
    assert f"| nll | {evaluation.nll:.6g} |" in card.text
    assert f"| alive | {evaluation.alive} |" in card.text
    assert gmm.info["features"]["fingerprint"] in card.text


def test_the_card_takes_what_the_command_prints(fitted, evaluation, tmp_path) -> None:
    printed = {"nll": 12.5, "alive": 3}
    (tmp_path / "e.json").write_text(json.dumps(printed))
    for given in (printed, tmp_path / "e.json"):
        GradientGMM.load(fitted).save_pretrained(tmp_path / "hub", given)
        assert "| nll | 12.5 |" in (tmp_path / "hub" / "README.md").read_text()
    (tmp_path / "e.json").write_text("{}")
    with pytest.raises(GmmpipeError, match=r"e\.json: holds no figures"):
        GradientGMM.load(fitted).save_pretrained(tmp_path / "hub", tmp_path / "e.json")


def change_tensors(**changes: torch.Tensor):
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        safetensors.torch.save_file({**safetensors.torch.load_file(path), **changes}, path)

    return change


def change_config(**changes: object):
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def write(name: str, data: bytes):
    return lambda folder: (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (change_tensors(means=torch.full((16, 80), torch.nan)), "model.safetensors"),
        (change_tensors(means=torch.zeros(15, 80)), "model.safetensors"),
        (change_tensors(weights=torch.zeros(16, dtype=torch.int64)), "model.safetensors"),
        (change_config(K=17), "model.safetensors"),
        (change_config(var_floor="2%"), "model.safetensors"),
        (change_config(format_version=9), "config.json"),
        (write("config.json", b"[]"), "config.json"),
        (write("config.json", b"[" * 100_000), "config.json"),
        (write("model.safetensors", b"\x80\x04."), "model.safetensors"),
        (write("model.safetensors", b"\xff" * 100), "model.safetensors"),
        (lambda folder: os.truncate(folder / "model.safetensors", 5000), "model.safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: no such file"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
    ],
)
def test_damaged_files_are_refused_by_name(spoil, named, folder) -> None:
    spoil(folder)
    with pytest.raises(CheckpointError, match=f"{folder}/{named}") as caught:
        GradientGMM.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_what_json_cannot_keep_is_refused_before_a_file_is_touched(folder) -> None:
    gmm = GradientGMM.from_pretrained(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for value in ((1, 2), {1: 2}, float("nan"), object()):
        gmm.info["more"] = value
        with pytest.raises(ValueError, match="info cannot be kept"):
            gmm.save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


OFFLINE = """
import sys
import socket
from gmmpipe import GmmpipeError, GradientGMM

def refused(*_): raise AssertionError("a network call")
real, socket.socket.connect = socket.socket.connect, refused
gmm = GradientGMM.from_pretrained(sys.argv[1])
print(gmm.K)
for gone in ("config.json", "model.safetensors"):
    import pathlib
    (pathlib.Path(sys.argv[1]) / gone).unlink()
    try: GradientGMM.from_pretrained(sys.argv[1])
    except GmmpipeError as error: print(error)
socket.socket.connect = real
for call in (lambda: GradientGMM.from_pretrained("some/repo", cache_dir=sys.argv[1] + "/cache"),
             lambda: GradientGMM.from_pretrained("some/repo", cache_dir=sys.argv[1] + "/cache",
                                                 local_files_only=True),
             lambda: GradientGMM.from_pretrained("not a repo", cache_dir=sys.argv[1] + "/cache"),
             lambda: gmm.push_to_hub("some/repo", token="hf_x")):
    try: call()
    except GmmpipeError as error: print(error)
"""


def test_folders_need_no_network_and_repositories_fail_in_one_line(folder) -> None:
    done = python(OFFLINE, folder)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[:2] == ["16", f"{folder}/config.json: no such file"]
    assert lines[2] == f"{folder}/config.json: no such file"
    assert len(lines) == 7
    assert [line.split(":")[0] for line in lines[3:]] == [
        *("some/repo", "some/repo", "not a repo", "some/repo"),
    ]
    assert ": cannot be uploaded: " in lines[-1]


BLOCKED = """
import sys
sys.modules["huggingface_hub"] = sys.modules["safetensors"] = None
from gmmpipe import GmmpipeError, GradientGMM
gmm = GradientGMM.load(sys.argv[1])
for call in (gmm.save_pretrained, gmm.push_to_hub, GradientGMM.from_pretrained):
    try: call("x")
    except GmmpipeError as error: print(error)
"""


def test_without_the_extra_its_name_is_said(fitted, tmp_path) -> None:
    done = python(BLOCKED, fitted)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all('pip install "gmmpipe[hub]"' in line for line in lines)

"""The kernel in Triton: by its interpreter, compiled for GPUs that are not here, and refused."""

import sys
from pathlib import Path

import pytest
import torch

from gmmpipe.errors import OptionError
from gmmpipe.mixture.kernels import check_kind
from helpers.making import fit_arguments
from helpers.processes import one_thread, run, run_gmmpipe
from helpers.results import read_metrics

pytest.importorskip("triton")
HERE = Path(__file__).parent
INTERPRETED = {"TRITON_INTERPRET": "1"}


def test_the_kernel_gives_the_statistics_of_the_oracle(frames, tmp_path) -> None:
    torch.save(frames[::60].clone(), tmp_path / "speech.pt")
    environment = {**one_thread(), **INTERPRETED, "SPEECH": str(tmp_path / "speech.pt")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    run([*command, str(HERE / "interpreted_triton.py")], env=environment)


def test_a_fit_by_the_interpreted_kernel_is_that_of_all_pairs(store, tmp_path) -> None:
    """And it goes on with another kernel and another precision, as with another device."""
    few = {"target_frames": 2000, "batch_update_size": 2000, "n_sgd_steps": 4}
    rows = []
    for kind in ("triton", "all_pairs"):
        arguments = fit_arguments(store, tmp_path / kind, kernel=kind, **few)
        run_gmmpipe(*arguments, env={**one_thread(), **INTERPRETED})
        rows.append(float(read_metrics(tmp_path / kind)["nll"][-1]))
    assert rows[0] == pytest.approx(rows[1], abs=1e-3)
    assert "kernel: triton\n" in (tmp_path / "triton" / "options.yaml").read_text()
    more = fit_arguments(store, tmp_path / "triton", **{**few, "target_frames": 4000})
    done = run_gmmpipe(*more, "--resume", "auto", "--matmul", "tf32")
    assert "--matmul tf32 changes nothing on a CPU" in done.stderr
    assert len(read_metrics(tmp_path / "triton")["nll"]) == 2


def test_a_kernel_of_another_device_is_wrong_usage(store, tmp_path, invoke) -> None:
    done = invoke(*fit_arguments(store, tmp_path / "out", kernel="triton"), status=2)
    assert "--kernel triton is for a GPU" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    with pytest.raises(OptionError, match=r"^--kernel likely_pairs is for a CPU"):
        check_kind("likely_pairs", torch.device("cuda"))
    for kind, device in [("all_pairs", "cuda"), ("triton", "cuda"), ("likely_pairs", "cpu")]:
        check_kind(kind, torch.device(device))


def test_without_triton_the_kernel_says_what_it_needs(store, tmp_path, invoke, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "gmmpipe.mixture.triton_programs", raising=False)
    monkeypatch.delattr("gmmpipe.mixture.triton_programs", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    done = invoke(*fit_arguments(store, tmp_path / "out", kernel="triton"), status=1)
    assert "--kernel triton needs triton" in done.stderr.splitlines()[-1]


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gmmpipe.mixture import triton_programs
from gmmpipe.mixture.triton_statistics import TILE_COMPONENTS, TILES

for precision, tile in TILES.items():
    constants = {"dim": 80, "num_parts": 2, "WEIGHTED": True, "PRECISION": precision}
    constants |= {"BLOCK_N": tile.frames, "BLOCK_K": TILE_COMPONENTS, "BLOCK_D": tile.dims}
    for program in (triton_programs.sum_likelihoods, triton_programs.add_statistics):
        names = program.arg_names
        pointers = {"center", "matrix", "bias", "log_sums", "weights", "partials"}
        kinds = {"frames": "*fp16", **dict.fromkeys(pointers, "*fp32")}
        kinds |= dict.fromkeys(constants, "constexpr")
        signature = {name: kinds.get(name, "i32") for name in names}
        given = {name: value for name, value in constants.items() if name in names}
        source = ASTSource(program, signature, given)
        options = {"num_warps": tile.num_warps}
        for capability in (80, 90):
            target = GPUTarget("cuda", capability, 32)
            compiled = triton.compile(source, target=target, options=options)
            assert compiled.metadata.shared <= 64 * 1024, "more than some GPUs have"
            assert ".atom" not in compiled.asm["ptx"] and ".red." not in compiled.asm["ptx"]
print("compiled")
"""


def test_the_programs_compile_for_a_gpu_without_one_and_without_atomics(tmp_path) -> None:
    environment = {**one_thread(), "TRITON_CACHE_DIR": str(tmp_path)}
    assert run([sys.executable, "-c", COMPILE], env=environment).stdout == "compiled\n"

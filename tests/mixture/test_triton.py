"""The kernel in Triton: by its interpreter, compiled for GPUs that are not here, and refused."""

import sys
from pathlib import Path

import pytest
import torch

from gmmpipe.errors import OptionError
from gmmpipe.mixture.kernels import check_kind
from gmmpipe.mixture.triton_statistics import TILE_COMPONENTS, TILES
from helpers.making import fit_arguments
from helpers.processes import one_thread, run, run_gmmpipe
from helpers.results import read_metrics

HERE = Path(__file__).parent
INTERPRETED = {"TRITON_INTERPRET": "1"}
POINTERS = ("center", "matrix", "bias", "log_sums", "partials", "weights")
COMPILE = f"""
import sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gmmpipe.mixture import triton_programs

name, capability, num_warps, written = sys.argv[1:]
constants = eval(written)
program = getattr(triton_programs, name)
types = {{"frames": "*fp16", **dict.fromkeys({POINTERS}, "*fp32")}}
types |= dict.fromkeys(constants, "constexpr")
source = ASTSource(
    program,
    {{name: types.get(name, "i32") for name in program.arg_names}},
    constexprs={{(program.arg_names.index(name),): value for name, value in constants.items()}},
)
made = triton.compile(
    source, target=GPUTarget("cuda", int(capability), 32), options={{"num_warps": int(num_warps)}}
)
print(made.metadata.shared, len(made.asm["cubin"]))
"""


def test_the_kernel_gives_the_statistics_of_the_oracle(frames, tmp_path) -> None:
    torch.save(frames[::28].clone(), tmp_path / "speech.pt")
    environment = {**one_thread(), **INTERPRETED, "SPEECH": str(tmp_path / "speech.pt")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    run([*command, str(HERE / "interpreted_triton.py")], env=environment)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("precision", TILES)
@pytest.mark.parametrize("name", ["sum_likelihoods", "add_statistics"])
def test_the_programs_compile_for_gpus_that_are_not_here(
    name: str, precision: str, capability: int, tmp_path: Path
) -> None:
    """To the machine code of an A100 and an H100, within the memory that blocks share there."""
    tile = TILES[precision]
    constants = {"dim": 80, "BLOCK_N": tile.frames, "BLOCK_K": TILE_COMPONENTS}
    constants |= {"BLOCK_D": tile.dims, "PRECISION": precision}
    if name == "add_statistics":
        constants |= {"num_parts": 2, "WEIGHTED": True}
    arguments = [name, str(capability), str(tile.num_warps), repr(constants)]
    environment = {**one_thread(), "TRITON_CACHE_DIR": str(tmp_path)}
    done = run([sys.executable, "-c", COMPILE, *arguments], env=environment)
    shared, code = map(int, done.stdout.split())
    assert shared <= 99 << 10
    assert code > 10_000


def test_a_fit_takes_it_where_it_is_interpreted(store, tmp_path) -> None:
    """In one step of each of two updates; the fit is that of the other kernels."""
    sizes = {"K": 7, "n_sgd_steps": 1, "sgd_batch_size": 256, "target_frames": 4000}
    for kernel, more in (("all_pairs", {}), ("triton", INTERPRETED)):
        arguments = fit_arguments(store, tmp_path / kernel, kernel=kernel, **sizes)
        run_gmmpipe(*arguments, env={**one_thread(), **more})
    found, expected = (read_metrics(tmp_path / kernel) for kernel in ("triton", "all_pairs"))
    assert found["nll"] == pytest.approx(expected["nll"], rel=1e-5)
    assert "kernel: triton" in (tmp_path / "triton" / "options.yaml").read_text()


def test_a_kernel_of_another_device_is_wrong_usage(store, tmp_path, invoke) -> None:
    arguments = fit_arguments(store, tmp_path / "fit", kernel="triton", device="cpu")
    done = invoke(*arguments, status=2)
    assert "--kernel triton is for a GPU" in done.stderr
    assert not (tmp_path / "fit").exists()
    with pytest.raises(OptionError, match="--kernel likely_pairs is for a CPU"):
        check_kind("likely_pairs", torch.device("cuda"))
    check_kind("triton", torch.device("cuda"))


def test_k_means_has_a_kernel_of_its_own(store, tmp_path, invoke) -> None:
    arguments = fit_arguments(store, tmp_path / "fit", kernel="all_pairs", model="kmeans")
    assert "no meaning with --model kmeans" in invoke(*arguments, status=2).stderr


def test_a_fit_goes_on_with_another_kernel_and_precision(store, tmp_path, invoke) -> None:
    """TF32 changes nothing on a CPU, and the fit says so."""
    invoke(*fit_arguments(store, tmp_path, kernel="likely_pairs"))
    more = fit_arguments(
        store, tmp_path, kernel="all_pairs", matmul="tf32", resume="auto", target_frames=12_000
    )
    done = invoke(*more)
    assert "--matmul tf32 changes nothing on a CPU" in done.stderr
    assert read_metrics(tmp_path)["frames"] == [4000, 8000, 12_000]

"""What a run is measured on, and how."""

import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.utils.benchmark import Timer

import gmmpipe

ROOT = Path(__file__).resolve().parents[3]
"""The checkout."""
WARM_UP = 3
"""Calls before the clock starts: compiling, capturing, choosing of algorithms."""


def describe(device: torch.device, quick: bool) -> dict[str, str]:
    """What decides the figures: the card, the driver and the versions."""
    found = {"gmmpipe": gmmpipe.__version__, "torch": torch.__version__}
    if find_spec("triton"):
        import triton

        found["triton"] = triton.__version__
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {
            "card": f"{torch.cuda.device_count()} x {card.name}, {card.total_memory / 2**30:.0f} "
            f"GiB, {card.multi_processor_count} multiprocessors",
            "driver": _driver(),
            "CUDA": str(torch.version.cuda),
        }
    found["processor"] = f"{os.cpu_count()} x {platform.machine()}, no GPU used"
    if device.type == "cuda":
        found["processor"] = found["processor"].partition(",")[0]
    if quick:
        found["sizes"] = "tiny: these figures only show that the code runs"
    return found


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return "unknown: nvidia-smi does not say"
    return done.stdout.split("\n")[0].strip()


def median_seconds(function: Callable[[], object], at_least: float) -> float:
    """Median time of a call, of repeats that take `at_least` seconds; the GPU's work is done."""
    for _ in range(WARM_UP):
        function()
    timer = Timer("function()", globals={"function": function}, num_threads=torch.get_num_threads())
    return float(timer.blocked_autorange(min_run_time=at_least).median)


@contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Products of float32 by TF32, or not at all."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if wanted else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def environment() -> dict[str, str]:
    """That of a process which is to find this checkout's package."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}

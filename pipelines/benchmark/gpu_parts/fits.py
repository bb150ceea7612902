"""Whole commands on frames that are made on the spot: a fit, evaluate and label; and torchgmm."""

import re
import subprocess
import sys
import time
import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from gmmpipe import GradientGMM
from gmmpipe.apply.evaluate import evaluate
from gmmpipe.apply.label import LabelOptions, label
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.run.world import World
from gpu_parts.machine import ROOT, environment
from gpu_parts.made_up import draw_frames, make_mixture, make_store
from gpu_parts.results import Results, Row

PART = "fits"
TORCHGMM = "torchgmm"
TORCHGMM_ITERATIONS = 10
SUMMARY = {
    "seconds": "seconds",
    "seeding": "s seeding",
    "fitting": "s fitting",
    "waiting for frames": "s waiting for frames",
    "final nll": "nll",
}
"""Lines of what a fit says at its end, and what they are called here."""


class Sizes:
    """How much is done.

    Args:
        quick: whether the code is only to be run.
    """

    def __init__(self, quick: bool) -> None:
        self.components, self.dim = (16, 5) if quick else (1024, 80)
        self.stored, self.fitted = (20_000, 40_000) if quick else (10_000_000, 100_000_000)
        self.evaluated = 8000 if quick else 4_000_000
        self.of_torchgmm = 4000 if quick else 1_000_000
        self.fit_options = (
            {"batch_update_size": 10_000, "n_sgd_steps": 20, "sgd_batch_size": 512} if quick else {}
        )


def run_fits(results: Results, device: torch.device, quick: bool) -> None:
    """A row for each command.

    The store is read again and again, as the frames of a fit are one line without end. Its 10
    million frames take 1.6 GB of disk, in a folder beside the results that is removed again.
    """
    sizes, ranks = Sizes(quick), [1]
    if device.type == "cuda" and torch.cuda.device_count() > 1:
        ranks.append(torch.cuda.device_count())
    fits = {f"fit, {count} rank{'s' * (count > 1)}": count for count in ranks}
    names = ["store", *fits, "evaluate", "label"]
    mixture = make_mixture(sizes.components, sizes.dim, device)
    if not all(results.has(PART, name) for name in names):
        with TemporaryDirectory(prefix="gpu-", dir=results.path.parent) as temporary:
            folder, world = Path(temporary), World(0, 1, device)
            store, model = folder / "store", folder / "gmm.pt"
            GradientGMM.of(mixture).save(model)
            results.row(PART, "store", lambda: time_store(store, mixture, sizes.stored))
            if not store.exists() and results.seconds_left() > 0:
                make_store(store, mixture, sizes.stored)
            for name, count in fits.items():
                results.row(
                    *(PART, name),
                    partial(run_fit, store, sizes, device, count, results.seconds_left() + 60),
                )
            results.row(
                PART, "evaluate", lambda: time_evaluate(store, model, sizes.evaluated, world)
            )
            results.row(PART, "label", lambda: time_label(store, model, world))
    if find_spec(TORCHGMM):
        frames = draw_frames(mixture, sizes.of_torchgmm).float()
        results.row(PART, TORCHGMM, lambda: time_torchgmm(frames, mixture, device))
    else:
        results.row(PART, TORCHGMM, lambda: {"note": "not compared: torchgmm is not installed"})


def figures(num_frames: int, seconds: float) -> Row:
    """What every row has."""
    return {
        "frames": num_frames,
        "seconds": seconds,
        "M frames a second": num_frames / seconds / 1e6,
    }


def time_store(folder: Path, mixture: Mixture, num_frames: int) -> Row:
    """Drawing and writing the frames."""
    began = time.perf_counter()
    count = make_store(folder, mixture, num_frames)
    return figures(count, time.perf_counter() - began)


def run_fit(store: Path, sizes: Sizes, device: torch.device, ranks: int, limit: float) -> Row:
    """``gmmpipe fit`` in processes of its own, with its defaults; what it says of itself."""
    out = store.parent / f"fit-{ranks}"
    options = {
        "data_dir": store,
        "output_dir": out,
        "K": sizes.components,
        "target_frames": sizes.fitted,
        "device": device.type,
        **sizes.fit_options,
    }
    command = [sys.executable, "-m"]
    if ranks > 1:
        command += ["torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"]
    command += ["gmmpipe", "fit", *(str(x) for pair in options.items() for x in as_option(*pair))]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=limit
    )
    if done.returncode:
        raise RuntimeError(f"fit exited {done.returncode}: {done.stderr[-200:]}")
    said = dict(re.findall(r"^ *(\w[\w ]*\w) {2,}(-?[\d.]+)$", done.stdout + done.stderr, re.M))
    found = {name: float(said[line]) for line, name in SUMMARY.items()}
    return figures(sizes.fitted, found.pop("seconds")) | found


def as_option(name: str, value: object) -> tuple[str, object]:
    return f"--{name}", value


def time_evaluate(store: Path, model: Path, num_frames: int, world: World) -> Row:
    """`evaluate`, which goes over the frames twice."""
    began = time.perf_counter()
    found = evaluate(str(store), model, num_frames, world)
    return figures(found.frames, time.perf_counter() - began) | {"nll": found.nll}


def time_label(store: Path, model: Path, world: World) -> Row:
    """`label`, with the 8 likeliest components of each frame."""
    began = time.perf_counter()
    info = label(LabelOptions(store, model, store.parent / "labels", top_k=8), world)
    return figures(sum(row.frames for row in info.shards), time.perf_counter() - began)


def time_torchgmm(frames: Tensor, mixture: Mixture, device: torch.device) -> Row:
    """Iterations of torchgmm's EM over frames [N, D], each of which is a pass over all of them."""
    from torchgmm.bayes import GaussianMixture

    warnings.filterwarnings("ignore")
    estimator = GaussianMixture(
        mixture.num_components,
        covariance_type="diag",
        convergence_tolerance=0.0,
        init_means=frames[: mixture.num_components].cpu(),
        covariance_regularization=1e-3,
        trainer_params={
            "max_epochs": TORCHGMM_ITERATIONS,
            "accelerator": "gpu" if device.type == "cuda" else "cpu",
            "devices": 1,
            "enable_progress_bar": False,
        },
    )
    given = frames.cpu()
    began = time.perf_counter()
    estimator.fit(given)
    row = figures(TORCHGMM_ITERATIONS * len(given), time.perf_counter() - began)
    return row | {"note to the frames": f"{TORCHGMM_ITERATIONS} passes over {len(given)}"}

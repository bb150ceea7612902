#!/usr/bin/env python
"""The demo: featurize the shipped speech, fit a mixture on one rank and two, show it, train a JEPA.

Run by ``make demo``; everything it makes lies in out/demo.
"""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch

from gmmpipe import FeatureStore, GradientGMM

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OUT = ROOT / "out" / "demo"
FIT = (
    *("--K", "64", "--target_frames", "80k", "--batch_update_size", "8k", "--save_every", "40k"),
    *("--n_sgd_steps", "100", "--sgd_batch_size", "2048", "--overwrite"),
)
JEPA = (
    *("--max_steps", "60", "--batch_size", "8", "--dim", "64", "--layers", "2"),
    *("--num_workers", "0", "--overwrite"),
)


def run(*command: object) -> float:
    """Run a command as a user would type it; the seconds it took."""
    words = [
        str(Path(word).relative_to(ROOT)) if isinstance(word, Path) else str(word)
        for word in command
    ]
    print(f"\n$ {shlex.join(words)}", flush=True)
    torchrun = ("-m", "torch.distributed.run")
    python = {"gmmpipe": ("-m", "gmmpipe"), "torchrun": torchrun, "python": ()}
    began = time.monotonic()
    # One thread a process, with one rank as with two: then the two fits are comparable.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *python[words[0]], *words[1:]], cwd=ROOT, env=environment, check=False
    )
    if done.returncode:
        sys.exit(f"the demo's command exited with status {done.returncode}")
    return time.monotonic() - began


def main() -> None:
    store_path, one, two = OUT / "features", OUT / "fit-1-rank", OUT / "fit-2-ranks"
    jepa = OUT / "jepa"
    seconds = [
        run(
            *("gmmpipe", "featurize", "--data_dir", HERE / "corpus", "--output_dir", store_path),
            *("--utterances_per_shard", 16, "--store_audio", "flac", "--overwrite"),
        ),
        run("gmmpipe", "fit", "--data_dir", store_path, "--output_dir", one, *FIT),
        run(
            *("torchrun", "--standalone", "--nproc_per_node", 2, "gmmpipe", "fit"),
            *("--data_dir", store_path, "--output_dir", two, *FIT),
        ),
        run("gmmpipe", "report", one),
        run(
            *("python", ROOT / "pipelines" / "jepa" / "train.py", "--data_dir", store_path),
            *("--gmm_path", one / "gmm.pt", "--output_dir", jepa, *JEPA),
        ),
    ]
    report(store_path, one, two, jepa, seconds)


def report(store_path: Path, one: Path, two: Path, jepa: Path, seconds: list[float]) -> None:
    """Print what came out and where it lies."""
    store = FeatureStore.open(store_path)
    frames = store.read_frames(0, store.num_frames)
    hours = sum(utt.metadata["num_samples"] for utt in store.utterances()) / 16000 / 3600
    rows = [
        (
            "features",
            f"{len(store)} utterances, {store.num_frames} frames of {store.dim}, "
            f"{60 * hours:.1f} minutes of speech",
            seconds[0],
            store_path,
        )
    ]
    models = [GradientGMM.load(folder / "gmm.pt") for folder in (one, two)]
    for name, model, folder, took in zip(
        ("1 rank", "2 ranks"), models, (one, two), seconds[1:3], strict=True
    ):
        nll = -float(model.score_samples(frames).double().mean())
        used = len(model.assign(frames).unique())
        rows.append(
            (name, f"K = {model.K}, {used} in use, {nll:.4f} nats a frame", took, folder / "gmm.pt")
        )
    page = one / "report.html"
    what = f"the fit of 1 rank, to look at and to hear, {page.stat().st_size / 1e6:.1f} MB"
    rows.append(("report", what, seconds[3], page))
    header, *_, last = (jepa / "metrics.tsv").read_text().splitlines()
    losses = dict(zip(header.split("\t"), map(float, last.split("\t")), strict=True))
    cluster, marginal = losses["cluster_loss"], losses["marginal_loss"]
    what = f"cluster loss {cluster:.2f} nats, the marginal's {marginal:.2f}"
    rows.append(("JEPA", what, seconds[4], jepa / "jepa.pt"))
    print(f"\n{'':9} {'what came out':62} {'seconds':>7}  where")
    for name, what, took, where in rows:
        print(f"{name:9} {what:62} {took:7.1f}  {where.relative_to(ROOT)}")
    difference = float(torch.max(torch.abs(models[0].means - models[1].means)))
    print(f"\nThe two models' means differ by at most {difference:.1e}: same frames, same model.")


if __name__ == "__main__":
    main()

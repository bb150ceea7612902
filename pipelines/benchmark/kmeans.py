#!/usr/bin/env python
"""`gmmpipe fit --model kmeans` against scikit-learn's KMeans and MiniBatchKMeans, and faiss.

KMeans is full-batch, from k-means++, 100 iterations, best of 1. MiniBatchKMeans has the settings of
fairseq's learn_kmeans.py. faiss, where it is installed, has its 25 iterations from random frames,
on all frames. All get the same frames of a store, in turn, on one thread each. The
inertia is the mean squared distance of all frames to their nearest centre, in float64. Seconds are
of the CPU: of gmmpipe its whole process, and without its imports ("fit alone"); of scikit-learn the
fit alone, of frames that are in memory.

    python pipelines/benchmark/kmeans.py --data_dir STORE [--K 100,500] [--seeds 0,1,2]
"""

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import numpy as np
import torch
from common import add_row, gmmpipe, is_installed, python
from sklearn.cluster import KMeans, MiniBatchKMeans
from threadpoolctl import threadpool_limits

from gmmpipe import FeatureStore, GradientGMM
from gmmpipe.mixture.hard_statistics import nearest_square_distances
from gmmpipe.mixture.lloyd import unit_parameters

FULL = {"init": "k-means++", "max_iter": 100, "n_init": 1}
FAIRSEQ = {
    "init": "k-means++",
    "max_iter": 100,
    "batch_size": 10_000,
    "tol": 0.0,
    "max_no_improvement": 100,
    "n_init": 20,
    "reassignment_ratio": 0.0,
    "compute_labels": False,
}
STEPS = 20
Figures = tuple[float, float]
"""Inertia and CPU seconds."""


def main() -> None:
    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description="k-means: gmmpipe against scikit-learn")
    parser.add_argument("--data_dir", required=True, help="a feature store")
    parser.add_argument("--K", type=numbers, default=[100, 500])
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes started here
    store = FeatureStore.open(options.data_dir)
    frames = store.read_frames(0, store.num_frames)
    imports = python("-c", "import gmmpipe.fitting.trainer")
    print(f"{len(frames)} frames, D = {store.dim}; one thread; medians of seeds {options.seeds}")
    print(f"the imports of gmmpipe fit: {imports:.1f} CPU seconds")
    for num_centers in options.K:
        rows: dict[str, list[Figures]] = {}
        for seed in options.seeds:
            for name, figures in run_all(options.data_dir, frames, num_centers, seed).items():
                rows.setdefault(name, []).append(figures)
        report(num_centers, rows, imports)


def run_all(data_dir: str, frames: torch.Tensor, num_centers: int, seed: int) -> dict[str, Figures]:
    """Each rival's figures for one seed."""
    return {
        "gmmpipe": run_gmmpipe(data_dir, frames, num_centers, seed),
        "sklearn KMeans": run_sklearn(KMeans(num_centers, random_state=seed, **FULL), frames),
        "sklearn MiniBatchKMeans": run_sklearn(
            MiniBatchKMeans(num_centers, random_state=seed, **FAIRSEQ), frames
        ),
        **({"faiss": run_faiss(frames, num_centers, seed)} if is_installed("faiss") else {}),
    }


def run_gmmpipe(data_dir: str, frames: torch.Tensor, num_centers: int, seed: int) -> Figures:
    """One update of all frames, in `STEPS` steps; the whole process."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = gmmpipe(
            *("fit", "--model", "kmeans", "--K", num_centers, "--seed", seed),
            *("--data_dir", data_dir, "--output_dir", folder),
            *("--target_frames", len(frames), "--n_sgd_steps", STEPS),
        )
        means = GradientGMM.load(Path(folder) / "gmm.pt").means
    return inertia(frames, means), seconds


def run_sklearn(model: KMeans | MiniBatchKMeans, frames: torch.Tensor) -> Figures:
    """The fit alone."""
    began = time.process_time()
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")  # of iterations that end before it has converged
        model.fit(frames.numpy())
    seconds = time.process_time() - began
    return inertia(frames, torch.from_numpy(np.asarray(model.cluster_centers_))), seconds


def run_faiss(frames: torch.Tensor, num_centers: int, seed: int) -> Figures:
    """The fit alone, with faiss's defaults, but of all frames."""
    import faiss

    faiss.omp_set_num_threads(1)
    vectors = frames.numpy()
    model = faiss.Kmeans(
        vectors.shape[1], num_centers, seed=seed, max_points_per_centroid=len(vectors)
    )
    began = time.process_time()
    model.train(vectors)
    seconds = time.process_time() - began
    return inertia(frames, torch.from_numpy(model.centroids)), seconds


def inertia(frames: torch.Tensor, centers: torch.Tensor) -> float:
    """Mean squared distance to the nearest centre."""
    return float(nearest_square_distances(frames, unit_parameters(centers.float()).mixture).mean())


def report(num_centers: int, rows: dict[str, list[Figures]], imports: float) -> None:
    """Print the medians, each against full-batch KMeans."""
    medians = {name: [median(column) for column in zip(*row)] for name, row in rows.items()}  # noqa: B905
    score, seconds = medians["gmmpipe"]
    medians["gmmpipe, fit alone"] = [score, seconds - imports]
    full_score, full_seconds = medians["sklearn KMeans"]
    for name, (other, other_seconds) in medians.items():
        if not name.startswith("gmmpipe"):
            add_row(f"K = {num_centers}, inertia", "squared distance", score, name, other)
            for what, ours in (("whole process", seconds), ("fit alone", seconds - imports)):
                add_row(f"K = {num_centers}, {what}", "CPU s", ours, name, other_seconds)
    print(
        f"\nK = {num_centers:<21} {'inertia':>10} {'of KMeans':>10} {'CPU s':>8} {'of KMeans':>10}"
    )
    for name, (score, seconds) in medians.items():
        relative = f"1/{full_seconds / seconds:.1f}"
        print(f"{name:25} {score:10.3f} {score / full_score:10.4f} {seconds:8.2f} {relative:>10}")


if __name__ == "__main__":
    main()

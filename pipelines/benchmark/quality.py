#!/usr/bin/env python
"""Held-out likelihood, time and dead components of `gmmpipe fit` against other mixtures' EM.

Splits the manifests by utterance (a tenth is held out), featurizes both parts, fits each way on the
same frames with one thread, in turn, and scores the frames held out. Variances are clipped at
gmmpipe's floor of 0.1 before scoring: without a floor, whoever models the frames of digital silence
most tightly wins. scikit-learn has 50 EM iterations from its k-means, with reg_covar=1e-3 and with
0.1; the better median counts. torchgmm and pomegranate, where installed, have 10 iterations from
scikit-learn's k-means++ on 100,000 frames and K = 256 at most, for the time that they take.

Each figure is kept in WORK_DIR/results.jsonl as soon as it is there, and the same command goes on
with what is missing; delete a figure's line to measure it again.

    python pipelines/benchmark/quality.py --data_dir MANIFESTS [--num_components 256,1024]
"""

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from common import add_row, gmmpipe, is_installed, python
from sklearn.cluster import kmeans_plusplus
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from gmmpipe import FeatureStore, GradientGMM
from gmmpipe.mixture.measures import UpdateSums
from gmmpipe.randomness import permutation
from gmmpipe.sources.find import find_manifests
from gmmpipe.sources.lines import read_lines
from gmmpipe.sources.manifest import clean_line

VAR_FLOOR = 0.1
ITERATIONS = 50
SLOW_FRAMES, SLOW_ITERATIONS, SLOW_COMPONENTS = 100_000, 10, 256
FIT_OPTIONS = "--optimizer em --n_sgd_steps 10 --sgd_batch_size 32768"

Fit = Callable[[np.ndarray, int, int], tuple[GradientGMM, float]]
"""From frames, K and seed to a mixture and the CPU seconds that it took."""


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes started here
    train, held_out = split_stores(options.data_dir, options.work_dir)
    results = options.work_dir / "results.jsonl"
    done = {}
    if results.exists():
        done = {row["run"]: row for row in map(json.loads, results.read_text().splitlines())}
    added = 0
    methods = methods_of(options)
    for seed in options.seeds:
        for num_components in options.num_components:
            for method, fit in methods.items():
                run = run_name(method, num_components, seed)
                if run in done or added == options.max_runs or not is_run(method, num_components):
                    continue
                with threadpool_limits(1):
                    model, cpu_seconds = fit(train, num_components, seed)
                row = {"run": run, "cpu_seconds": cpu_seconds, **judge(model, train, held_out)}
                with results.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                done[run], added = row, added + 1
                print(json.dumps(row), file=sys.stderr)
    imports = python("-c", "import gmmpipe.fitting.trainer")
    print(f"{len(train)} frames to fit, {len(held_out)} held out; one thread each")
    print(f"the imports of gmmpipe fit, which its seconds include: {imports:.1f} CPU seconds")
    for num_components in options.num_components:
        report(num_components, options.seeds, list(methods), done, imports)


def parse_arguments() -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description="gmmpipe fit against other mixtures' EM")
    parser.add_argument("--data_dir", required=True, help="folders of, or, manifests")
    parser.add_argument("--work_dir", type=Path, default=Path("out/quality"), help="is kept")
    parser.add_argument("--num_components", type=numbers, default=[256, 1024])
    parser.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    parser.add_argument("--fit_options", default=FIT_OPTIONS, help="of gmmpipe fit")
    parser.add_argument("--methods", help="comma-separated beginnings of names; default: all")
    parser.add_argument("--max_runs", type=int, help="stop after so many new figures")
    return parser.parse_args()


def methods_of(options: argparse.Namespace) -> dict[str, Fit]:
    """The ways to fit that were asked for, by name."""
    methods: dict[str, Fit] = {
        f"gmmpipe fit {options.fit_options}": partial(fit_gmmpipe, options),
        "scikit-learn reg_covar=0.001": partial(fit_sklearn, 1e-3),
        "scikit-learn reg_covar=0.1": partial(fit_sklearn, VAR_FLOOR),
    }
    slow: dict[str, Fit] = {"torchgmm": fit_torchgmm, "pomegranate": fit_pomegranate}
    methods |= {name: fit for name, fit in slow.items() if is_installed(name)}
    chosen = tuple(options.methods.split(",")) if options.methods else ("",)
    return {name: fit for name, fit in methods.items() if name.startswith(chosen)}


def is_run(method: str, num_components: int) -> bool:
    """Whether a method is run with so many components."""
    return num_components <= SLOW_COMPONENTS or method.startswith(("gmmpipe", "scikit-learn"))


def run_name(method: str, num_components: int, seed: int) -> str:
    return f"{method}, K={num_components}, seed={seed}"


def split_stores(data_dir: str, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Featurize nine tenths and one tenth of the utterances; the frames of both."""
    lines: list[tuple[Path, bytes]] = []
    for manifest in find_manifests(data_dir):
        for offset, raw in read_lines(manifest):
            line = clean_line(raw, first=offset == 0)
            if line:
                lines.append((manifest.path.parent, line))
    held = set(permutation(len(lines), "held out")[: len(lines) // 10].tolist())
    work.mkdir(parents=True, exist_ok=True)
    frames = []
    for name, is_held in (("train", False), ("held-out", True)):
        chosen = [line for number, (_, line) in enumerate(lines) if (number in held) == is_held]
        manifest_path = work / f"{name}.jsonl"
        manifest_path.write_bytes(b"\n".join(chosen) + b"\n")
        gmmpipe(  # keeps a finished store, and refuses one that was made from another manifest
            *("featurize", "--data_dir", manifest_path, "--base_path", lines[0][0]),
            *("--output_dir", work / name),
        )
        store = FeatureStore.open(work / name)
        frames.append(store.read_frames(0, store.num_frames).numpy())
    return frames[0], frames[1]


def fit_gmmpipe(
    options: argparse.Namespace, train: np.ndarray, num_components: int, seed: int
) -> tuple[GradientGMM, float]:
    """One update of all frames, unless the options say otherwise; the whole process."""
    folder = options.work_dir / "fit"
    cpu_seconds = gmmpipe(
        *("fit", "--data_dir", options.work_dir / "train", "--output_dir", folder, "--overwrite"),
        *("--K", num_components, "--target_frames", len(train), "--seed", seed),
        *("--var_floor", VAR_FLOOR, *options.fit_options.split()),
    )
    return GradientGMM.load(folder / "gmm.pt"), cpu_seconds


def fit_sklearn(
    reg_covar: float, train: np.ndarray, num_components: int, seed: int
) -> tuple[GradientGMM, float]:
    """scikit-learn's EM from its k-means; the fit alone."""
    model = GaussianMixture(
        num_components,
        covariance_type="diag",
        max_iter=ITERATIONS,
        tol=0.0,
        reg_covar=reg_covar,
        random_state=seed,
    )
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is meant to have no more iterations
        model.fit(train)
    return GradientGMM.from_sklearn(model), time.process_time() - began


def fit_torchgmm(train: np.ndarray, num_components: int, seed: int) -> tuple[GradientGMM, float]:
    """torchgmm's EM from given centres, on part of the frames; the fit alone."""
    from torchgmm.bayes import GaussianMixture as TorchGMM

    trainer = {
        "max_epochs": SLOW_ITERATIONS,
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
    }
    frames, centers = start_of_slow(train, num_components, seed)
    estimator = TorchGMM(
        num_components,
        covariance_type="diag",
        convergence_tolerance=0.0,
        init_means=centers,
        covariance_regularization=1e-3,
        trainer_params=trainer,
    )
    began = time.process_time()
    estimator.fit(frames)
    cpu_seconds = time.process_time() - began
    model = estimator.model_
    return mixture(model.means, model.covariances, model.component_probs), cpu_seconds


def fit_pomegranate(train: np.ndarray, num_components: int, seed: int) -> tuple[GradientGMM, float]:
    """pomegranate's EM from given centres, on part of the frames; the fit alone.

    It has no floor for diagonal variances (min_cov does not act on them) and fails where one rounds
    to 0, so its frames carry noise of a variance of 0.01.
    """
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    frames, centers = start_of_slow(train, num_components, seed)
    frames += 0.1 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(seed))
    spread = frames.var(0)
    start = [Normal(center, spread.clone(), covariance_type="diag") for center in centers]
    model = GeneralMixtureModel(start, max_iter=SLOW_ITERATIONS, tol=-float("inf"))
    began = time.process_time()
    model.fit(frames)
    cpu_seconds = time.process_time() - began
    means, covariances = (
        torch.stack([getattr(component, name).data for component in model.distributions])
        for name in ("means", "covs")
    )
    return mixture(means, covariances, model.priors), cpu_seconds


def start_of_slow(
    train: np.ndarray, num_components: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As many frames as the slow methods have, at random, and scikit-learn's k-means++ of them.

    Their own k-means leaves clusters empty where frames are equal, as in digital silence:
    torchgmm's mixture is NaN then, and pomegranate refuses it.
    """
    frames = train[permutation(len(train), "part", seed)[:SLOW_FRAMES]]
    centers, _ = kmeans_plusplus(frames, num_components, random_state=seed)
    return torch.from_numpy(frames), torch.from_numpy(centers)


def mixture(means: torch.Tensor, covariances: torch.Tensor, weights: torch.Tensor) -> GradientGMM:
    """The mixture of these parameters, which are [K, D], [K, D] and [K]."""
    return GradientGMM(means, covariances.log(), weights.log())


def judge(model: GradientGMM, train: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Held-out nats a frame under the floor, and the components that win no frame of `train`."""
    log_vars = model.log_vars.clamp_min(float(np.log(VAR_FLOOR)))
    clipped = GradientGMM(model.means, log_vars, model.log_weights)
    score = clipped.score_samples(torch.from_numpy(held_out)).double().mean()
    usage = UpdateSums.over(torch.from_numpy(train), clipped.mixture).usage
    return {"held_out": float(score), "dead": int((usage.counts == 0).sum())}


def report(
    num_components: int, seeds: list[int], methods: list[str], done: dict[str, Any], imports: float
) -> None:
    """Print each method's figures, one a seed, with their medians."""
    print(f"\nK = {num_components}")
    medians: dict[str, tuple[float, float]] = {}
    for method in methods:
        names = [run_name(method, num_components, seed) for seed in seeds]
        rows = [done[name] for name in names if name in done]
        if not rows:
            continue
        scores, seconds = ([row[key] for row in rows] for key in ("held_out", "cpu_seconds"))
        medians[method] = median(scores), median(seconds)
        dead = " ".join(str(row["dead"]) for row in rows)
        print(f"  {method}")
        for what, values, digits in (("nats a frame", scores, 3), ("CPU seconds", seconds, 1)):
            each = " ".join(f"{value:.{digits}f}" for value in values)
            print(f"    {what:13} median {median(values):9.{digits}f}   of {each}")
        print(f"    dead components {dead}")
    add_rows(f"K = {num_components}", medians, imports)
    rivals = [method for method in medians if method.startswith("scikit-learn")]
    ours = [method for method in medians if method.startswith("gmmpipe")]
    if ours and rivals:
        (score, seconds), best = medians[ours[0]], max(medians[method] for method in rivals)
        print(
            f"  gmmpipe - scikit-learn: {score - best[0]:+.3f} nats, "
            f"in 1/{best[1] / seconds:.1f} of its CPU time; fit against fit, without gmmpipe's "
            f"imports, 1/{best[1] / (seconds - imports):.1f}"
        )


def add_rows(what: str, medians: dict[str, tuple[float, float]], imports: float) -> None:
    """Give bench.py the figures of gmmpipe against each rival's."""
    ours = next((found for name, found in medians.items() if name.startswith("gmmpipe")), None)
    for method, (score, seconds) in medians.items():
        if ours and not method.startswith("gmmpipe"):
            add_row(f"{what}, held out", "nats a frame", ours[0], method, score, "difference")
            add_row(f"{what}, whole process", "CPU s", ours[1], method, seconds)
            add_row(f"{what}, fit alone", "CPU s", ours[1] - imports, method, seconds)


if __name__ == "__main__":
    main()

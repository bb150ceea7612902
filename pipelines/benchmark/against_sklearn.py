#!/usr/bin/env python
"""Held-out likelihood and time of `gmmpipe fit` against scikit-learn's diagonal EM.

Splits the manifests by utterance (a tenth is held out), featurizes both parts, fits both ways on
the same frames and scores the held-out frames. scikit-learn runs 25 EM iterations from its k-means
initialisation, once with reg_covar=1e-3 and once with reg_covar=0.1; its variances are clipped at
gmmpipe's floor of 0.1 before scoring, because without a floor whoever models the frames of digital
silence most tightly wins. The better of its two counts.

    python pipelines/benchmark/against_sklearn.py --data_dir MANIFESTS [--num_components 256]
"""

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.mixture import GaussianMixture

from gmmpipe import FeatureStore, GradientGMM
from gmmpipe.featurize.manifest import clean_line, find_manifests, read_lines
from gmmpipe.randomness import permutation

VAR_FLOOR = 0.1


def main() -> None:
    options = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        train, held_out = split_stores(options.data_dir, work, options.seed)
        print(f"{len(train)} frames to fit, {len(held_out)} held out; K = {options.num_components}")
        print(f"{'':30} {'seconds':>8} {'held-out nats a frame':>22} {'before clipping':>16}")
        ours = fit_gmmpipe(work, len(train), held_out, options)
        theirs = [fit_sklearn(train, held_out, reg, options) for reg in (1e-3, 0.1)]
    best = max(theirs, key=lambda result: result[1])
    print(
        f"gmmpipe - scikit-learn: {ours[1] - best[1]:+.3f} nats, "
        f"in {ours[0] / best[0]:.2f} of its time"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="gmmpipe fit against scikit-learn's diagonal EM")
    parser.add_argument("--data_dir", required=True, help="folders of, or, manifests")
    parser.add_argument("--num_components", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=50, help="of scikit-learn's EM")
    parser.add_argument("--optimizer", default="em")
    parser.add_argument("--n_sgd_steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def gmmpipe(*arguments: object) -> float:
    """Run a gmmpipe command; its seconds as a whole process, imports included."""
    began = time.monotonic()
    command = [sys.executable, "-m", "gmmpipe", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return time.monotonic() - began


def split_stores(data_dir: str, work: Path, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Featurize nine tenths and one tenth of the utterances; the frames of both."""
    lines: list[tuple[Path, bytes]] = []
    for manifest in find_manifests(data_dir):
        for offset, raw in read_lines(manifest):
            line = clean_line(raw, first=offset == 0)
            if line:
                lines.append((manifest.path.parent, line))
    held = set(permutation(len(lines), "held out", seed)[: len(lines) // 10].tolist())
    base_path = lines[0][0]
    frames = []
    for name, chosen in (
        ("train", [line for n, (_, line) in enumerate(lines) if n not in held]),
        ("held-out", [line for n, (_, line) in enumerate(lines) if n in held]),
    ):
        manifest_path = work / f"{name}.jsonl"
        manifest_path.write_bytes(b"\n".join(chosen) + b"\n")
        gmmpipe(
            *("featurize", "--data_dir", manifest_path, "--base_path", base_path),
            *("--output_dir", work / name),
        )
        store = FeatureStore.open(work / name)
        frames.append(store.read_frames(0, store.num_frames).numpy())
    return frames[0], frames[1]


def fit_gmmpipe(
    work: Path, num_frames: int, held_out: np.ndarray, options: argparse.Namespace
) -> tuple[float, float]:
    """Seconds and held-out log-likelihood of gmmpipe fit, in one update of all frames."""
    import torch

    step_frames = max(8192, 32 * options.num_components)
    seconds = gmmpipe(
        *("fit", "--data_dir", work / "train", "--output_dir", work / "fit"),
        *("--K", options.num_components, "--target_frames", num_frames),
        *("--optimizer", options.optimizer, "--n_sgd_steps", options.n_sgd_steps),
        *("--sgd_batch_size", step_frames, "--seed", options.seed, "--var_floor", VAR_FLOOR),
    )
    model = GradientGMM.load(work / "fit" / "gmm.pt")
    score = float(model.score_samples(torch.from_numpy(held_out)).double().mean())
    print(f"{'gmmpipe fit, the whole process':30} {seconds:8.1f} {score:22.3f}")
    return seconds, score


def fit_sklearn(
    train: np.ndarray, held_out: np.ndarray, reg_covar: float, options: argparse.Namespace
) -> tuple[float, float]:
    """Seconds of scikit-learn's fit alone, and held-out log-likelihood under the same floor."""
    model = GaussianMixture(
        options.num_components,
        covariance_type="diag",
        max_iter=options.iterations,
        tol=0.0,
        reg_covar=reg_covar,
        random_state=options.seed,
    )
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # it has not converged after so few iterations; that is meant
        model.fit(train)
    seconds = time.monotonic() - began
    unclipped = model.score(held_out)
    model.covariances_ = np.maximum(model.covariances_, VAR_FLOOR)
    model.precisions_cholesky_ = 1.0 / np.sqrt(model.covariances_)
    score = model.score(held_out)
    name = f"scikit-learn, reg_covar={reg_covar}"
    print(f"{name:30} {seconds:8.1f} {score:22.3f} {unclipped:16.3f}")
    return seconds, score


if __name__ == "__main__":
    main()

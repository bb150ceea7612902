#!/usr/bin/env python
"""Does the mixture keep a JEPA from collapsing? Anchored and unanchored runs, measured alike.

    pip install '.[jepa]'
    python pipelines/jepa/compare.py --data_dir STORE --gmm_path gmm.pt --output_dir OUT

Trains with cluster weights 1.0 -> 0.01 and 0 -> 0, in three seeds each, for equal steps; then
measures the online encoders' output on the same utterances, and writes OUT/comparison.md and the
plots. Run it again and finished runs are used as they are, others gone on with. Options that it
does not know go to each train.py.
"""

import logging
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

# Installed or not: a script's own folder is on the path, its checkout is not.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from gmmpipe import FeatureStore, GradientGMM
from gmmpipe.cli.common import run_job
from gmmpipe.errors import GmmpipeError
from gmmpipe.run.metrics_file import METRICS_FILE
from pipelines.jepa.checkpoint import load_jepa
from pipelines.jepa.evaluation import EvaluationSample
from pipelines.jepa.folder import MODEL_FILE
from pipelines.jepa.measures import effective_rank, entropy, feature_std, singular_values
from pipelines.jepa.model import JEPA, FeaturesFrontend, Sizes
from pipelines.jepa.targets import mixture_moments

log = logging.getLogger("gmmpipe.pipelines.jepa")
KINDS = {"anchored": ("1.0", "0.01"), "unanchored": ("0", "0")}
COLORS = {
    "anchored": "tab:blue",
    "unanchored": "tab:red",
    "untrained": "tab:gray",
}
CURVES = ("effective_rank", "feature_std", "jepa_loss", "cluster_loss")
NUM_CLUSTERS = 64
SAMPLE_SEED, SAMPLE_UTTERANCES = 0, 128


@dataclass(frozen=True)
class Measured:
    """One encoder's output, measured.

    Args:
        kind: of ``COLORS``, or the kind of the frames that the encoders are given.
        seed: of its parameters.
        features: its output on the sample, [N, dim].
        metrics: columns of its metrics.tsv; None without training.
    """

    kind: str
    seed: int
    features: Tensor
    metrics: dict[str, list[float]] | None = None

    @property
    def color(self) -> str:
        """Its color in the plots."""
        return COLORS.get(self.kind, "black")

    def row(self) -> list[str]:
        """Its row of the table."""
        usage = kmeans_entropy(self.features)
        losses = ["", ""]
        if self.metrics:
            last = {name: column[-1] for name, column in self.metrics.items()}
            losses = [
                f"{last['jepa_loss']:.4f}",
                f"{last['cluster_loss']:.2f} of {last['marginal_loss']:.2f}",
            ]
        return [
            self.kind,
            str(self.seed),
            f"{effective_rank(self.features):.1f} of {self.features.shape[1]}",
            f"{feature_std(self.features):.3f}",
            f"{usage:.2f} ({usage / math.log(NUM_CLUSTERS):.0%})",
            *losses,
        ]


TITLES = [
    "encoder",
    "seed",
    "effective rank",
    "mean std",
    "k-means usage entropy, nats (of ln 64)",
    "JEPA loss",
    "cluster loss, of the marginal's",
]


def kmeans_entropy(features: Tensor) -> float:
    """Entropy, in nats, of how many frames fall to each cluster of scikit-learn's k-means."""
    from sklearn.cluster import KMeans

    found = KMeans(NUM_CLUSTERS, n_init=1, random_state=0).fit(features.numpy())
    return entropy(torch.from_numpy(np.bincount(found.labels_, minlength=NUM_CLUSTERS)))


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--data_dir", required=True, help="A feature store.")
@click.option("--gmm_path", type=click.Path(path_type=Path), required=True, help="The mixture.")
@click.option("--output_dir", type=click.Path(path_type=Path), required=True)
@click.option("--num_seeds", default=3, show_default=True)
@click.option("--max_steps", default=500, show_default=True, help="Of each run.")
@click.option("--batch_size", default=8, show_default=True)
@click.pass_context
def main(context: click.Context, output_dir: Path, num_seeds: int, **options: object) -> None:
    """Compare anchored with unanchored JEPAs; further options go to train.py."""
    run_job(lambda: compare(output_dir, num_seeds, options, context.args), debug=False)


def compare(output_dir: Path, num_seeds: int, options: dict[str, object], extra: list[str]) -> None:
    """Train what is not trained yet, measure, and write the table and the plots."""
    given = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    runs = [(kind, seed) for kind in KINDS for seed in range(num_seeds)]
    folders = {run: output_dir / "{}-{}".format(*run) for run in runs}
    for (kind, seed), folder in folders.items():
        train(kind, seed, folder, [*given, *extra])

    store, gmm = FeatureStore.open(str(options["data_dir"])), GradientGMM.load(options["gmm_path"])
    jepas = {run: load_jepa(folder / MODEL_FILE)[0] for run, folder in folders.items()}
    first = jepas["anchored", 0]
    moments = mixture_moments(gmm)
    jepas |= {("untrained", seed): JEPA(first.sizes, seed, moments) for seed in range(num_seeds)}
    sample = EvaluationSample.read(store, first, SAMPLE_SEED, SAMPLE_UTTERANCES)
    measured = [
        Measured(*run, sample.encode(jepa, jepa.encoder), read_metrics(folders.get(run)))
        for run, jepa in jepas.items()
    ]
    kind = f"{store.features.kind.replace('_', '-')} frames"
    measured.append(Measured(kind, 0, input_frames(sample, first.sizes, gmm)))
    write_table(output_dir / "comparison.md", measured)
    plot_curves(output_dir / "jepa-collapse.png", measured)
    plot_spectra(output_dir / "jepa-spectra.png", measured)


def train(kind: str, seed: int, folder: Path, options: list[str]) -> None:
    """Run train.py to its end, from wherever it is."""
    start, end = KINDS[kind]
    weights = ["--cluster_weight_start", start, "--cluster_weight_end", end]
    script = str(Path(__file__).with_name("train.py"))
    chosen = ["--output_dir", str(folder), "--seed", str(seed), "--resume", "auto", *weights]
    done = subprocess.run([sys.executable, script, *options, *chosen], check=False)
    if done.returncode:
        raise GmmpipeError(f"{folder}: its run exited with status {done.returncode}")


def read_metrics(folder: Path | None) -> dict[str, list[float]] | None:
    """Columns of a run's metrics.tsv."""
    if folder is None:
        return None
    header, *rows = (folder / METRICS_FILE).read_text().splitlines()
    columns = zip(*(map(float, row.split("\t")) for row in rows), strict=True)
    return dict(zip(header.split("\t"), map(list, columns), strict=True))


def input_frames(sample: EvaluationSample, sizes: Sizes, gmm: GradientGMM) -> Tensor:
    """The sample's frames as the encoders are given them: each dimension of variance 1."""
    frontend = FeaturesFrontend(sizes)
    frontend.set_moments(*mixture_moments(gmm))
    frames = [b.features.transpose(1, 2)[~b.padding_mask] for b in sample.batches]
    return (torch.cat(frames) - frontend.mean) / frontend.std


def write_table(path: Path, measured: list[Measured]) -> None:
    """The table, also printed."""
    rows = [TITLES, ["---"] * len(TITLES), *(each.row() for each in measured)]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    path.write_text(table)
    print(table)
    log.info("wrote %s", path)


def plot_curves(path: Path, measured: list[Measured]) -> None:
    """What the runs' metrics.tsv say over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.2), layout="constrained")
    for axis, name in zip(figure.subplots(2, 2, sharex=True).flat, CURVES, strict=True):
        for each in measured:
            if each.metrics:
                label = each.kind if each.seed == 0 else None
                axis.plot(
                    each.metrics["step"],
                    each.metrics[name],
                    each.color,
                    label=label,
                )
        axis.set_title(name)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if name == "jepa_loss":
            axis.set_yscale("log")
    figure.axes[0].legend()
    save(figure, path)


def plot_spectra(path: Path, measured: list[Measured]) -> None:
    """Singular values of the centred output, as shares of their sum."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for each in measured:
        values = singular_values(each.features)
        label = each.kind if each.seed == 0 else None
        axis.semilogy(
            1 + np.arange(len(values)),
            values / values.sum(),
            each.color,
            label=label,
        )
    axis.set_ylim(bottom=1e-5)
    axis.set_xlabel("number of the singular value")
    axis.set_ylabel("share of the sum")
    axis.legend()
    axis.grid(alpha=0.3)
    save(figure, path)


def save(figure: object, path: Path) -> None:
    """Write a picture; its bytes name no version of the library."""
    figure.savefig(path, dpi=80, metadata={"Software": None})
    log.info("wrote %s", path)


if __name__ == "__main__":
    main(prog_name="compare.py")

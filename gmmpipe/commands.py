"""The commands as functions of their options: ``from gmmpipe import featurize, fit``.

Each function does what the command of its name does, and returns what it made, opened. Under
torchrun every rank calls `fit`, `label` or `evaluate`; `featurize` does not share its work among
ranks. While a function runs in the main thread, SIGINT, SIGTERM and SIGUSR1 raise `Stopped`; after
it, the earlier handlers are back. Progress goes to the logger ``gmmpipe``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gmmpipe.run.stop import raise_stopped, stop_signals

if TYPE_CHECKING:
    from gmmpipe.apply.evaluate import Evaluation
    from gmmpipe.apply.options import EvaluateOptions, LabelOptions
    from gmmpipe.exporting.folder import ExportInfo
    from gmmpipe.exporting.options import ExportOptions
    from gmmpipe.featurization.options import FeaturizeOptions
    from gmmpipe.fitting.options import FitOptions
    from gmmpipe.importing.options import ImportOptions
    from gmmpipe.mixture.gradient_gmm import GradientGMM
    from gmmpipe.reporting.options import ReportOptions
    from gmmpipe.store.feature_store import FeatureStore
    from gmmpipe.store.label_store import LabelStore


def featurize(options: "FeaturizeOptions") -> "FeatureStore | None":
    """Make a feature store from manifests of audio, or finish one.

    Worker processes make the shards. They import the script that calls this, so the call stands
    below ``if __name__ == "__main__":`` there.

    Returns:
        The finished store; None while shards of other slices (`task_index` of `num_tasks`) are
        missing.

    Raises:
        GmmpipeError: the store cannot be made; finished shards are kept.
        Stopped: a signal ended the work; finished shards are kept.
    """
    from gmmpipe.featurization import job
    from gmmpipe.store.feature_store import FeatureStore

    with stop_signals(raise_stopped):
        finished = job.featurize(options)
        return FeatureStore.open(options.output_dir) if finished else None


def import_frames(options: "ImportOptions") -> "FeatureStore":
    """Make a feature store of frames that another program made, or finish one.

    Returns:
        The finished store.

    Raises:
        GmmpipeError: the store cannot be made; finished shards are kept.
        Stopped: a signal ended the work; finished shards are kept.
    """
    from gmmpipe.importing import job
    from gmmpipe.store.feature_store import FeatureStore

    with stop_signals(raise_stopped):
        job.import_frames(options)
        return FeatureStore.open(options.output_dir)


def fit(options: "FitOptions") -> "GradientGMM":
    """Fit a Gaussian mixture to feature stores, or go on with a fit.

    Returns:
        The mixture of ``gmm.pt`` in `output_dir`, on the CPU; under torchrun on every rank.

    Raises:
        GmmpipeError: the fit cannot be made, or cannot go on.
        Stopped: a signal ended the fit; a checkpoint in `output_dir` holds what was done.
    """
    from gmmpipe.fitting import trainer
    from gmmpipe.fitting.checkpoint import FIT_FILES
    from gmmpipe.mixture.gradient_gmm import GradientGMM
    from gmmpipe.run.world import open_world

    with (
        stop_signals(raise_stopped),
        _matmul_precision_kept(),
        open_world(options.device, exchange_timeout=options.exchange_timeout) as world,
    ):
        trainer.fit(options, world)
        # Another rank may not see the folder.
        return world.on_first_rank(lambda: GradientGMM.load(options.output_dir / FIT_FILES.model))


def label(options: "LabelOptions") -> "LabelStore":
    """Label every frame of a feature store with its likeliest component, or finish doing so.

    Returns:
        The finished label store.

    Raises:
        GmmpipeError: the labels cannot be made; finished shards are kept.
        Stopped: a signal ended the work; finished shards are kept.
    """
    from gmmpipe.apply import label as labelling
    from gmmpipe.run.world import open_world
    from gmmpipe.store.label_store import LabelStore

    with stop_signals(raise_stopped), open_world("auto") as world:
        labelling.label(options, world)
        return LabelStore.open(options.output_dir)


def evaluate(options: "EvaluateOptions") -> "Evaluation":
    """Measure how well a mixture describes the frames of a store.

    Returns:
        The figures; under torchrun on every rank.

    Raises:
        GmmpipeError: the store or the model cannot be used.
        Stopped: a signal ended the work.
    """
    from gmmpipe.apply import evaluate as evaluation
    from gmmpipe.run.world import open_world

    with stop_signals(raise_stopped), open_world("auto") as world:
        return evaluation.evaluate(
            options.store, options.gmm_path, options.max_frames, world, options.labels_from
        )


def export(options: "ExportOptions") -> "ExportInfo":
    """Write a label store in the form that another trainer reads.

    Returns:
        What ``labels.json`` in `output_dir` says.

    Raises:
        GmmpipeError: the labels cannot be read or written; no file of the export is there then.
        Stopped: a signal ended the work.
    """
    from gmmpipe.exporting import job

    with stop_signals(raise_stopped):
        return job.export(options)


def report(options: "ReportOptions") -> Path:
    """Write the report of a fit, finished or not, in place of an earlier one.

    Returns:
        The page, ``report.html``; its pictures are in the folder ``report`` beside it.

    Raises:
        GmmpipeError: the fit cannot be read, or a library of ``gmmpipe[report]`` is missing.
        Stopped: a signal ended the work.
    """
    from gmmpipe.reporting import job

    with stop_signals(raise_stopped):
        return job.report(options)


@contextmanager
def _matmul_precision_kept() -> Iterator[None]:
    """Restore torch's setting afterwards: a fit sets the highest."""
    import torch

    before = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

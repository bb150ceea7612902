"""What a fit has left in its output folder, finished or not."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gmmpipe.errors import GmmpipeError
from gmmpipe.features.kinds import spec_from_json
from gmmpipe.features.spec import FrameSpec
from gmmpipe.files import read_regular
from gmmpipe.fitting.checkpoint import FIT_FILES, position_of
from gmmpipe.fitting.update_metrics import metric_columns
from gmmpipe.mixture.gradient_gmm import GradientGMM
from gmmpipe.run.metrics_file import METRICS_FILE, metrics_text
from gmmpipe.run.run_files import OPTIONS_FILE, Content, identity_of_content

log = logging.getLogger(__name__)
Metrics = dict[str, list[float]]
"""The columns of ``metrics.tsv`` by their names; a value that a row lacks is nan."""
_NEEDED = ("frames", "update", "nll", "alive")
_MAX_METRICS_BYTES = 1 << 28
_MAX_OPTIONS_BYTES = 1 << 20
_REMEDY = "gmmpipe fit --resume auto makes it again from the checkpoints"


@dataclass(frozen=True)
class FitResult:
    """A fit as its output folder has it.

    Args:
        path: the model file that is the furthest.
        gmm: the mixture in it.
        features: what a frame is.
        identity: the values that decide the fit's bits.
        frames, step: how far the model is: frames of finished updates, and steps of the update
            that is under way.
        updates: finished updates of the model.
        metrics: what was measured after each update; may be further than the model.
        options: of ``options.yaml``, by their names; empty where it cannot be read.
    """

    path: Path
    gmm: GradientGMM
    features: FrameSpec
    identity: dict[str, Any]
    frames: int
    step: int
    updates: int
    metrics: Metrics
    options: dict[str, Any]

    @property
    def is_kmeans(self) -> bool:
        """Whether the model is k-means: variances of 1 and equal weights."""
        return bool(self.identity["model"] == "kmeans")

    @property
    def is_finished(self) -> bool:
        """Whether the fit has come to its target."""
        return self.path.name == FIT_FILES.model

    @classmethod
    def read(cls, folder: Path) -> "FitResult":
        """Read a fit's output folder.

        Raises:
            CheckpointError, StoreError: the furthest model cannot be used.
            GmmpipeError: there is no whole model, or ``metrics.tsv`` is damaged.
        """
        found = FIT_FILES.furthest_in(folder)
        if found is None:
            raise GmmpipeError(
                f"{folder}: holds no fit: neither a whole {FIT_FILES.model} nor a whole checkpoint "
                "(gmm_ckpt_*.pt) of gmmpipe fit"
            )
        path, content = found
        gmm = GradientGMM.from_dict(content, path)
        features = {**content["features"]}
        features.pop("fingerprint", None)
        frames, step = position_of(content)
        return cls(
            path=path,
            gmm=gmm,
            features=spec_from_json(features),
            identity=identity_of_content(content),
            frames=frames,
            step=step,
            updates=content["resume"]["updates"],
            metrics=_read_metrics(folder / METRICS_FILE, content),
            options=_read_options(folder / OPTIONS_FILE),
        )


def _read_metrics(path: Path, content: Content) -> Metrics:
    """The columns of ``metrics.tsv``; of the model's own rows where there is no such file."""
    try:
        text = read_regular(path, _MAX_METRICS_BYTES)
    except FileNotFoundError:
        log.warning("warning: %s: no such file; the rows in the model file are taken", path)
        columns = metric_columns(identity_of_content(content)["model"], with_eval=True)
        text = metrics_text(columns, [row.split("\t") for row in content["resume"]["metrics"]])
    except OSError as error:
        raise GmmpipeError(f"{path}: cannot be read: {error.strerror}; {_REMEDY}") from error
    try:
        header, *rows = text.decode().splitlines() or [""]
    except UnicodeDecodeError as error:
        raise GmmpipeError(f"{path}: damaged: no text; {_REMEDY}") from error
    names = header.split("\t")
    if missing := [name for name in _NEEDED if name not in names]:
        raise GmmpipeError(f"{path}: line 1: no column {missing[0]}; {_REMEDY}")
    table: Metrics = {name: [] for name in names}
    for number, row in enumerate(rows, start=2):
        cells = row.split("\t")
        try:
            values = [float(cell) for cell in cells]
        except ValueError:
            raise GmmpipeError(f"{path}: line {number}: not all numbers; {_REMEDY}") from None
        if len(values) != len(names):
            raise GmmpipeError(
                f"{path}: line {number}: {len(cells)} columns, not {len(names)}; {_REMEDY}"
            )
        for name, value in zip(names, values, strict=True):
            table[name].append(value)
    return table


def _read_options(path: Path) -> dict[str, Any]:
    """The mapping in ``options.yaml``; an empty one, with a word, where there is none."""
    try:
        values = yaml.safe_load(read_regular(path, _MAX_OPTIONS_BYTES))
        if not isinstance(values, dict):
            raise ValueError("not a mapping of options")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        log.warning("warning: %s: passed over: %s", path, " ".join(str(error).split()))
        return {}
    return {str(name): value for name, value in values.items()}

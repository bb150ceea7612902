"""A fit's rows of ``metrics.tsv``: what is measured after each update."""

from gmmpipe.fitting.schedule import Schedule, Update
from gmmpipe.fitting.update_reader import HeldFrames
from gmmpipe.mixture.floors import VarFloor
from gmmpipe.mixture.hard_statistics import nearest_square_distances
from gmmpipe.mixture.measures import UpdateSums, shape_measures
from gmmpipe.mixture.mixture import Mixture
from gmmpipe.run.world import World

METRIC_COLUMNS = (
    "frames",
    "update",
    "avg_loss",
    "alive",
    "balance_cv",
    "weight_entropy",
    "nll",
    "posterior_entropy",
    "mean_delta",
    "var_delta",
    "avg_var",
    "min_var",
    "max_var",
    "inter_cluster_dist",
    "intra_cluster_dist",
)
USAGE_COLUMNS = ("uncertain_share", "usage_entropy")
"""After those, in rows of this version on."""
MODEL_COLUMNS = {"diag": (), "kmeans": ("inertia",)}
"""Columns of a model's own, after those of all models."""
EVAL_COLUMN = "eval_nll"
"""Stands after the others, in rows that were evaluated on held-out frames too."""


def metric_columns(model: str, *, with_eval: bool = False) -> tuple[str, ...]:
    """The columns of a fit of that model, in order."""
    evaluated = (EVAL_COLUMN,) if with_eval else ()
    return (*METRIC_COLUMNS, *USAGE_COLUMNS, *MODEL_COLUMNS[model], *evaluated)


def measure_update(
    update: Update,
    held: HeldFrames,
    mixture: Mixture,
    before: Mixture,
    avg_loss: float,
    schedule: Schedule,
    world: World,
) -> dict[str, float]:
    """An update's row of ``metrics.tsv``, the same on every rank.

    Args:
        update: the update.
        held: this rank's frames of it; the seeded sample is taken from all ranks' frames.
        mixture, before: at the update's end and start.
        avg_loss: mean of the losses evaluated in it, nats a frame.
        schedule: says which frames are the sample.
        world: the ranks that the sums are over.
    """
    sums = UpdateSums.over(held.select(schedule.metric_frames(update)), mixture)
    world.all_reduce(sums.flat, short=True)
    var_change = mixture.log_vars.double().exp() - before.log_vars.double().exp()
    return {
        "frames": update.stop,
        "update": update.index + 1,
        "avg_loss": avg_loss,
        "mean_delta": float((mixture.means.double() - before.means.double()).abs().mean()),
        "var_delta": float(var_change.abs().mean()),
        **sums.measures(),
        **shape_measures(mixture),
    }


def measure_inertia(
    update: Update, held: HeldFrames, mixture: Mixture, schedule: Schedule, world: World
) -> float:
    """Mean squared distance of an update's sample to the nearest mean, the same on every rank."""
    numbers = schedule.metric_frames(update)
    total = nearest_square_distances(held.select(numbers), mixture).sum()
    world.all_reduce(total, short=True)
    return float(total) / len(numbers)


def format_row(values: dict[str, float], model: str) -> str:
    """One line of ``metrics.tsv``, without its end."""
    return "\t".join(
        f"{values[column]:.9g}" if isinstance(values[column], float) else str(values[column])
        for column in metric_columns(model, with_eval=True)
        if column in values
    )


def read_row(row: str, model: str) -> dict[str, float]:
    """The inverse of `format_row`."""
    columns = metric_columns(model, with_eval=True)
    return dict(zip(columns, map(float, row.split("\t")), strict=False))


def completed(row: str) -> str:
    """A row as this version has it; earlier ones did not have `USAGE_COLUMNS`: they are nan."""
    cells, known = row.split("\t"), len(METRIC_COLUMNS)
    if len(cells) in (known, known + 1):  # only diag was there, and perhaps eval_nll
        cells[known:known] = ["nan"] * len(USAGE_COLUMNS)
    return "\t".join(cells)


def without_eval(row: str, model: str) -> str:
    """A row as it would be without held-out frames."""
    return "\t".join(row.split("\t")[: len(metric_columns(model))])


def mostly_at_floor(mixture: Mixture, var_floor: VarFloor) -> bool:
    """Whether most variances sit at the floor: then the floor, not the data, makes the model."""
    at_floor = mixture.log_vars.exp() <= var_floor * (1 + 1e-4)
    return bool(at_floor.double().mean() > 0.5)

"""What a checkpoint's resume state must be, checked before a fit goes on from it."""

import math
from typing import Any

import torch
from torch import Tensor

from gmmpipe.fitting.update_metrics import completed, metric_columns, read_row
from gmmpipe.mixture.floors import VarFloor, floor_from_content
from gmmpipe.mixture.model_file import check_count, check_tensor
from gmmpipe.mixture.optimizers import MODELS, optimizer_of


def check_state(content: dict[str, Any]) -> None:
    """Make sure that a model file's content is a state that some fit can have come to.

    Raises:
        ValueError: it is not; the message says why.
        KeyError, TypeError, AttributeError: it lacks something, or something is of another kind.
    """
    resume, identity = content["resume"], content["resume"]["identity"]
    if type(identity["lr"]) is not float or not 0 < identity["lr"] < math.inf:
        raise ValueError(f"its lr is {identity['lr']!r:.40}")
    if identity["model"] not in MODELS:
        raise ValueError(f"its model is {identity['model']!r:.40}")
    for name in ("K", "dim", "batch_update_size", "n_sgd_steps", "sgd_batch_size"):
        check_count(name, identity[name], at_least=1)
    if (identity["K"], identity["dim"]) != (content["K"], content["dim"]):
        raise ValueError("its K and dim are not those of its options")
    frames, updates, step = content["frames"], resume["updates"], resume["step"]
    check_count("updates", updates)
    check_count("frames", frames, updates, updates * identity["batch_update_size"])
    check_count("step", step, 0, identity["n_sgd_steps"])
    check_count("loss_count", resume["loss_count"], 0, step)
    check_count("update_stop", resume["update_stop"])
    if not math.isfinite(resume["loss_sum"]):
        raise ValueError("its loss_sum is not finite")
    begun = resume["at_start"] is not None
    if step and not begun:
        raise ValueError("it lacks the parameters at the start of its update")
    if begun and not 0 < resume["update_stop"] - frames <= identity["batch_update_size"]:
        raise ValueError("its update_stop is not where its update ends")
    _check_metrics(resume["metrics"], frames, updates, identity["model"])
    if not all(isinstance(digest, str) for digest in resume["eval_stores"]):
        raise ValueError("its eval_stores are no digests")
    _check_tensors(content, updates * identity["n_sgd_steps"] + step)


def _check_metrics(rows: Any, frames: int, updates: int, model: str) -> None:
    """One row an update, of the known columns, and the last one where the fit has come to."""
    if not isinstance(rows, list) or len(rows) != updates:
        raise ValueError("its rows of metrics are not one an update")
    width = len(metric_columns(model))
    stops = [0]
    for number, row in enumerate(map(completed, rows), start=1):
        cells = row.split("\t")
        if len(cells) not in (width, width + 1):
            raise ValueError(f"its row {number} of metrics has {len(cells)} columns")
        values = read_row(row, model)
        if values["update"] != number or not values["frames"] > stops[-1]:
            raise ValueError(f"its row {number} of metrics is not that of update {number}")
        stops.append(int(cells[0]))
    if stops[-1] != frames:
        raise ValueError("its rows of metrics do not end where its frames do")


def _check_tensors(content: dict[str, Any], steps: int) -> None:
    resume = content["resume"]
    num_components, dim = content["K"], content["dim"]
    whole = num_components * (2 * dim + 1)
    optimizer = resume["optimizer"]
    check_tensor("flat", resume["flat"], (whole,))
    check_tensor("center", resume["center"], (dim,))
    if resume["at_start"] is not None:
        check_tensor("at_start", resume["at_start"], (whole,))
    kind = optimizer_of(resume["identity"]["model"], resume["identity"]["optimizer"])
    kind.check_state(optimizer, num_components, dim, steps)
    if content["var_floor"] != resume["identity"]["var_floor"]:
        raise ValueError("its var_floor is not that of its options")
    if not _is_held(optimizer["var_floor"], floor_from_content(content)):
        raise ValueError("its optimizer has another var_floor")
    size = num_components * dim
    for name, part in (
        ("means", resume["flat"][:size]),
        ("log_vars", resume["flat"][size:-num_components]),
    ):
        if not torch.equal(part, content[name].flatten()):
            raise ValueError(f"its {name} are not those of its state")


def _is_held(held: Any, asked: VarFloor | None) -> bool:
    """Whether what an optimizer holds variances to is the floor, but for the rounding."""
    if isinstance(asked, Tensor):
        check_tensor("var_floor", held, tuple(asked.shape), torch.float64)
        return torch.allclose(held, asked, rtol=1e-5, atol=0.0)
    return asked is not None and math.isclose(held, asked, rel_tol=1e-5)

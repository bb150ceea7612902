"""A resume state that no fit can have come to is refused by name, whatever is wrong with it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gmmpipe.errors import CheckpointError
from gmmpipe.fitting.checkpoint import read_checkpoint
from helpers.making import fit_here


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished fit; not to be changed."""
    folder = tmp_path_factory.mktemp("state") / "fit"
    fit_here(store, folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A finished fit that a test may change."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in finished.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def floats(*shape: int, value: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.full(shape, value, dtype=dtype)


WHOLE = 16 * 161
WRONG: list[tuple[str, Any]] = [
    *((name, value) for name in ("updates", "step") for value in (-1, 2**70, 1.0, True, None)),
    *(("loss_count", value) for value in (-1, 5)),
    *(("loss_sum", value) for value in (float("nan"), "1")),
    *(("update_stop", value) for value in (-1, 2**63)),
    *(("frames", value) for value in (-1, 0, 7999, 8001, 10**19, 8000.0)),
    *(("K", value) for value in (-16, 17)),
    *((name, floats(WHOLE - 1)) for name in ("flat", "at_start")),
    *((name, floats(WHOLE, dtype=torch.float64)) for name in ("flat", "at_start")),
    *((name, floats(WHOLE, value=float("nan"))) for name in ("flat", "at_start")),
    ("flat", floats(WHOLE)),
    ("center", floats(81)),
    ("center", [0.0] * 80),
    *((f"optimizer.{name}", floats(WHOLE, 1)) for name in ("scale", "first", "second")),
    *((f"optimizer.{name}", floats(WHOLE, value=torch.inf)) for name in ("scale", "first")),
    ("optimizer.second", floats(WHOLE, value=-1.0)),
    *(("optimizer.count", value) for value in (-1, 81, 2**64)),
    *(("optimizer.var_floor", value) for value in (0.5, float("nan"), None)),
    *(("metrics", value) for value in ([], ["1\t2"] * 2, "no", [1, 2], ["x"] * 3)),
    ("eval_stores", [1]),
    ("identity", []),
    ("identity.optimizer", "magic"),
    ("identity.n_sgd_steps", 0),
    *(("identity.lr", value) for value in (0.0, "x", float("nan"))),
    ("identity.var_floor", 0.2),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: f"{value!s:.20}")
def test_a_state_that_cannot_be_is_refused_by_name(name, value, copy) -> None:
    path = copy / "gmm.pt"
    content = torch.load(path, weights_only=True)
    *within, last = name.split(".")
    part = content if name in ("frames", "K") else content["resume"]
    for key in within:
        part = part[key]
    part[last] = value
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"^{path}: "):
        read_checkpoint(path)


@pytest.mark.parametrize("change", ["columns", "order", "text"])
def test_rows_of_metrics_of_another_kind_are_refused(change, copy) -> None:
    path = copy / "gmm.pt"
    content = torch.load(path, weights_only=True)
    rows = content["resume"]["metrics"]
    changed = {
        "columns": [rows[0], rows[1] + "\t1.0\t2.0"],
        "order": rows[::-1],
        "text": [rows[0], rows[1].replace("\t", "\tx", 1)],
    }
    content["resume"]["metrics"] = changed[change]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"^{path}: .*(row|float)"):
        read_checkpoint(path)


@pytest.mark.parametrize("optimizer", ["adam", "em"])
def test_states_within_an_update_and_of_short_updates_are_fine(optimizer, store, tmp_path) -> None:
    sizes = {"batch_update_size": 100, "target_frames": 250, "K": 4, "optimizer": optimizer}
    fit_here(store, tmp_path, **sizes, n_sgd_steps=3)
    fit_here(store, tmp_path, **{**sizes, "target_frames": 420}, n_sgd_steps=3, resume="auto")
    assert read_checkpoint(tmp_path / "gmm.pt")["frames"] == 420


@pytest.mark.parametrize("with_eval", [False, True])
def test_rows_of_earlier_versions_go_on(with_eval: bool, store: Path, tmp_path: Path) -> None:
    held_out = {"eval_data_dir": str(store)} if with_eval else {}
    fit_here(store, tmp_path / "whole", target_frames=8000, **held_out)
    fit_here(store, tmp_path / "begun", target_frames=4000, **held_out)
    model = tmp_path / "begun" / "gmm.pt"
    content = torch.load(model, weights_only=True)
    rows = [row.split("\t") for row in content["resume"]["metrics"]]
    content["resume"]["metrics"] = ["\t".join([*row[:15], *row[17:]]) for row in rows]
    torch.save(content, model)
    fit_here(store, tmp_path / "begun", target_frames=8000, resume="auto", **held_out)
    files = [tmp_path / name / "metrics.tsv" for name in ("whole", "begun")]
    whole, begun = ([line.split("\t") for line in f.read_text().splitlines()] for f in files)
    assert whole[0] == begun[0]
    assert whole[0][15:] == ["uncertain_share", "usage_entropy", *(["eval_nll"] * with_eval)]
    assert begun[1] == [*whole[1][:15], "nan", "nan", *whole[1][17:]]
    assert begun[2:] == whole[2:]
    assert len(whole) == 3

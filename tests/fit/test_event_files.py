"""TensorBoard's event files, read back by TensorBoard."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.making import fit_here
from helpers.results import read_metrics


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(frames, value) of each curve."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def table(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The same from metrics.tsv."""
    columns = read_metrics(folder)
    frames = columns.pop("frames")
    del columns["update"]
    return {
        name: [
            (step, pytest.approx(value, rel=1e-6))
            for step, value in zip(frames, column, strict=True)
        ]
        for name, column in columns.items()
    }


def test_each_metric_is_a_curve_over_the_frames(store, tmp_path) -> None:
    fit_here(store, tmp_path, tensorboard=True, eval_data_dir=str(store))
    assert points(tmp_path) == table(tmp_path)
    assert len(points(tmp_path)["eval_nll"]) == 2


def test_a_resumed_fit_has_each_update_once(store, tmp_path) -> None:
    """Gone on with from before the last update, as after a kill: that one is done twice."""
    fit_here(store, tmp_path, tensorboard=True)
    (tmp_path / "gmm.pt").unlink()
    (tmp_path / "gmm_ckpt_0.008M.pt").unlink()
    fit_here(store, tmp_path, tensorboard=True, resume="auto", target_frames=12_000)
    assert points(tmp_path) == table(tmp_path)
    assert [step for step, _ in points(tmp_path)["nll"]] == [4000, 8000, 12_000]


def test_overwrite_leaves_nothing_of_the_old_curves(store, tmp_path) -> None:
    fit_here(store, tmp_path, tensorboard=True, batch_update_size=2000)
    fit_here(store, tmp_path, tensorboard=True, overwrite=True)
    assert points(tmp_path) == table(tmp_path)
    assert len(list(tmp_path.glob("events.*"))) == 1


def test_without_the_option_nothing_is_written(store, tmp_path) -> None:
    fit_here(store, tmp_path)
    assert not list(tmp_path.glob("events.*"))

"""The metrics as curves elsewhere, read back from there."""

import json
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from gmmpipe.tracking.tracker import Trackers
from helpers.making import fit_arguments, fit_here
from helpers.processes import one_thread, run_gmmpipe
from helpers.results import read_metrics


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(frames, value) of each curve."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def wandb_records(path: Path) -> Iterator[Record]:
    """What a ``.wandb`` file holds: records in blocks of 32 KiB, after a header of 7 bytes."""
    content = path.read_bytes()
    place, parts = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # a block's rest is too short for a record
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def wandb_points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(frames, value) of each curve, of all runs of Weights & Biases in a folder, in order."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in wandb_records(path):
            items = {one.nested_key[0]: json.loads(one.value_json) for one in record.history.item}
            for name in items.keys() - {"frames"}:
                if not name.startswith(("_", "report/")):
                    curves.setdefault(name, []).append((items["frames"], items[name]))
    return curves


def trackio_points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(frames, value) of each curve, of the one run that Trackio has there."""
    with sqlite3.connect(folder / "gmmpipe.db") as database:
        rows = database.execute(
            "SELECT step, metrics, run_name FROM metrics ORDER BY id"
        ).fetchall()
    assert len({run for _, _, run in rows}) == 1
    curves: dict[str, list[tuple[int, float]]] = {}
    for step, metrics, _ in rows:
        for name, value in json.loads(metrics).items():
            if name.startswith("report/"):
                assert value["_type"] == "trackio.image"
                continue
            curves.setdefault(name, []).append((step, value))
    return curves


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


def test_all_places_get_the_same_curves_and_a_resumed_fit_goes_on_there(store, tmp_path) -> None:
    out, trackio = tmp_path / "fit", tmp_path / "trackio"
    place = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "TRACKIO_DIR": str(trackio)}
    for changes in ({}, {"resume": "auto", "target_frames": 12_000}):
        arguments = fit_arguments(store, out, track="tensorboard,wandb,trackio", **changes)
        run_gmmpipe(*arguments, env={**one_thread(), **place})
    expected = table(out)
    assert [step for step, _ in expected["nll"]] == [4000, 8000, 12_000]
    assert points(out) == expected
    pictures = {path.stem for path in (out / "report").glob("*.png")}
    assert {"nll", "means"} < pictures
    events = EventAccumulator(str(out))
    events.Reload()
    assert set(events.Tags()["images"]) == {f"report/{name}" for name in pictures}
    sent = list(out.glob("wandb/offline-run-*/files/media/images/report/*.png"))
    kept = list(trackio.glob("media/**/*.png"))
    assert len(sent) == len(kept) == 2 * len(pictures), "at the end of each of the two"
    assert wandb_points(out) == expected
    assert trackio_points(trackio) == expected
    first, second = sorted(out.glob("wandb/offline-run-*"))
    run_id = (out / "tracked-run.txt").read_text().strip()
    assert first.name.endswith(run_id)
    assert second.name.endswith(run_id)


def test_a_place_that_cannot_begin_is_one_line_before_any_work(store, tmp_path) -> None:
    place = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(tmp_path)}
    environment = {name: value for name, value in one_thread().items() if name != "WANDB_API_KEY"}
    arguments = fit_arguments(store, tmp_path / "fit", track="wandb")
    done = run_gmmpipe(*arguments, check=False, env={**environment, **place})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: --track wandb: ")
    assert not (tmp_path / "fit" / "metrics.tsv").exists()


def test_pictures_go_there_and_a_place_that_fails_is_left_out(tmp_path, caplog) -> None:
    """A damaged picture ends the one; the row after it does no harm."""
    with closing(Trackers(["tensorboard"], tmp_path, 0, {}, resumed=False)) as trackers:
        trackers.log({"frames": 1000, "update": 1, "nll": 2.5})
        Image.new("RGB", (4, 3)).save(tmp_path / "good.png")
        (tmp_path / "bad.png").write_bytes(b"no picture")
        trackers.show(lambda: [tmp_path / "good.png", tmp_path / "bad.png"], 1000)
        trackers.log({"frames": 2000, "update": 2, "nll": 2.0})
    assert "--track tensorboard failed: cannot identify image file" in caplog.text
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    [picture] = events.Images("report/good")
    assert (picture.step, picture.width, picture.height) == (1000, 4, 3)
    assert points(tmp_path) == {"nll": [(1000, 2.5)]}


@pytest.mark.parametrize("value", ["mlflow", "wandb,", ""])
def test_an_unknown_place_is_wrong_usage(value: str, store, tmp_path, invoke) -> None:
    done = invoke(*fit_arguments(store, tmp_path / "fit", track=value), status=2)
    assert "tensorboard, wandb, trackio" in done.stderr


def test_tensorboard_asked_for_twice_is_one(store, tmp_path) -> None:
    fit_here(store, tmp_path, tensorboard=True, track="tensorboard")
    assert points(tmp_path) == table(tmp_path)

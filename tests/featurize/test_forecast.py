"""--dry_run says what a store would come to, and writes nothing; --retry_rejected tries again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from gmmpipe.featurization.forecast import forecast
from gmmpipe.featurization.options import FeaturizeOptions
from helpers.making import CORPUS, make_store
from helpers.processes import run_gmmpipe
from helpers.results import read_json_lines

NAMES = ["en-cards/001.flac", "en-cards/002.flac", "en-cards/003.flac"]


def printed(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in (line.split(": ") for line in text.splitlines())}


def test_the_forecast_is_near_what_comes(tmp_path: Path, store: Path) -> None:
    options = ("--data_dir", CORPUS, "--output_dir", tmp_path / "store")
    expected = printed(run_gmmpipe("featurize", *options, "--dry_run").stdout)
    assert not (tmp_path / "store").exists()
    real = json.loads((store / "store.json").read_text())["totals"]
    assert expected["utterances"] == real["utterances"]
    assert expected["frames"] == pytest.approx(real["frames"], rel=0.01)
    assert expected["bytes"] == pytest.approx(real["bytes"], rel=0.1)
    assert expected["hours"] == pytest.approx(real["seconds_kept"] / 3600, rel=0.01)


def test_the_rejects_of_a_store_beside_its_manifests_are_none_of_its_lines(
    tmp_path: Path, write_manifest: Callable[..., Path], invoke: Callable[..., Result]
) -> None:
    write_manifest(*({"path": str(CORPUS / name)} for name in NAMES), {"path": "none.wav"})
    folder = make_store(tmp_path, tmp_path)
    assert read_json_lines(folder / "rejects.jsonl")
    result = invoke("featurize", "--data_dir", folder, "--output_dir", folder, "--dry_run")
    assert printed(result.stdout)["utterances"] == 4


def test_headers_stand_in_for_missing_durations(
    tmp_path: Path, write_manifest: Callable[..., Path]
) -> None:
    manifest = write_manifest(*({"path": name} for name in NAMES))
    options = ("--data_dir", manifest, "--base_path", CORPUS, "--output_dir", tmp_path / "none")
    expected = printed(run_gmmpipe("featurize", *options, "--dry_run").stdout)
    folder = make_store(manifest, tmp_path / "store", base_path=CORPUS)
    real = json.loads((folder / "store.json").read_text())["totals"]
    assert expected["frames"] == pytest.approx(real["frames"], rel=0.02)


@pytest.mark.parametrize(
    ("long_audio", "utterances", "seconds"),
    [("crop", 4, 3 + 10 + 2.5 + 10), ("split", 7, 3 + 25 + 2.5 + 12), ("skip", 4, 3 + 2.5)],
)
def test_stated_lengths_are_taken_as_each_line_says_them(
    long_audio: str,
    utterances: int,
    seconds: float,
    write_manifest: Callable[..., Path],
    tmp_path: Path,
) -> None:
    good = [
        {"id": "a", "path": "a.wav", "duration": 3},
        {"path": "a.wav", "offset": 7.0, "duration": 25.0},
        {"path": "b.wav", "start": "1", "end": "3.5"},
        {"path": "c.wav", "duration": 12.0},
    ]
    bad = [
        {"id": "a", "path": "b.wav", "duration": 5.0},
        {"path": "a.wav", "offset": -1.0, "duration": 5.0},
        {"path": "a.wav", "channel": -1, "duration": 5.0},
        {"path": "a.wav", "id": [], "duration": 5.0},
        {"path": "http://a.wav", "duration": 5.0},
        {"duration": 5.0},
    ]
    manifest = write_manifest(*good, *bad)
    options = {"long_audio": long_audio, "max_seconds": 10.0, "utterances_per_shard": 3}
    found = forecast(FeaturizeOptions(str(manifest), tmp_path / "none", **options))
    assert (found.utterances, found.hours) == (utterances, round(seconds / 3600, 4))
    # A reject is in a shard too.
    assert found.shards == -(-(utterances + len(bad)) // 3)
    assert not (tmp_path / "none").exists()


def test_retry_makes_only_the_shards_with_rejects_anew(
    tmp_path: Path, write_manifest: Callable[..., Path]
) -> None:
    for name in NAMES[:2]:
        shutil.copy(CORPUS / name, tmp_path / Path(name).name)
    manifest = write_manifest({"path": "001.flac"}, {"path": "002.flac"}, {"path": "late.flac"})
    folder = tmp_path / "store"
    options = ("--data_dir", manifest, "--output_dir", folder, "--no_shuffle")
    options += ("--utterances_per_shard", 1, "--max_reject_fraction", 0.5)
    run_gmmpipe("featurize", *options)
    totals = json.loads((folder / "store.json").read_text())["totals"]
    assert totals["rejects_by_reason"] == {"not_found": 1}
    shutil.copy(CORPUS / NAMES[2], tmp_path / "late.flac")
    again = run_gmmpipe("featurize", *options, "--retry_rejected")
    assert "1 to make here, 2 finished already" in again.stderr
    totals = json.loads((folder / "store.json").read_text())["totals"]
    assert (totals["utterances"], totals["rejects"]) == (3, 0)
    assert (folder / "rejects.jsonl").read_bytes() == b""

"""--dry_run says what a store would come to, and writes nothing; --retry_rejected tries again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from helpers.making import CORPUS, make_store
from helpers.processes import run_gmmpipe
from helpers.results import read_json_lines

NAMES = ["en-cards/001.flac", "en-cards/002.flac", "en-cards/003.flac"]


def printed(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in (line.split(": ") for line in text.splitlines())}


def test_the_forecast_is_near_what_comes(tmp_path: Path, store: Path) -> None:
    options = ("--data_dir", CORPUS, "--output_dir", tmp_path / "store")
    forecast = printed(run_gmmpipe("featurize", *options, "--dry_run").stdout)
    assert not (tmp_path / "store").exists()
    real = json.loads((store / "store.json").read_text())["totals"]
    assert forecast["utterances"] == real["utterances"]
    assert forecast["frames"] == pytest.approx(real["frames"], rel=0.01)
    assert forecast["bytes"] == pytest.approx(real["bytes"], rel=0.1)
    assert forecast["hours"] == pytest.approx(real["seconds_kept"] / 3600, rel=0.01)


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
    forecast = printed(run_gmmpipe("featurize", *options, "--dry_run").stdout)
    folder = make_store(manifest, tmp_path / "store", base_path=CORPUS)
    real = json.loads((folder / "store.json").read_text())["totals"]
    assert forecast["frames"] == pytest.approx(real["frames"], rel=0.02)


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

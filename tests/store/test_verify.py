"""`gmmpipe verify` finds damage, and with --repair leaves a store that featurize completes."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sealing import make_tiny

from gmmpipe import FeatureStore
from gmmpipe.errors import StoreError
from gmmpipe.store.reopen import reopen
from gmmpipe.store.verify import strangers, verify
from helpers.damage import edit_document, flip, flip_after
from helpers.making import CORPUS, make_store
from helpers.processes import run_gmmpipe
from helpers.results import file_bytes


def flip_in_json(path: Path) -> None:
    # Features carry checksums of their own; what stands beside them has only the shard's.
    flip_after(path, b'"wa')


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-512])


def swap(path: Path) -> None:
    shutil.copy(path.with_name("shard-000003.tar"), path)


def test_a_good_store_passes(store: Path, invoke) -> None:
    assert "4 shards are good" in invoke("verify", store).stderr


@pytest.mark.parametrize("damage", [flip, flip_in_json, truncate, swap, Path.unlink])
def test_a_bad_shard_is_named_and_repaired(
    damage: Callable[[Path], None], store: Path, store_copy: Path, invoke
) -> None:
    damage(store_copy / "shard-000001.tar")
    found = invoke("verify", store_copy, "--repair", status=1)
    assert "shard-000001.tar" in found.stderr
    assert "shard-000002.tar" not in found.stderr
    assert not (store_copy / "store.json").exists()
    made = run_gmmpipe(
        *("featurize", "--data_dir", CORPUS, "--output_dir", store_copy),
        *("--utterances_per_shard", 16),
    )
    assert "1 to make here, 3 finished already" in made.stderr
    assert file_bytes(store_copy) == file_bytes(store)


def test_a_missing_zarr_shard_is_called_missing(tmp_path: Path) -> None:
    folder = make_tiny("zarr", tmp_path / "store")
    shutil.rmtree(folder / "shard-000001.zarr")
    faults = {path.name: fault for path, fault in verify(FeatureStore.open(folder))}
    assert faults == {"shard-000000.zarr": "", "shard-000001.zarr": "missing"}


def test_what_a_store_does_not_name_is_named_and_left_alone(tmp_path: Path, invoke) -> None:
    folder = make_tiny("tar", tmp_path / "store")
    for name in ("shard-000002.tar", "shard-000000.zarr", "shard-1.flac", "shard-000002.json"):
        (folder / name).write_bytes(b"somebody's")
    before = file_bytes(folder)
    found = invoke("verify", folder, "--repair", status=1)
    names = "shard-000000.zarr, shard-000002.json, shard-000002.tar, shard-1.flac"
    assert f"holds what store.json does not name: {names}" in found.stderr
    assert "4 files are not its own" in found.stderr
    assert file_bytes(folder) == before


LOSSES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no sidecar": (lambda folder: (folder / "shard-000001.json").unlink(), "no such file"),
    "no rejects": (lambda folder: (folder / "rejects.jsonl").unlink(), "rejects.jsonl: missing"),
    "other rejects": (
        lambda folder: (folder / "rejects.jsonl").write_bytes(b""),
        "rejects.jsonl: not the rejects that its sidecars list",
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_else_is_lost_is_found_and_repaired(loss: str, tmp_path: Path, invoke) -> None:
    folder = make_tiny("tar", tmp_path / "store")
    before = file_bytes(folder)
    lose, message = LOSSES[loss]
    lose(folder)
    found = invoke("verify", folder, "--repair", status=1)
    assert message in found.stderr
    assert not (folder / "store.json").exists()
    assert file_bytes(make_tiny("tar", folder)) == before


def test_the_repair_of_the_rejects_leaves_what_has_nearly_its_name(tmp_path: Path) -> None:
    folder = make_tiny("tar", tmp_path / "store")
    (folder / "rejects.json").write_bytes(b"mine")
    (folder / "rejects.jsonl").write_bytes(b"")
    reopen(folder, ["rejects.jsonl"])
    assert not (folder / "rejects.jsonl").exists()
    assert (folder / "rejects.json").read_bytes() == b"mine"


def test_wrong_totals_are_repaired(tmp_path: Path, invoke) -> None:
    folder = make_tiny("tar", tmp_path / "store")
    before = file_bytes(folder)

    def change(document: dict[str, Any]) -> None:
        document["totals"]["seconds_kept"] += 1.0

    edit_document(folder / "store.json", change)
    found = invoke("verify", folder, "--repair", status=1)
    assert "store.json: its totals are not what its sidecars come to" in found.stderr
    assert not (folder / "store.json").exists()
    assert file_bytes(make_tiny("tar", folder)) == before


def test_what_is_no_shard_reopens_nothing(tmp_path: Path) -> None:
    folder = make_tiny("tar", tmp_path / "store")
    before = file_bytes(folder)
    with pytest.raises(StoreError, match="notes is no shard"):
        reopen(folder, ["shard-000000.tar", "notes"])
    assert file_bytes(folder) == before


def test_a_row_that_is_gone_from_store_json_is_noticed(tmp_path: Path) -> None:
    folder = make_tiny("tar", tmp_path / "store")

    def drop(document: dict[str, Any]) -> None:
        row = document["shards"].pop()
        for name in ("utterances", "frames", "bytes"):  # as one would who means it
            document["totals"][name] -= row[name]

    edit_document(folder / "store.json", drop)
    store = FeatureStore.open(folder)
    assert [path.name for path in strangers(store)] == ["shard-000001.json", "shard-000001.tar"]
    faults = {path.name: fault for path, fault in verify(store)}
    assert faults["store.json"] == "its totals are not what its sidecars come to"


def test_a_repair_killed_at_its_start_is_ended_by_featurize(store: Path, store_copy: Path) -> None:
    """When the store still seems finished, but its shards are to go already."""
    shutil.copy(store_copy / "store.json", store_copy / "reopened.json")
    redo = {"redo": ["shard-000001.tar"]}
    edit_document(store_copy / "reopened.json", lambda document: document.update(redo))
    made = make_store(CORPUS, store_copy, utterances_per_shard=16)
    assert file_bytes(made) == file_bytes(store)


def test_a_repaired_store_is_not_completed_with_other_options(store_copy: Path, invoke) -> None:
    flip(store_copy / "shard-000001.tar")
    invoke("verify", store_copy, "--repair", status=1)
    refused = run_gmmpipe(
        *("featurize", "--data_dir", CORPUS, "--output_dir", store_copy),
        *("--utterances_per_shard", 16, "--max_seconds", 2),
        check=False,
    )
    assert refused.returncode == 1
    assert "max_seconds" in refused.stderr

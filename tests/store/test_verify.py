"""`gmmpipe verify` finds damage, and with --repair leaves a store that featurize completes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import CORPUS, edit_document, file_bytes, make_store, run_gmmpipe


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_in_json(path: Path) -> None:
    # Features carry checksums of their own; what stands beside them has only the shard's.
    content = bytearray(path.read_bytes())
    content[content.index(b'"wav_path"') + 3] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-512])


def swap(path: Path) -> None:
    shutil.copy(path.with_name("shard-000003.tar"), path)


def test_a_good_store_passes(store: Path) -> None:
    assert "4 shards are good" in run_gmmpipe("verify", store).stderr


@pytest.mark.parametrize("damage", [flip, flip_in_json, truncate, swap, Path.unlink])
def test_a_bad_shard_is_named_and_repaired(
    damage: Callable[[Path], None], store: Path, store_copy: Path
) -> None:
    damage(store_copy / "shard-000001.tar")
    found = run_gmmpipe("verify", store_copy, "--repair", check=False)
    assert found.returncode == 1
    assert "shard-000001.tar" in found.stderr
    assert "shard-000002.tar" not in found.stderr
    assert not (store_copy / "store.json").exists()
    made = run_gmmpipe(
        *("featurize", "--data_dir", CORPUS, "--output_dir", store_copy),
        *("--utterances_per_shard", 16),
    )
    assert "1 to make here, 3 finished already" in made.stderr
    assert file_bytes(store_copy) == file_bytes(store)


def test_a_repair_killed_at_its_start_is_ended_by_featurize(store: Path, store_copy: Path) -> None:
    """When the store still seems finished, but its shards are to go already."""
    shutil.copy(store_copy / "store.json", store_copy / "reopened.json")
    redo = {"redo": ["shard-000001.tar"]}
    edit_document(store_copy / "reopened.json", lambda document: document.update(redo))
    made = make_store(CORPUS, store_copy, utterances_per_shard=16)
    assert file_bytes(made) == file_bytes(store)


def test_a_repaired_store_is_not_completed_with_other_options(store_copy: Path) -> None:
    flip(store_copy / "shard-000001.tar")
    run_gmmpipe("verify", store_copy, "--repair", check=False)
    refused = run_gmmpipe(
        *("featurize", "--data_dir", CORPUS, "--output_dir", store_copy),
        *("--utterances_per_shard", 16, "--max_seconds", 2),
        check=False,
    )
    assert refused.returncode == 1
    assert "max_seconds" in refused.stderr

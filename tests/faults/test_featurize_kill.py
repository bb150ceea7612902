"""Whatever kills featurize, finished shards are kept, and the store becomes the same bytes."""

import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from helpers.making import CORPUS
from helpers.processes import (
    GMMPIPE,
    Process,
    Started,
    living_members,
    pause,
    run_gmmpipe,
    wait_until,
)
from helpers.results import file_bytes


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo corpus six times over: long enough to be killed in the middle."""
    path = tmp_path_factory.mktemp("kill") / "m.jsonl"
    path.write_text((CORPUS / "manifest.jsonl").read_text() * 6)
    return path


def arguments(manifest: Path, folder: Path, num_workers: int) -> list[str]:
    places = ["--data_dir", str(manifest), "--base_path", str(CORPUS), "--output_dir", str(folder)]
    return ["featurize", *places, "--utterances_per_shard", "2", "--num_workers", str(num_workers)]


def sidecars(folder: Path) -> set[Path]:
    return set(folder.glob("shard-*.json"))


def begin(start: Started, manifest: Path, folder: Path, new_shards: int = 4) -> Process:
    """A running featurize that has finished some more shards."""
    before = len(sidecars(folder))
    process = start([*GMMPIPE, *arguments(manifest, folder, 2)])
    wait_until(lambda: len(sidecars(folder)) >= before + new_shards, process)
    return process


def assert_all_end(session: int) -> None:
    wait_until(lambda: not living_members(session))


def assert_unfinished_but_whole(folder: Path) -> None:
    """There is no store yet, and what is marked as finished is finished."""
    assert not (folder / "store.json").exists()
    for path in sidecars(folder):
        shard = path.with_suffix(".tar").read_bytes()
        assert json.loads(path.read_text())["sha256"] == hashlib.sha256(shard).hexdigest()


def test_a_store_made_through_kills_has_the_bytes_of_one_made_at_once(
    manifest: Path, tmp_path: Path, start: Started
) -> None:
    folder = tmp_path / "killed"
    process = begin(start, manifest, folder)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert_unfinished_but_whole(folder)
    kept = {path: path.stat().st_mtime_ns for path in sidecars(folder)}

    process = begin(start, manifest, folder)
    process.kill()  # the parent alone: its workers must notice
    process.wait()
    assert_all_end(process.pid)
    assert_unfinished_but_whole(folder)

    run_gmmpipe(*arguments(manifest, folder, 2))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    whole = tmp_path / "whole"
    run_gmmpipe(*arguments(manifest, whole, 1))
    assert file_bytes(folder) == file_bytes(whole)


@pytest.mark.parametrize(
    ("signum", "whole_group", "status"),
    [(signal.SIGTERM, False, 143), (signal.SIGINT, True, 130)],
    ids=["SIGTERM", "^C"],  # a terminal sends SIGINT to the whole group
)
def test_a_stop_signal_keeps_finished_shards_and_leaves_no_worker(
    signum: signal.Signals,
    whole_group: bool,
    status: int,
    manifest: Path,
    tmp_path: Path,
    start: Started,
) -> None:
    folder = tmp_path / "stopped"
    process = begin(start, manifest, folder)
    finished = [p for json in sidecars(folder) for p in (json, json.with_suffix(".tar"))]
    kept = {path.name: path.read_bytes() for path in finished}
    if whole_group:
        os.killpg(process.pid, signum)
    else:
        process.send_signal(signum)
    assert process.wait() == status
    assert_all_end(process.pid)
    assert_unfinished_but_whole(folder)
    assert kept.items() <= file_bytes(folder).items()
    assert f"stopped by {signum.name}" in start.output()
    assert "Traceback" not in start.output()


def test_ctrl_c_while_workers_start_ends_quietly(
    manifest: Path, tmp_path: Path, start: Started
) -> None:
    # They import torch for seconds, and get the terminal's SIGINT too.
    process = begin(start, manifest, tmp_path / "stopped", new_shards=0)
    # The parent, a resource tracker, two workers.
    wait_until(lambda: len(living_members(process.pid)) >= 4, process)
    pause("imports", 1.0)
    for member in set(living_members(process.pid)) - {process.pid}:
        os.kill(member, signal.SIGINT)  # first, as may happen where the whole group gets it
    wait_until(lambda: len(sidecars(tmp_path / "stopped")) >= 4, process)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert_all_end(process.pid)
    assert "stopped by SIGINT" in start.output()
    assert "Traceback" not in start.output()

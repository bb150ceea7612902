"""Whatever kills featurize, finished shards are kept, and the store becomes the same bytes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import CORPUS, ROOT, file_bytes, one_thread, run_gmmpipe


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


def start(manifest: Path, folder: Path, new_shards: int = 4) -> subprocess.Popen[bytes]:
    """A running featurize, in a session of its own, that has finished some more shards."""
    before = len(sidecars(folder))
    with open(folder.parent / "stderr.txt", "wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "gmmpipe", *arguments(manifest, folder, 2)],
            start_new_session=True,
            stderr=stderr,
            cwd=ROOT,
            env=one_thread(),
        )
    while len(sidecars(folder)) < before + new_shards:
        assert process.poll() is None, (folder.parent / "stderr.txt").read_text()
        time.sleep(0.005)
    return process


def living_members(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    members = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended just now
        if int(its_session) == session and state != "Z":
            members.append(int(path.parent.name))
    return members


def assert_all_end(session: int) -> None:
    deadline = time.monotonic() + 60  # far beyond what it takes: it only keeps a failure finite
    while living_members(session) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not living_members(session)


def assert_unfinished_but_whole(folder: Path) -> None:
    """There is no store yet, and what is marked as finished is finished."""
    assert not (folder / "store.json").exists()
    for path in sidecars(folder):
        shard = path.with_suffix(".tar").read_bytes()
        assert json.loads(path.read_text())["sha256"] == hashlib.sha256(shard).hexdigest()


def test_a_store_made_through_kills_has_the_bytes_of_one_made_at_once(
    manifest: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "killed"
    process = start(manifest, folder)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert_unfinished_but_whole(folder)
    kept = {path: path.stat().st_mtime_ns for path in sidecars(folder)}

    process = start(manifest, folder)
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
    signum: signal.Signals, whole_group: bool, status: int, manifest: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "stopped"
    process = start(manifest, folder)
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
    stderr = (tmp_path / "stderr.txt").read_text()
    assert f"stopped by {signum.name}" in stderr
    assert "Traceback" not in stderr


def test_ctrl_c_while_workers_start_ends_quietly(manifest: Path, tmp_path: Path) -> None:
    # They import torch for seconds, and get the terminal's SIGINT too.
    process = start(manifest, tmp_path / "stopped", new_shards=0)
    while len(living_members(process.pid)) < 4:  # the parent, a resource tracker, two workers
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.5)  # into their imports
    for member in set(living_members(process.pid)) - {process.pid}:
        os.kill(member, signal.SIGINT)  # first, as may happen where the whole group gets it
    while len(sidecars(tmp_path / "stopped")) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert_all_end(process.pid)
    stderr = (tmp_path / "stderr.txt").read_text()
    assert "stopped by SIGINT" in stderr
    assert "Traceback" not in stderr

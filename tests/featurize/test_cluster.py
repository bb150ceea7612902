"""Array slices and a Dask cluster make the same bytes as local workers, whoever dies."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.making import CORPUS, compressed_corpus, make_store
from helpers.processes import ROOT, one_thread, run_gmmpipe
from helpers.results import file_bytes

OPTIONS = ("--data_dir", CORPUS, "--utterances_per_shard", 4)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("here") / "store"
    return file_bytes(make_store(CORPUS, folder, utterances_per_shard=4))


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """The options for a manifest whose lines have to be written out for the workers."""
    path = compressed_corpus(tmp_path_factory.mktemp("compressed"))
    return ("--data_dir", path, "--base_path", CORPUS, "--utterances_per_shard", 4)


@pytest.fixture(scope="module")
def expected_of_compressed(
    compressed: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("here") / "store"
    store = make_store(compressed[1], folder, base_path=CORPUS, utterances_per_shard=4)
    return file_bytes(store)


def test_slices_in_any_order(
    compressed: tuple[object, ...], expected_of_compressed: dict[str, bytes], tmp_path: Path
) -> None:
    for index in (2, 0, 2, 1):  # a slice submitted twice does no harm
        sliced = ("--task_index", index, "--num_tasks", 3)
        done = run_gmmpipe("featurize", *compressed, "--output_dir", tmp_path / "store", *sliced)
        finished = (tmp_path / "store" / "store.json").exists()
        (lines,) = [*(tmp_path / "store").glob("plan.lines/*")] or [None]
        assert (lines is None) == finished
        if lines:  # a slice that finds it damaged makes it anew
            lines.write_bytes(lines.read_bytes()[:-100])
        assert finished == (index == 1)
        assert ("without slices finishes the store" in done.stderr) == (not finished)
    assert file_bytes(tmp_path / "store") == expected_of_compressed


def test_the_command_without_slices_finishes_what_slices_left(
    expected: dict[str, bytes], tmp_path: Path
) -> None:
    where = ("--output_dir", tmp_path / "store")
    run_gmmpipe("featurize", *OPTIONS, *where, "--task_index", 0, "--num_tasks", 2)
    run_gmmpipe("featurize", *OPTIONS, *where)
    assert file_bytes(tmp_path / "store") == expected


@pytest.mark.parametrize("index", [-1, 3])
def test_a_slice_outside_is_wrong_usage(index: int, tmp_path: Path) -> None:
    sliced = ("--task_index", index, "--num_tasks", 3)
    done = run_gmmpipe("featurize", *OPTIONS, "--output_dir", tmp_path, *sliced, check=False)
    assert done.returncode == 2


def start(module: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=one_thread(),
        start_new_session=True,
    )


def scheduler_address(scheduler: subprocess.Popen) -> str:
    for line in scheduler.stderr:
        found = re.search(r"Scheduler at:\s+tcp://\S+:(\d+)", line)
        if found:
            return f"tcp://127.0.0.1:{found[1]}"
    raise AssertionError("the scheduler ended")


def test_a_dask_cluster_that_loses_a_worker(
    compressed: tuple[object, ...], expected_of_compressed: dict[str, bytes], tmp_path: Path
) -> None:
    scheduler = start("distributed.cli.dask_scheduler", "--port", 0, "--no-dashboard")
    processes = [scheduler]
    try:
        address = scheduler_address(scheduler)
        worker = ("distributed.cli.dask_worker", address, "--nthreads", 1, "--no-nanny")
        processes += [start(*worker), start(*worker)]
        dask = ("--executor", "dask", "--dask_scheduler", address)
        where = ("--output_dir", tmp_path / "store")
        job = start("gmmpipe", "featurize", *compressed, *where, *dask)
        processes.append(job)
        deadline = time.monotonic() + 120
        while not list((tmp_path / "store").glob("shard-*.json")):
            assert job.poll() is None, job.stderr.read()
            assert time.monotonic() < deadline, "no shard was made"
            time.sleep(0.02)
        os.killpg(processes[1].pid, signal.SIGKILL)
        assert job.wait(120) == 0, job.stderr.read()
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stderr.close()
    assert file_bytes(tmp_path / "store") == expected_of_compressed


GONE = (
    "error: {}: the Dask scheduler is gone; finished shards are kept: start a scheduler and "
    "run the same command again with its --dask_scheduler, or with --executor local"
)


@pytest.mark.parametrize("with_worker", [False, True], ids=["before a result", "in mid-job"])
def test_a_dask_scheduler_that_dies_is_one_line(
    with_worker: bool, expected: dict[str, bytes], tmp_path: Path
) -> None:
    scheduler = start("distributed.cli.dask_scheduler", "--port", 0, "--no-dashboard")
    processes = [scheduler]
    try:
        address = scheduler_address(scheduler)
        if with_worker:
            worker = ("distributed.cli.dask_worker", address, "--nthreads", 1, "--no-nanny")
            processes.append(start(*worker))
        dask = ("--executor", "dask", "--dask_scheduler", address)
        job = start("gmmpipe", "featurize", *OPTIONS, "--output_dir", tmp_path / "store", *dask)
        processes.append(job)
        lines = []
        waits = f"warning: {address}: the Dask scheduler has no worker; waiting\n"
        if with_worker:
            deadline = time.monotonic() + 120
            while not list((tmp_path / "store").glob("shard-*.json")):
                assert job.poll() is None, job.stderr.read()
                assert time.monotonic() < deadline, "no shard was made"
                time.sleep(0.02)
        else:  # the job says that it waits, and for whom
            lines += iter(job.stderr.readline, waits)
        os.killpg(scheduler.pid, signal.SIGKILL)
        rest = job.stderr.read().splitlines()
        lines += [line for line in rest if line != waits.strip()]  # the worker may come late
        assert job.wait(120) == 1
        assert lines[-1] == GONE.format(address)
        assert len(lines) == 2, lines  # what it is to do, and how it ended
        assert lines[0].startswith("featurizing 56 lines")
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stderr.close()
    run_gmmpipe("featurize", *OPTIONS, "--output_dir", tmp_path / "store")
    assert file_bytes(tmp_path / "store") == expected


def test_a_dask_cluster_that_loses_all_workers_says_that_it_waits(tmp_path: Path) -> None:
    scheduler = start("distributed.cli.dask_scheduler", "--port", 0, "--no-dashboard")
    processes = [scheduler]
    try:
        address = scheduler_address(scheduler)
        worker = ("distributed.cli.dask_worker", address, "--nthreads", 1, "--no-nanny")
        processes.append(start(*worker))
        dask = ("--executor", "dask", "--dask_scheduler", address)
        where = ("--output_dir", tmp_path / "store")
        job = start(
            "gmmpipe", "featurize", "--data_dir", CORPUS, *where, "--utterances_per_shard", 1, *dask
        )
        processes.append(job)
        deadline = time.monotonic() + 120
        while not list((tmp_path / "store").glob("shard-*.json")):
            assert job.poll() is None, job.stderr.read()
            assert time.monotonic() < deadline, "no shard was made"
            time.sleep(0.02)
        os.killpg(processes[1].pid, signal.SIGKILL)
        job.stderr.readline()
        line = job.stderr.readline()
        assert line == f"warning: {address}: the Dask scheduler has no worker; waiting\n"
        os.killpg(job.pid, signal.SIGTERM)
        assert job.wait(120) == 143
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stderr.close()


def test_no_scheduler_is_one_line_of_error(tmp_path: Path) -> None:
    dask = ("--executor", "dask", "--dask_scheduler", "tcp://127.0.0.1:1")
    patience = {**one_thread(), "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "2s"}
    done = run_gmmpipe(
        *("featurize", *OPTIONS, "--output_dir", tmp_path, *dask), check=False, env=patience
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: tcp://127.0.0.1:1")

"""Array slices and a Dask cluster make the same bytes as local workers, whoever dies."""

import os
import signal
from pathlib import Path

import pytest

from helpers.cluster import begin_cluster
from helpers.making import CORPUS, compressed_corpus, make_store
from helpers.processes import (
    GMMPIPE,
    PATIENCE_SECONDS,
    Process,
    Started,
    one_thread,
    run_gmmpipe,
    wait_until,
)
from helpers.results import file_bytes

OPTIONS = ("--data_dir", CORPUS, "--utterances_per_shard", 4, "--num_workers", 1)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("here") / "store"
    return file_bytes(make_store(CORPUS, folder, utterances_per_shard=4))


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """The options for a manifest whose lines have to be written out for the workers."""
    path = compressed_corpus(tmp_path_factory.mktemp("compressed"))
    return ("--data_dir", path, "--base_path", CORPUS, *OPTIONS[2:])


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
def test_a_slice_outside_is_wrong_usage(index: int, tmp_path: Path, invoke) -> None:
    sliced = ("--task_index", index, "--num_tasks", 3)
    invoke("featurize", *OPTIONS, "--output_dir", tmp_path, *sliced, status=2)


def begin_job(start: Started, options: tuple[object, ...], folder: Path, address: str) -> Process:
    """A featurize job on a Dask cluster."""
    dask = ("--executor", "dask", "--dask_scheduler", address)
    return start([*GMMPIPE, "featurize", *options, "--output_dir", folder, *dask])


def wait_for_a_shard(folder: Path, job: Process) -> None:
    wait_until(lambda: any(folder.glob("shard-*.json")), job)


def test_a_dask_cluster_that_loses_a_worker(
    compressed: tuple[object, ...],
    expected_of_compressed: dict[str, bytes],
    tmp_path: Path,
    start: Started,
) -> None:
    address, (_, worker, _) = begin_cluster(start, 2)
    job = begin_job(start, compressed, tmp_path / "store", address)
    wait_for_a_shard(tmp_path / "store", job)
    os.killpg(worker.pid, signal.SIGKILL)
    assert job.wait(PATIENCE_SECONDS) == 0, start.output(-1)
    assert file_bytes(tmp_path / "store") == expected_of_compressed


GONE = (
    "error: {}: the Dask scheduler is gone; finished shards are kept: start a scheduler and "
    "run the same command again with its --dask_scheduler, or with --executor local"
)
WAITS = "warning: {}: the Dask scheduler has no worker; waiting\n"


@pytest.mark.parametrize("with_worker", [False, True], ids=["before a result", "in mid-job"])
def test_a_dask_scheduler_that_dies_is_one_line(
    with_worker: bool, expected: dict[str, bytes], tmp_path: Path, start: Started
) -> None:
    address, (scheduler, *_) = begin_cluster(start, int(with_worker))
    job = begin_job(start, OPTIONS, tmp_path / "store", address)
    if with_worker:
        wait_for_a_shard(tmp_path / "store", job)
    else:  # the job says that it waits, and for whom
        wait_until(lambda: WAITS.format(address) in start.output(-1), job)
    os.killpg(scheduler.pid, signal.SIGKILL)
    assert job.wait(PATIENCE_SECONDS) == 1
    said = start.output(-1).replace(WAITS.format(address), "")
    first, last = said.splitlines()  # what it is to do, and how it ended
    assert first.startswith("featurizing 56 lines")
    assert last == GONE.format(address)
    run_gmmpipe("featurize", *OPTIONS, "--output_dir", tmp_path / "store")
    assert file_bytes(tmp_path / "store") == expected


def test_a_dask_cluster_that_loses_all_workers_says_that_it_waits(
    tmp_path: Path, start: Started
) -> None:
    address, (_, worker) = begin_cluster(start, 1)
    options = ("--data_dir", CORPUS, "--utterances_per_shard", 1)
    job = begin_job(start, options, tmp_path / "store", address)
    wait_for_a_shard(tmp_path / "store", job)
    os.killpg(worker.pid, signal.SIGKILL)
    wait_until(lambda: start.output(-1).endswith(WAITS.format(address)), job)
    os.killpg(job.pid, signal.SIGTERM)
    assert job.wait(PATIENCE_SECONDS) == 143


def test_no_scheduler_is_one_line_of_error(tmp_path: Path) -> None:
    dask = ("--executor", "dask", "--dask_scheduler", "tcp://127.0.0.1:1")
    patience = {**one_thread(), "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "2s"}
    done = run_gmmpipe(
        *("featurize", *OPTIONS, "--output_dir", tmp_path, *dask), check=False, env=patience
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: tcp://127.0.0.1:1")


def test_an_address_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, invoke) -> None:
    dask = ("--executor", "dask", "--dask_scheduler", "nope")
    done = invoke("featurize", *OPTIONS, "--output_dir", tmp_path / "store", *dask, status=1)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: nope: no Dask scheduler answers: missing port")

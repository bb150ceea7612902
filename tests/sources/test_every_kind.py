"""Every kind of source: all its utterances, the frames of loose files, the same bytes always."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gmmpipe import FeatureStore
from gmmpipe.sources.find import find_sources
from gmmpipe.sources.survey import survey
from helpers.cluster import begin_cluster
from helpers.kinds import MAKERS
from helpers.kinds.made import Made
from helpers.making import make_store
from helpers.processes import GMMPIPE, Started, run_gmmpipe, wait_until
from helpers.results import file_bytes

OPTIONS = ["--utterances_per_shard", "2"]


@pytest.fixture(scope="module", params=MAKERS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return MAKERS[request.param](tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def store(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "store"
    return make_store(made.data_dir, folder, utterances_per_shard=2)


def frames_of(store: Path) -> dict[str, np.ndarray]:
    return {u.key: u.features.numpy() for u in FeatureStore.open(store).utterances()}


def test_its_frames_are_those_of_loose_files(made: Made, store: Path, tmp_path: Path) -> None:
    found = frames_of(store)
    expected = frames_of(make_store(made.loose, tmp_path / "loose", utterances_per_shard=2))
    assert found.keys() == expected.keys()
    for key, frames in expected.items():
        np.testing.assert_allclose(found[key], frames, rtol=0, atol=made.tolerance, err_msg=key)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Dask scheduler with one worker, which goes from kind to kind."""
    started = Started(tmp_path_factory.mktemp("cluster"))
    yield begin_cluster(started, 1)[0]
    started.end()


def test_two_workers_a_kill_a_slice_and_dask_make_the_same_bytes(
    made: Made, store: Path, tmp_path: Path, start: Started, scheduler: str
) -> None:
    folder = tmp_path / "store"
    command = ["featurize", "--data_dir", made.data_dir, "--output_dir", str(folder), *OPTIONS]
    process = start([*GMMPIPE, *command, "--num_workers", "2"])
    wait_until(lambda: list(folder.glob("shard-*.json")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run_gmmpipe(*command, "--task_index", "1", "--num_tasks", "2", "--num_workers", "1")
    run_gmmpipe(*command, "--executor", "dask", "--dask_scheduler", scheduler)
    assert file_bytes(folder) == file_bytes(store)


def test_a_base_path_moves_no_file_that_is_found(made: Made, tmp_path: Path) -> None:
    (source,) = find_sources(made.data_dir)
    here, there = (survey([source], base)[0].first for base in (None, tmp_path))
    assert len(there) == 3
    is_member = "#" in here[0]["path"]
    if is_member or source.manifests[0].kind in ("folder", "librilight"):
        assert there == here

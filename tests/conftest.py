"""The fixtures that tests share; what is no fixture is in `helpers`."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from helpers.making import CORPUS, fit_here, make_store
from helpers.processes import THREADS, Started, run_gmmpipe


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The demo corpus: 56 files of real speech and their manifest.jsonl."""
    return CORPUS


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float16 store of the demo corpus in four shards; not to be changed."""
    folder = tmp_path_factory.mktemp("store") / "tiny"
    run_gmmpipe(
        *("featurize", "--data_dir", CORPUS, "--output_dir", folder),
        *("--utterances_per_shard", 16, "--num_workers", 2),
    )
    return folder


@pytest.fixture(scope="session")
def audio_stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The demo corpus with its audio in two shards, as tar and as zarr; not to be changed."""
    folder = tmp_path_factory.mktemp("audio")
    options = {"store_audio": "flac", "utterances_per_shard": 40}
    return {
        kind: make_store(CORPUS, folder / kind, format=kind, **options) for kind in ("tar", "zarr")
    }


@pytest.fixture(scope="session")
def gmm_path(fitted: Path) -> Path:
    """The same as `fitted`."""
    return fitted


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Started]:
    """Starts commands in the background; what is left of them at the end is killed."""
    started = Started(tmp_path)
    yield started
    started.end()


@pytest.fixture
def invoke() -> Iterator[Callable[..., Result]]:
    """Runs ``gmmpipe`` in this process: cheap where no process is what is tested.

    What it returns has its stdout and stderr; the exit status must be `status`.
    """
    from gmmpipe.cli import cli

    loggers = [logging.getLogger(), logging.getLogger("gmmpipe")]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]

    def call(*arguments: object, status: int = 0) -> Result:
        done = CliRunner().invoke(cli, [*map(str, arguments)], prog_name="gmmpipe")
        assert done.exit_code == status, done.output
        return done

    yield call
    for logger, handlers, level in before:
        logger.handlers[:], logger.level = handlers, level


@pytest.fixture
def store_copy(store: Path, tmp_path: Path) -> Path:
    """A store that a test may damage."""
    return Path(shutil.copytree(store, tmp_path / "store_copy"))


@pytest.fixture
def write_manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines (dicts, or raw text) as a manifest in a fresh folder, beside the audio."""

    def write(*lines: dict[str, Any] | str, name: str = "manifest.jsonl") -> Path:
        path = tmp_path / name
        text = "".join(
            (line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines
        )
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        return path

    return write


@pytest.fixture(scope="session")
def fitted(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gmm.pt of 16 components fitted to the store; not to be changed."""
    folder = tmp_path_factory.mktemp("fitted") / "fit"
    fit_here(store, folder)
    return folder / "gmm.pt"


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """As in the processes that tests start; on a busy machine two threads take longer than one."""
    import torch

    torch.set_num_threads(int(THREADS))


@pytest.fixture(scope="session")
def frames(store: Path) -> Any:
    """All frames of the store, float32 [8561, 80]; not to be changed."""
    from gmmpipe import FeatureStore

    opened = FeatureStore.open(store)
    return opened.read_frames(0, opened.num_frames)

"""What the tests share: the demo corpus, stores made from it once, and ways to start gmmpipe."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "pipelines" / "demo" / "corpus"
THREADS = os.environ.get("TEST_THREADS", "1")
"""torch's, here and in the processes that tests start; tests/processors.py sets others than one."""


def run_gmmpipe(
    *arguments: object, check: bool = True, **options: Any
) -> subprocess.CompletedProcess:
    """Run ``python -m gmmpipe`` in a process of its own, with one torch thread."""
    command = [sys.executable, "-m", "gmmpipe", *map(str, arguments)]
    return run(command, check=check, **options)


def run(command: list[str], check: bool = True, **options: Any) -> subprocess.CompletedProcess:
    """Run a command; a failed one shows what it printed."""
    options.setdefault("cwd", ROOT)
    options.setdefault("env", one_thread())
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=240, **options
    )
    if check and done.returncode != 0:
        pytest.fail(f"{command} exited {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def torchrun(num_ranks: int, *arguments: str) -> list[str]:
    """The start of a torchrun command on this machine, at a port that is free."""
    options = ["--standalone", f"--nproc_per_node={num_ranks}"]
    return [sys.executable, "-m", "torch.distributed.run", *options, *arguments]


def root_cause(stderr: str) -> str:
    """What torchrun calls the root cause of a failed job."""
    return stderr.split("Root Cause (first observed failure):")[1]


def one_thread() -> dict[str, str]:
    """The environment, with one torch thread, as torchrun gives its workers."""
    return {**os.environ, "OMP_NUM_THREADS": THREADS}


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
def gmm_path(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small mixture fitted to `store`, K = 16."""
    folder = tmp_path_factory.mktemp("mixture") / "fit"
    fit_here(store, folder)
    return folder / "gmm.pt"


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


def compressed_corpus(folder: Path) -> Path:
    """The demo corpus's manifest as a ``.jsonl.gz`` in `folder`; its audio stays in `CORPUS`."""
    path = folder / "manifest.jsonl.gz"
    path.write_bytes(gzip.compress((CORPUS / "manifest.jsonl").read_bytes(), mtime=0))
    return path


def read_speech(seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Real 16 kHz speech from the demo corpus, as float64 samples, and its rate."""
    names = sorted((CORPUS / "ru-festvox").glob("*.flac"))
    parts = [soundfile.read(name)[0] for name in names]
    samples = np.concatenate(parts)
    return samples[: int(seconds * 16000)] if seconds else samples, 16000


def file_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative path."""
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def make_store(data_dir: object, output_dir: Path, **options: Any) -> Path:
    """Do what ``gmmpipe featurize`` does, within this process: no workers to wait for.

    Options are those of `FeaturizeOptions`; any fraction of rejects is allowed unless given.
    """
    from gmmpipe.featurization.job import featurize
    from gmmpipe.featurization.options import FeaturizeOptions
    from gmmpipe.featurization.worker import make_shard

    options = {"max_reject_fraction": 1.0, **options}
    chosen = FeaturizeOptions(data_dir=str(data_dir), output_dir=output_dir, **options)
    plan = save_plan(chosen)
    for number in range(plan.num_shards):
        make_shard(plan.task(number, output_dir, chosen.base_path))
    featurize(chosen)  # finds every shard made
    return output_dir


def save_plan(options: Any) -> Any:
    """Publish the plan of a featurize job, as its first seconds do, and return it."""
    from gmmpipe.featurization.plan import digest_manifests, make_plan
    from gmmpipe.sources.find import find_manifests
    from gmmpipe.sources.lines import with_plain_lines

    manifests = with_plain_lines(
        find_manifests(options.data_dir), options.output_dir / "plan.lines"
    )
    wanted = options.plan_options(*digest_manifests(manifests))
    plan = make_plan(manifests, options.features, wanted, options.base_path)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    plan.save(options.output_dir / "plan.npz")
    return plan


def edit_document(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a store's document in place, and give it the checksum that it should have then."""
    from gmmpipe.store.documents import write_document

    document = json.loads(path.read_bytes())
    change(document)
    write_document(path, document)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


SMALL_FIT: dict[str, Any] = {
    "K": 16,
    "target_frames": 8000,
    "batch_update_size": 4000,
    "n_sgd_steps": 40,
    "sgd_batch_size": 512,
    "save_every": 4000,
}
"""A fit of two updates on the demo store, well under a second of work."""


def fit_arguments(store: object, output_dir: Path, **changes: Any) -> list[str]:
    """The arguments of `gmmpipe fit` for `SMALL_FIT` with some options changed or added."""
    options = {"data_dir": store, "output_dir": output_dir, **SMALL_FIT, **changes}
    return ["fit", *(str(part) for name, value in options.items() for part in (f"--{name}", value))]


def fit_here(store: object, output_dir: Path, world: Any = None, **changes: Any) -> Any:
    """Do what `gmmpipe fit` does, within this process; options as for `fit_arguments`."""
    import torch

    from gmmpipe.fitting.options import FitOptions
    from gmmpipe.fitting.trainer import fit
    from gmmpipe.run.world import World

    chosen = {"data_dir": str(store), "output_dir": output_dir, **SMALL_FIT, **changes}
    return fit(FitOptions(**chosen), world or World(0, 1, torch.device("cpu")))


def same_bits(first: Any, second: Any) -> bool:
    """Whether two contents of model files are equal to the last bit."""
    import torch

    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_bits(first[k], second[k]) for k in first)
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return bool(first == second)


def assert_same_fit(first: Path, second: Path) -> None:
    """Two output folders hold the same fit: bit-identical gmm.pt and metrics.tsv."""
    import torch

    models = [torch.load(folder / "gmm.pt", weights_only=True) for folder in (first, second)]
    different = [name for name in models[0] if not same_bits(models[0][name], models[1].get(name))]
    assert not different
    assert models[0].keys() == models[1].keys()
    assert (first / "metrics.tsv").read_bytes() == (second / "metrics.tsv").read_bytes()


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


def killed_after(operations: int, job: Callable[[], object]) -> bool:
    """Run `job` in a process that kills itself after so many file operations; whether it came to.

    Renames and removals are counted. The process is a fork, so the job may start no threads.
    """
    pid = os.fork()
    if pid == 0:
        done = 0

        def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal done
                result = operation(*arguments, **options)
                done += 1
                if done == operations:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        for name in ("replace", "rename", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        try:
            job()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status == -signal.SIGKILL

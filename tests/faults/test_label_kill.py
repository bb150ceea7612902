"""Whatever kills label, finished shards are kept, and the label store becomes the same bytes."""

import signal
from pathlib import Path

import pytest
import torch

from gmmpipe import FeatureStore, GradientGMM
from gmmpipe.apply.label import LabelOptions, label
from helpers.making import CORPUS, alone, make_store
from helpers.processes import GMMPIPE, Started, run_gmmpipe, wait_until
from helpers.results import file_bytes


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store of 28 shards and a model whose labels take long enough to be killed in the midst."""
    folder = tmp_path_factory.mktemp("kill")
    store = make_store(CORPUS, folder / "store", utterances_per_shard=2)
    opened = FeatureStore.open(store)
    means = opened.read_frames(0, 4096)
    GradientGMM(means, torch.zeros_like(means), torch.full((4096,), -8.3)).save(folder / "gmm.pt")
    return store, folder / "gmm.pt"


def arguments(job: tuple[Path, Path], out: Path) -> list[str]:
    store, gmm = job
    return ["label", str(store), "--gmm_path", str(gmm), "--output_dir", str(out), "--top_k", "4"]


def stop(start: Started, job: tuple[Path, Path], out: Path, signum: int) -> int:
    """Start label, and send it a signal once it has finished three more shards; its status."""
    before = len(list(out.glob("shard-*.json")))
    process = start([*GMMPIPE, *arguments(job, out)])
    wait_until(lambda: len(list(out.glob("shard-*.json"))) >= before + 3, process)
    process.send_signal(signum)
    return process.wait()


def test_a_label_store_made_through_stops_has_the_bytes_of_one_made_at_once(
    job, tmp_path, start: Started
) -> None:
    out, whole = tmp_path / "l", tmp_path / "whole"
    assert stop(start, job, out, signal.SIGKILL) == -signal.SIGKILL
    assert not (out / "store.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("shard-*.json")}

    assert stop(start, job, out, signal.SIGTERM) == 143
    assert "stopped by SIGTERM" in start.output(1)
    assert not (out / "store.json").exists()

    (out / ".tmp-another-host-1-00000000-shard-000020.tar").write_bytes(b"half")
    done = run_gmmpipe(*arguments(job, out))
    assert " finished already" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    store, gmm = job
    options = LabelOptions(store=store, gmm_path=gmm, output_dir=whole, top_k=4)
    label(options, alone())
    assert file_bytes(out) == file_bytes(whole)


def test_killed_between_the_last_two_writes_it_only_tidies_up(job, tmp_path) -> None:
    store, gmm = job
    out = tmp_path / "l"
    options = LabelOptions(store=store, gmm_path=gmm, output_dir=out)
    label(options, alone())
    whole = file_bytes(out)
    (out / "plan.json").write_bytes(whole["store.json"])
    label(options, alone())
    assert file_bytes(out) == whole

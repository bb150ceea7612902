"""The same fit on one, two and four ranks, started by a real torchrun over gloo."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from gmmpipe.run.repeated_sum import RepeatedSum
from gmmpipe.run.world import World
from helpers.damage import flip_in_frames
from helpers.making import fit_arguments, fit_here
from helpers.processes import Started, children_of, root_cause, run, torchrun, wait_until
from helpers.ranks import do_on_ranks
from helpers.results import read_metrics

# Neither 4001 frames of an update nor 1003 of a step can be shared evenly; the last is short.
SIZES = {
    "batch_update_size": 4001,
    "target_frames": 10_001,
    "sgd_batch_size": 1003,
    "n_sgd_steps": 60,
    "K": 24,
    "save_every": 4001,
    "var_floor": "5%",
}
FORMS = {2: ("-m", "gmmpipe"), 4: ("--no-python", str(Path(sys.executable).with_name("gmmpipe")))}


@pytest.fixture(scope="module")
def fits(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Output folders by the number of ranks; what the ranks printed is in printed.txt."""
    folders = {size: tmp_path_factory.mktemp("ranks") / str(size) for size in (1, 2, 4)}
    fit_here(store, folders[1], **SIZES)
    for size, form in FORMS.items():
        done = run([*torchrun(size, *form), *fit_arguments(store, folders[size], **SIZES)])
        (folders[size] / "printed.txt").write_text(done.stderr)
    return folders


@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_ranks_gives_the_same_model(size, fits) -> None:
    one, many = (torch.load(fits[number] / "gmm.pt", weights_only=True) for number in (1, size))
    heavy = one["weights"] > 1e-4
    assert heavy.sum() >= 20
    assert (one["means"] - many["means"])[heavy].abs().max() < 1e-2
    assert (one["log_vars"] - many["log_vars"])[heavy].abs().max() < 1e-2
    assert (one["weights"] - many["weights"]).abs().max() < 1e-3
    assert one["frames"] == many["frames"] == 10_001
    torch.testing.assert_close(one["var_floors"], many["var_floors"], rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_ranks_gives_the_same_metrics(size, fits) -> None:
    one, many = (read_metrics(fits[number]) for number in (1, size))
    assert many["frames"] == one["frames"] == [4001, 8002, 10_001]
    assert many["nll"] == pytest.approx(one["nll"], abs=1e-3)
    assert many["avg_loss"] == pytest.approx(one["avg_loss"], abs=1e-3)
    for name in ("weight_entropy", "mean_delta", "avg_var", "intra_cluster_dist"):
        assert many[name] == pytest.approx(one[name], rel=1e-3), name


@pytest.mark.parametrize("size", [2, 4])
def test_the_first_rank_alone_speaks_and_counts_the_frames_of_all(size, fits) -> None:
    found = re.findall(
        r"(\d+) read = (\d+) used \+ (\d+) dropped", (fits[size] / "printed.txt").read_text()
    )
    assert found == [("10001", "10001", "0")]


def sum_repeatedly(world: World, folder: Path) -> None:
    tensor = torch.empty(200_000)
    repeated = RepeatedSum(world, tensor)
    sums = []
    for number in range(6):
        repeated.announce()
        time.sleep(0.05 * ((world.rank + number) % 3))  # each is sometimes first, sometimes last
        generator = torch.Generator().manual_seed(10 * number + world.rank)
        tensor.copy_(torch.rand(len(tensor), generator=generator))
        repeated.start()
        repeated.wait()
        sums.append(tensor.clone())
    torch.save(torch.stack(sums), folder / f"{world.rank}.pt")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_repeated_sum_is_that_of_all_ranks_bit_for_bit_on_each(size, tmp_path) -> None:
    do_on_ranks(size, lambda world: sum_repeatedly(world, tmp_path))
    seeds = [[10 * number + rank for rank in range(size)] for number in range(6)]
    draws = [
        [torch.rand(200_000, generator=torch.Generator().manual_seed(seed)) for seed in row]
        for row in seeds
    ]
    first, *others = [torch.load(tmp_path / f"{rank}.pt") for rank in range(size)]
    torch.testing.assert_close(first, torch.stack([torch.stack(row).sum(0) for row in draws]))
    assert all(torch.equal(first, other) for other in others)


def test_a_rank_that_meets_a_corrupt_shard_ends_the_job_and_names_it(store_copy, tmp_path) -> None:
    """One epoch is one update, so just one rank meets the flipped byte; no rank waits for ever."""
    path = flip_in_frames(store_copy, shard=3)
    sizes = {**SIZES, "batch_update_size": 8561, "target_frames": 8561}
    arguments = fit_arguments(store_copy, tmp_path / "out", **sizes)
    done = run([*torchrun(2, "gmmpipe"), *arguments], check=False)
    assert done.returncode != 0
    assert f"error: {path}" in done.stderr
    assert "error: another rank failed" in done.stderr, "one of the two met it"
    assert f"StoreError: {path}" in root_cause(done.stderr)
    assert not (tmp_path / "out" / "gmm.pt").exists()


def test_a_rank_that_is_killed_takes_the_others_down_and_the_last_step_is_kept(
    store, tmp_path, start: Started
) -> None:
    """They would wait for it in an exchange for half an hour, or for ever."""
    out = tmp_path / "out"
    sizes = {**SIZES, "n_sgd_steps": 100_000}
    process = start([*torchrun(2, "-m", "gmmpipe"), *fit_arguments(store, out, **sizes)])
    wait_until((out / "metrics.tsv").exists, process)  # it appears as the first step begins
    os.kill(process_of_rank(1, process.pid), signal.SIGKILL)
    assert process.wait(60) == 1
    assert len([*out.glob("gmm_ckpt_0M*.pt")]) == 1  # of no step, if none was done by then
    assert "error: rank 1 is gone" in start.output()
    cause = root_cause(start.output())
    assert "rank      : 1" in cause
    assert "Signal 9" in cause


def process_of_rank(rank: int, parent: int) -> int:
    for pid in children_of(parent):
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if b"RANK=%d" % rank in environment:
            return pid
    raise AssertionError("torchrun has no such child")


TWICE = """
from gmmpipe.run.world import open_world
from gmmpipe.errors import StoreError

for number in range(2):
    try:
        with open_world("cpu") as world:
            assert world.any(world.rank == number)
            raise StoreError("on all ranks")
    except StoreError:
        print("met", flush=True)
"""


def test_ranks_can_meet_again_after_an_error(tmp_path) -> None:
    script = tmp_path / "twice.py"
    script.write_text(TWICE)
    assert run([*torchrun(2, str(script))]).stdout.count("met") == 4

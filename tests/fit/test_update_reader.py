"""The frames that each rank is given: the endless line, cut, and nothing that is corrupt."""

import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gmmpipe import FeatureStore
from gmmpipe.errors import StoreError
from gmmpipe.fitting.schedule import Schedule
from gmmpipe.fitting.update_reader import HeldFrames, UpdateReader, num_parts
from gmmpipe.run.world import World
from gmmpipe.store.frame_order import FrameOrder
from helpers.damage import flip_in_frames
from helpers.making import CORPUS, alone, make_store

SEED = 11


def schedule(update_frames: int = 3000, target_frames: int = 20_000) -> Schedule:
    return Schedule(SEED, update_frames, target_frames, 50, 512)


def open_reader(
    store: Path, rank: int = 0, size: int = 1, rules: Schedule | None = None, workers: int = 2
) -> UpdateReader:
    world = World(rank, size, torch.device("cpu"))
    return UpdateReader(
        FeatureStore.open(store), rules or schedule(), world, workers, lambda: False
    )


def read_all(reader: UpdateReader, rules: Schedule | None = None) -> list[tuple[int, int, Tensor]]:
    """Position on the line and frames of everything that a rank is given."""
    found = []
    for update, held in reader.updates((rules or schedule()).update_at(0, 0)):
        assert held is not None
        assert len(held.frames) == held.stop - held.start
        start = update.start + held.start
        found.append((start, start + len(held.frames), held.frames.clone()))
    return found


@pytest.fixture(scope="module")
def line(store: Path) -> Tensor:
    """The first three epochs, put together from whole utterances as `FeatureStore` gives them."""
    opened = FeatureStore.open(store)
    utterances = iter(opened.utterances())
    shards = [[next(utterances).features for _ in range(s.row.utterances)] for s in opened.shards]
    order = FrameOrder(opened.frames_per_shard, SEED)
    parts = []
    for epoch in range(3):
        start = epoch * opened.num_frames
        for part in order.ranges(start, start + opened.num_frames):
            places = order.utterance_order(epoch, part.shard, len(shards[part.shard]))
            parts += [shards[part.shard][place] for place in places]
    return torch.cat(parts)


def sorted_rows(frames: Tensor) -> Tensor:
    return torch.unique(frames, dim=0)


def test_every_epoch_is_all_frames_once_in_an_order_of_its_own(line, frames) -> None:
    epochs = line.split(len(frames))
    assert len(sorted_rows(frames)) == len(frames), "the demo's frames are all distinct"
    assert all(torch.equal(sorted_rows(epoch), sorted_rows(frames)) for epoch in epochs)
    assert not any(torch.equal(one, two) for one, two in pairwise([frames, *epochs]))


@pytest.mark.parametrize("size", range(1, 8))
def test_the_ranks_frames_put_together_are_the_endless_line(size, store, line) -> None:
    ranks = [read_all(open_reader(store, rank, size)) for rank in range(size)]
    pieces = sorted((piece for rank in ranks for piece in rank), key=lambda piece: piece[0])
    assert pieces[0][0] == 0
    assert all(one[1] == two[0] for one, two in pairwise(pieces)), "gaps or frames read twice"
    together = torch.cat([frames for _, _, frames in pieces])
    assert len(together) == 20_000
    assert torch.equal(together.float(), line[:20_000])


@pytest.mark.parametrize("workers", [1, 5])
def test_the_number_of_readers_makes_no_difference(workers, store, line) -> None:
    pieces = read_all(open_reader(store, workers=workers))
    assert torch.equal(torch.cat([frames for _, _, frames in pieces]).float(), line[:20_000])


def test_reading_from_the_middle_gives_what_reading_from_the_start_does(store, line) -> None:
    rules = schedule()
    _, held = next(open_reader(store).updates(rules.update_at(9000, 3)))
    assert torch.equal(held.frames.float(), line[9000:12_000])


def test_frames_stay_in_the_stored_dtype(store) -> None:
    assert read_all(open_reader(store))[0][2].dtype == torch.float16


def test_frames_are_used_where_they_are_read_in_two_buffers_that_take_turns(store) -> None:
    reader = open_reader(store)
    held = [held for _, held in reader.updates(schedule().update_at(0, 0))]
    places = [one.frames.data_ptr() for one in held]
    assert len(set(places)) == 2
    assert places[:-2] == places[2:]


def test_more_ranks_than_frames_leave_some_with_none(store, line) -> None:
    rules = schedule(update_frames=2, target_frames=4)
    held = [read_all(open_reader(store, rank, 3, rules), rules) for rank in range(3)]
    assert sorted(len(frames) for rank in held for _, _, frames in rank) == [0, 0, 1, 1, 1, 1]


def test_two_stores_are_read_as_one(store, tmp_path) -> None:
    """Numbered through: an epoch of a store given twice holds each frame twice."""
    rules = schedule(update_frames=2 * 8561, target_frames=2 * 8561)
    world = alone()
    twice = FeatureStore.open(f"{store},{store}")
    reader = UpdateReader(twice, rules, world, 2, lambda: False)
    _, counts = torch.unique(read_all(reader, rules)[0][2], dim=0, return_counts=True)
    assert counts.tolist() == [2] * 8561


@pytest.mark.parametrize("size", [1, 2])
def test_what_is_read_is_used_when_the_target_is_reached(size, store) -> None:
    readers = [open_reader(store, rank, size) for rank in range(size)]
    for reader in readers:
        read_all(reader)
        assert reader.frames_read == reader.frames_used
    assert sum(reader.frames_used for reader in readers) == 20_000


def test_frames_read_ahead_and_never_used_are_counted_as_read(store) -> None:
    reader = open_reader(store)
    updates = reader.updates(schedule().update_at(0, 0))
    for _ in range(2):
        next(updates)
    updates.close()
    assert reader.frames_used == 6000
    assert 6000 <= reader.frames_read <= 9000


def test_a_second_iteration_gives_the_same_frames_and_two_at_once_are_refused(store) -> None:
    reader = open_reader(store)
    first = read_all(reader)
    begun = reader.updates(schedule().update_at(0, 0))
    next(begun)
    with pytest.raises(RuntimeError, match="already"):
        next(reader.updates(schedule().update_at(0, 0)))
    begun.close()
    for one, two in zip(first, read_all(reader), strict=True):
        assert one[:2] == two[:2]
        assert torch.equal(one[2], two[2])


def test_a_stop_ends_reading_without_frames(store) -> None:
    world = alone()
    reader = UpdateReader(FeatureStore.open(store), schedule(), world, 2, lambda: True)
    given = list(reader.updates(schedule().update_at(0, 0)))
    assert [held for _, held in given] == [None]
    assert reader.frames_used == 0


def test_a_rank_selects_the_frames_that_it_holds_in_the_order_asked_for(store, line) -> None:
    rules = schedule()
    numbers = rules.step_frames(rules.update_at(0, 0), 0)
    parts = []
    for rank in range(2):
        _, held = next(open_reader(store, rank, 2).updates(rules.update_at(0, 0)))
        mine = numbers[(numbers >= held.start) & (numbers < held.stop)]
        assert isinstance(held, HeldFrames)
        assert torch.equal(held.select(numbers).float(), line[mine])
        parts.append(mine)
    assert sum(map(len, parts)) == len(numbers)
    assert min(map(len, parts)) > 0


def flip_a_byte(folder: Path) -> str:
    return flip_in_frames(folder, shard=2, utterance=5, byte=1001).name


def truncate(folder: Path) -> str:
    path = FeatureStore.open(folder).shards[1].path
    os.truncate(path, path.stat().st_size // 2)
    return path.name


def remove(folder: Path) -> str:
    path = FeatureStore.open(folder).shards[3].path
    path.unlink()
    return path.name


def swap(folder: Path) -> str:
    one, two = (shard.path for shard in FeatureStore.open(folder).shards[:2])
    shutil.copyfile(one, two)
    return two.name


@pytest.mark.parametrize("damage", [flip_a_byte, truncate, remove, swap])
@pytest.mark.parametrize("size", [1, 2])
def test_a_damaged_shard_is_never_given_to_anybody_but_named(damage, size, store_copy) -> None:
    name = damage(store_copy)
    rules = schedule(update_frames=8561, target_frames=8561)  # one epoch: some rank must meet it
    errors = []
    for rank in range(size):
        try:
            read_all(open_reader(store_copy, rank, size, rules), rules)
        except StoreError as error:
            errors.append(str(error))
    assert errors
    assert all(name in error for error in errors)


def test_an_update_draws_from_all_shards_where_recordings_stay_together(tmp_path: Path) -> None:
    options: dict[str, Any] = {"utterances_per_shard": 4, "shuffle_by": "recordings"}
    opened = FeatureStore.open(make_store(CORPUS, tmp_path / "store", **options))
    assert len(opened.shards) == 14
    update_frames = opened.num_frames // 3
    order = FrameOrder(opened.frames_per_shard, SEED, num_parts(opened, update_frames))
    shards = {part.shard for part in order.ranges(0, update_frames)}
    assert shards == set(range(14))


def test_shards_that_are_samples_of_the_corpus_are_read_whole(store: Path) -> None:
    assert num_parts(FeatureStore.open(store), 100) == 1

"""The endless line of frames: pure arithmetic, with every frame once an epoch."""

import numpy as np
import pytest

from gmmpipe.store.frame_order import FrameOrder

STORES = [[5], [3, 4, 2], [0, 3, 0, 0, 5, 1, 0], [1] * 9]


def frames(order: FrameOrder, start: int, stop: int) -> list[tuple[int, int]]:
    """The (shard, row) at each position; the ranges must fill the buffer without a gap."""
    found: list[tuple[int, int]] = []
    for part in order.ranges(start, stop):
        assert part.at == len(found)
        assert part.stop > part.start
        found += [(part.shard, row) for row in range(part.start, part.stop)]
    assert len(found) == stop - start
    return found


@pytest.mark.parametrize("num_parts", [1, 2, 5])
@pytest.mark.parametrize("counts", STORES)
def test_each_epoch_has_every_frame_once(counts: list[int], num_parts: int) -> None:
    order = FrameOrder(np.array(counts), 3, num_parts)
    everything = [(shard, row) for shard, count in enumerate(counts) for row in range(count)]
    assert order.epoch_frames == len(everything)
    for epoch in range(6):
        start = epoch * order.epoch_frames
        assert sorted(frames(order, start, start + order.epoch_frames)) == everything


@pytest.mark.parametrize("num_parts", [1, 3])
@pytest.mark.parametrize("counts", STORES)
def test_a_range_cut_anywhere_is_the_sum_of_its_parts(counts: list[int], num_parts: int) -> None:
    order = FrameOrder(np.array(counts), 5, num_parts)
    end = 3 * order.epoch_frames + 1
    whole = frames(order, 0, end)
    for start in range(0, end, 2):
        for stop in range(start, end + 1):
            assert frames(order, start, stop) == whole[start:stop]


def test_ranges_are_maximal() -> None:
    order = FrameOrder(np.array([1000, 2000, 0, 500]), seed=0)
    assert sorted(part.stop - part.start for part in order.ranges(0, 3500)) == [500, 1000, 2000]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    counts = np.arange(1, 31)

    def shards(seed: int, epoch: int) -> list[int]:
        order = FrameOrder(counts, seed)
        start = epoch * order.epoch_frames
        return [part.shard for part in order.ranges(start, start + order.epoch_frames)]

    assert shards(0, 1) == shards(0, 1)
    draws = {tuple(shards(seed, epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(draws) == 6


def test_positions_far_beyond_32_bits_are_exact() -> None:
    counts = np.array([3_000_000_000, 2_500_000_000])
    order = FrameOrder(counts, seed=0)
    start = 7 * order.epoch_frames + 2_999_999_999
    parts = list(order.ranges(start, start + 2_500_000_002))
    assert sum(part.stop - part.start for part in parts) == 2_500_000_002
    assert all(part.stop <= counts[part.shard] for part in parts)


def test_utterances_are_permuted_within_their_shard_anew_each_epoch() -> None:
    order = FrameOrder(np.array([500, 500]), seed=0)
    drawn = [order.utterance_order(e, s, 100).tolist() for e in range(3) for s in range(2)]
    assert all(sorted(each) == list(range(100)) for each in drawn)
    assert len({tuple(each) for each in drawn}) == 6


def test_each_pass_over_the_shards_takes_a_part_of_all() -> None:
    order = FrameOrder(np.array([100, 200, 300]), seed=0, num_parts=4)
    for number in range(4):
        parts = list(order.ranges(number * 150, number * 150 + 150))
        assert sorted((part.shard, part.stop - part.start) for part in parts) == [
            (0, 25),
            (1, 50),
            (2, 75),
        ]

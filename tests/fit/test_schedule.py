"""Which frames, and when: properties that hold for every position."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from gmmpipe.fitting.schedule import (
    LOSS_EVERY_STEPS,
    METRIC_FRAMES,
    SEEDING_FRAMES,
    Schedule,
    Update,
    crosses_multiple,
    is_loss_step,
)


def schedule(**changes: float) -> Schedule:
    values = {"seed": 3, "update_frames": 4000, "target_frames": 10_000, "steps_per_update": 50}
    return Schedule(**{**values, "frames_per_step": 512, **changes})


def updates(rules: Schedule) -> list[Update]:
    found, update = [], rules.update_at(0, 0)
    while update is not None:
        found.append(update)
        update = rules.after(update)
    return found


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize("num_frames", [0, 1, 5, 6, 4000, 4001, 5_000_000, 2**40 + 1])
def test_each_frame_of_an_update_is_of_exactly_one_rank(size, num_frames) -> None:
    update = Update(0, 10, 10 + num_frames, num_steps=1)
    slices = [update.rank_slice(rank, size) for rank in range(size)]
    assert slices[0][0] == 0
    assert slices[-1][1] == num_frames
    assert all(slices[rank][1] == slices[rank + 1][0] for rank in range(size - 1))
    lengths = [stop - start for start, stop in slices]
    assert max(lengths) - min(lengths) <= 1, "each rank reads only its own W-th"


@pytest.mark.parametrize("target", [1, 3999, 4000, 4001, 10_000, 12_000])
def test_updates_tile_the_line_up_to_the_target(target) -> None:
    found = updates(schedule(target_frames=target))
    assert [update.index for update in found] == list(range(len(found)))
    assert found[0].start == 0
    assert found[-1].stop == target
    assert all(one.stop == two.start for one, two in pairwise(found))
    assert all(update.num_frames == 4000 for update in found[:-1])


@pytest.mark.parametrize(
    ("target", "steps"), [(8000, 50), (8001, 1), (8079, 1), (8080, 1), (8081, 2), (10_000, 25)]
)
def test_a_short_last_update_takes_its_share_of_steps_rounded_up(target, steps) -> None:
    found = updates(schedule(target_frames=target))
    assert found[-1].num_steps == steps
    assert {update.num_steps for update in found[:2]} == {50}


def test_a_target_that_is_reached_leaves_nothing_to_do() -> None:
    assert schedule().update_at(10_000, 3) is None
    assert schedule().update_at(12_000, 3) is None


@pytest.mark.parametrize("steps", [2, 3, 50, 2000])
def test_progress_goes_from_0_to_1_in_every_update(steps) -> None:
    rules = schedule(steps_per_update=steps, target_frames=8000)
    for update in updates(rules):
        progress = [rules.progress(update, step) for step in range(update.num_steps)]
        assert (progress[0], progress[-1]) == (0, 1)
        assert progress == sorted(progress)


def test_a_short_last_update_has_the_end_of_a_whole_one() -> None:
    rules = schedule()
    first, _, last = updates(rules)
    skipped = first.num_steps - last.num_steps
    assert [rules.progress(last, step) for step in range(last.num_steps)] == [
        rules.progress(first, skipped + step) for step in range(last.num_steps)
    ]


def test_a_single_step_is_at_the_start_of_its_update() -> None:
    rules = schedule(steps_per_update=1, target_frames=4000)
    assert rules.progress(updates(rules)[0], 0) == 0


def test_steps_are_counted_over_all_updates() -> None:
    rules = schedule()
    counts = [
        rules.steps_before(update, step)
        for update in updates(rules)
        for step in range(update.num_steps)
    ]
    assert counts == list(range(125))
    assert rules.steps_before(Update(2**40, 0, 4000, 50), 7) == 50 * 2**40 + 7


@pytest.mark.parametrize("num_drawn", [1, 7, 3999, 4000, 4001, 100_000])
def test_a_step_draws_one_frame_of_each_equal_part_of_its_update(num_drawn) -> None:
    rules = schedule(frames_per_step=num_drawn)
    update = updates(rules)[0]
    drawn = rules.step_frames(update, 7)
    assert drawn.shape == (num_drawn,)
    assert drawn.dtype == np.int64
    edges = np.arange(num_drawn + 1) * 4000 / num_drawn
    assert (np.floor(edges[:-1]) <= drawn).all()
    assert (drawn < np.maximum(np.ceil(edges[1:]), 1)).all()


def test_every_frame_of_an_update_is_as_likely_in_a_step() -> None:
    rules = schedule(frames_per_step=300)
    update = updates(rules)[0]
    drawn = np.concatenate([rules.step_frames(update, step) for step in range(1000)])
    counts = np.bincount(drawn, minlength=4000)
    # 75 of each, with a standard deviation of 8.3; of 4000, none is 6 of them away.
    assert abs(counts - 75).max() < 50
    # Those that lie in two parts have a share of a chance in each: 75 too, +- 8.3 / sqrt(200).
    edges = np.arange(1, 300) * 4000 / 300
    in_two_parts = counts[edges[edges % 1 > 0].astype(int)]
    assert abs(in_two_parts.mean() - 75) < 3


@pytest.mark.parametrize("size", range(1, 8))
def test_each_rank_holds_its_share_of_every_step(size) -> None:
    rules = schedule(frames_per_step=1000)
    update = updates(rules)[0]
    for step in range(5):
        drawn = rules.step_frames(update, step)
        for rank in range(size):
            start, stop = update.rank_slice(rank, size)
            assert abs(((drawn >= start) & (drawn < stop)).sum() - 1000 / size) < 2


def test_the_frames_of_a_step_are_a_pure_function_of_seed_update_and_step() -> None:
    rules, other = schedule(), schedule(seed=4)
    first, second, _ = updates(rules)
    again = schedule().step_frames(first, 5)
    assert np.array_equal(rules.step_frames(first, 5), again)
    for different in (
        rules.step_frames(first, 6),
        rules.step_frames(second, 5),
        other.step_frames(first, 5),
    ):
        assert (different == again).mean() < 0.25  # a part has 7.8 frames to choose from


@pytest.mark.parametrize("kind", ["seeding_frames", "metric_frames"])
def test_samples_are_distinct_frames_of_the_update_and_bounded(kind) -> None:
    bound = {"seeding_frames": SEEDING_FRAMES, "metric_frames": METRIC_FRAMES}[kind]
    assert (SEEDING_FRAMES, METRIC_FRAMES) == (262_144, 50_000)
    for num_frames in (300, bound, bound + 1000):
        rules = schedule(update_frames=num_frames, target_frames=3 * num_frames)
        update = updates(rules)[1]
        sample = getattr(rules, kind)(update)
        assert len(sample) == len(np.unique(sample)) == min(num_frames, bound)
        assert sample.min() >= 0
        assert sample.max() < num_frames
        assert np.array_equal(sample, getattr(rules, kind)(update))
    assert not np.array_equal(sample, getattr(rules, kind)(updates(rules)[2]))


@pytest.mark.parametrize("done", [2**31 - 7, 2**31, 2**53 - 1, 2**53 + 1, 10**19])
def test_positions_beyond_what_narrow_numbers_hold_stay_exact(done) -> None:
    rules = schedule(update_frames=5_000_000, target_frames=done + 5_000_001, steps_per_update=2000)
    update = rules.update_at(done, done // 5_000_000)
    assert (update.start, update.stop) == (done, done + 5_000_000)
    last = rules.after(update)
    assert (last.start, last.stop, last.num_steps) == (done + 5_000_000, done + 5_000_001, 1)
    assert rules.after(last) is None
    drawn = rules.step_frames(update, 0)
    assert 0 <= drawn.min() <= drawn.max() < 5_000_000
    assert update.rank_slice(6, 7)[1] == 5_000_000


def test_the_most_frames_of_an_update_are_drawn_within_range() -> None:
    update = Update(0, 0, 50_000_000, 1)
    drawn = schedule(frames_per_step=1_000_000).step_frames(update, 0)
    assert drawn.max() > 49_999_000
    assert drawn.max() < 50_000_000


def test_the_loss_is_evaluated_at_the_first_step_and_at_least_every_fiftieth() -> None:
    evaluated = [step for step in range(2000) if is_loss_step(step)]
    assert evaluated[0] == 0
    assert max(np.diff(evaluated)) <= 50
    assert LOSS_EVERY_STEPS <= 50


@pytest.mark.parametrize(
    ("before", "after", "of", "expected"),
    [
        (0, 4, 5, False),
        (0, 5, 5, True),
        (5, 9, 5, False),
        (4, 16, 5, True),
        (5, 10, 5, True),
        (2**53, 2**53 + 1, 2**53 + 1, True),
    ],
)
def test_a_checkpoint_is_due_when_a_multiple_is_crossed(before, after, of, expected) -> None:
    assert crosses_multiple(before, after, of) is expected


def test_shares_of_steps_are_exact_at_the_scale_of_fifty_thousand_hours() -> None:
    rules = schedule(update_frames=50_000_000, target_frames=9_600_000_000, steps_per_update=2000)
    found = updates(rules)
    assert len(found) == 192
    assert sum(update.num_steps for update in found) == 192 * 2000
    assert (found[-1].stop, found[-1].num_steps) == (9_600_000_000, 2000)


def test_the_memory_of_the_samples_does_not_grow_with_the_update() -> None:
    update = schedule(update_frames=50_000_000, target_frames=50_000_000).update_at(0, 0)
    for draw in (Schedule.metric_frames, Schedule.seeding_frames):
        tracemalloc.start()
        numbers = draw(schedule(), update)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(numbers) < update.num_frames
        assert peak < 50e6, "a byte a frame; a permutation takes 16"

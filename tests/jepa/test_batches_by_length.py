"""JEPABatches by length: the guarantees of batches by count, and no step beyond its budget."""

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_same, load

from gmmpipe import FeatureStore
from gmmpipe.errors import OptionError
from gmmpipe.jepa import JEPABatches
from helpers.external import utterances, write

SIZES: dict[str, Any] = {"max_frames": 1500, "window": 20, "seed": 3}
"""30 s a step; 56 utterances in four shards and three pools."""


def test_every_utterance_comes_once_an_epoch_and_no_step_is_beyond_the_budget(store: Path) -> None:
    keys = sorted(utt.key for utt in FeatureStore.open(store).utterances())
    batches = JEPABatches(store, **SIZES)
    steps = batches.steps_per_epoch
    for epoch in (0, 1, 5):
        part = {"start_step": epoch * steps, "stop_step": (epoch + 1) * steps}
        here = load(JEPABatches(store, **SIZES, **part))
        assert sorted(key for batch in here for key in batch.keys) == keys
        assert all(batch.mask.numel() <= 1500 for batch in here)
    assert len(batches) == steps > 3


def test_seconds_are_frames(store: Path) -> None:
    by_frames = load(JEPABatches(store, **SIZES))
    sizes = {name: value for name, value in SIZES.items() if name != "max_frames"}
    assert_same(by_frames, load(JEPABatches(store, **sizes, max_seconds=30.01)))


def test_a_longer_utterance_is_a_step_of_its_own(store: Path) -> None:
    batches = load(JEPABatches(store, max_frames=1))
    assert [len(batch.keys) for batch in batches] == [1] * 56


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_ranks_share_the_same_steps_whatever_their_number(
    num_workers: int, world_size: int, store: Path
) -> None:
    stop = 2 * JEPABatches(store, **SIZES).steps_per_epoch
    whole = load(JEPABatches(store, **SIZES, stop_step=stop))
    for rank in range(world_size):
        ranked = {"rank": rank, "world_size": world_size, "stop_step": stop}
        parts = load(JEPABatches(store, **SIZES, **ranked), num_workers)
        assert [part.step for part in parts] == list(range(stop))
        for batch, part in zip(whole, parts, strict=True):
            assert part.keys == batch.keys[rank::world_size]
            width = part.mask.shape[1]
            assert torch.equal(part.features, batch.features[rank::world_size, :, :width])
            assert torch.equal(part.mask, batch.mask[rank::world_size, :width])


def test_any_step_can_be_the_first(store: Path, gmm_path: Path) -> None:
    stop = 2 * JEPABatches(store, **SIZES).steps_per_epoch + 1
    whole = load(JEPABatches(store, gmm_path, **SIZES, top_k=2, stop_step=stop))
    for start in range(stop + 1):
        part = {"top_k": 2, "start_step": start, "stop_step": stop}
        rest = load(JEPABatches(store, gmm_path, **SIZES, **part), start % 2)
        assert_same(whole[start:], rest)


@pytest.mark.parametrize("dim", [1, 2048])
def test_frames_of_any_dimension_have_a_length(dim: int, tmp_path: Path) -> None:
    store = write(tmp_path / "store", dim)
    batches = load(JEPABatches(store, max_seconds=2))
    assert sorted(key for batch in batches for key in batch.keys) == sorted(dict(utterances(dim)))
    assert all(batch.mask.numel() <= 100 for batch in batches)
    assert batches[0].features.shape[1] == dim


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 4, "max_frames": 100}, "batch_size and max_frames are given"),
        ({"max_seconds": 4.0, "max_frames": 100}, "max_seconds and max_frames are given"),
        ({"max_frames": 0}, "max_frames is 0, but must be at least 1"),
        ({"max_seconds": 0.01}, r"max_seconds is 0\.01, but must be at least 0\.02"),
        ({"max_seconds": float("nan")}, "max_seconds is nan"),
        ({"max_seconds": float("inf")}, "max_seconds is inf"),
        ({"max_frames": 600, "world_size": 57}, "of 600 frames come to .* too few for 57 ranks"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(options, message, store) -> None:
    with pytest.raises(OptionError, match=message):
        JEPABatches(store, **options)
